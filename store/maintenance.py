"""What is done to a store as a whole: naming states, going back to them, compacting, and removing what nobody needs."""

from __future__ import annotations

import numpy as np

from store import history
from store.errors import TagExistsError
from store.flushing import Flusher
from store.following import Follower
from store.generations import VERSION, Generation, read_generation, write_generation
from store.layout import Layout, Manifest, generation_name, move_current, read_current
from store.replica import Replica
from store.state import State, load_tagged, next_number, remove_unneeded, unneeded
from store.tags import Tag, check_tag_name, read_tag, tag_file, write_tag

GRACE_S = 24 * 3600.0
"""An unfinished segment that nobody has touched for so long is a dead writer's."""


class Maintenance:
    """Operations on the whole store, through one handle. What they promise is said where people call them: FitStore."""

    def __init__(self, replica: Replica, follower: Follower, flusher: Flusher) -> None:
        self._replica = replica
        self._follower = follower
        self._flusher = flusher

    @property
    def _layout(self) -> Layout:
        return self._replica.layout

    @property
    def _manifest(self) -> Manifest:
        return self._replica.manifest

    def tag(self, name: str) -> Tag:
        check_tag_name(name)
        replica = self._replica
        with replica.disk, self._layout.files.exclusive():
            while True:
                self._flusher.flush()
                self._follower.refresh()
                number = replica.state.generation.number
                segments = tuple(sorted(replica.state.infos))
                tag = Tag(name, number, segments, replica.clock(), replica.writer)
                if not write_tag(self._layout, tag):
                    if read_tag(self._layout, name) == tag:
                        return tag
                    raise TagExistsError(
                        f"{self._layout.location}: tag {name!r} names another state; choose another name"
                    )
                if read_current(self._layout) == number:
                    return tag
                self._layout.files.remove(tag_file(name))

    def untag(self, name: str) -> None:
        with self._replica.disk, self._layout.files.exclusive():
            read_tag(self._layout, name)
            self._layout.files.remove(tag_file(name))

    def restore(self, tag: str) -> None:
        replica, layout = self._replica, self._layout
        with replica.disk, layout.files.exclusive():
            state = load_tagged(layout, self._manifest, read_tag(layout, tag))
            while True:
                old = read_current(layout)
                before = read_generation(layout, old, fingerprint=self._manifest.fingerprint)
                number = next_number(layout)
                entry = history.entry("restore", replica.writer, replica.clock(), generation=number, tag=tag)
                entries, runs = (*before.history, entry), state.runs | dict(before.runs)
                restored = State(
                    Generation(number, number, frozenset(), entries, runs),
                    state.table,
                    set(),
                    runs=dict(runs),
                )
                if self._make_current(restored, old):
                    break
            replica.go_back(restored)
            self._clean()

    def compact(self, *, force: bool = False) -> int:
        replica = self._replica
        with replica.disk, self._layout.files.exclusive():
            while True:
                self._flusher.flush()
                self._follower.refresh()
                old, state = replica.state.generation, replica.state
                if not state.infos and old.version == VERSION and not force:
                    break
                number = next_number(self._layout)
                entries = history.of_compaction(state.infos, replica.writer, replica.clock(), number)
                absorbed, runs = frozenset(state.names), dict(state.runs)
                generation = Generation(number, old.line, absorbed, (*old.history, *entries), runs)
                compacted = State(generation, state.table, state.names, runs=state.runs)
                if self._make_current(compacted, old.number):
                    replica.adopt(compacted)
                    break
            self._clean()
        return replica.state.generation.number

    def gc(self, *, dry_run: bool, grace_s: float) -> list[str]:
        with self._replica.disk, self._layout.files.exclusive():
            self._follower.refresh()
            if dry_run:
                leftovers = self._layout.files.leftovers(grace_s)
                return unneeded(self._layout, self._replica.state.generation) + leftovers
            return self._clean(grace_s)

    def _make_current(self, state: State, old: int) -> bool:
        """Writes a state as its generation and makes that current, if `old` still is; says whether."""

        def rows_of(part: slice) -> np.ndarray:
            with self._replica.memory:
                return state.table.rows[part].copy()

        write_generation(
            self._layout,
            state.generation,
            samples=self._manifest.samples,
            fingerprint=self._manifest.fingerprint,
            rows_of=rows_of,
        )
        number = state.generation.number
        moved = move_current(self._layout, old, number)
        if not moved:
            self._layout.files.remove_tree(generation_name(number))
        return moved

    def _clean(self, grace_s: float = GRACE_S) -> list[str]:
        """Removes what nobody needs. The caller holds the store's lock."""
        files = self._layout.files
        removed = remove_unneeded(self._layout, self._replica.state.generation)
        leftovers = files.leftovers(grace_s)
        for name in leftovers:
            files.discard(name)
        return removed + leftovers
