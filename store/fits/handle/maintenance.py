"""Operations on a whole store: tag, restore, compact, and remove unneeded files."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from store.errors import TagExistsError
from store.fits import log
from store.fits.format.generations import Generation, write_generation
from store.fits.format.layout import (
    Layout,
    Manifest,
    claim_generation,
    generation_name,
    inventory_name,
    move_current,
    read_current,
)
from store.fits.format.segments import SegmentInfo
from store.fits.format.state import State, current_generation, load_tagged
from store.fits.format.tags import Tag, check_tag_name, pinned, read_tag, tag_file, write_tag
from store.fits.handle.garbage import remove_unneeded, unneeded
from store.fits.handle.memory import Replica
from store.fits.handle.reader import Follower
from store.fits.handle.writer import Flusher
from store.fits.records import ROW
from store.fits.table import FitTable

GRACE_S = 24 * 3600.0
"""An unfinished file that was not touched for this long belongs to a dead writer."""

RECORDS_PER_SEGMENT = 1000
"""Opening a segment takes as long as reading this many records."""
WORTH_COMPACTING = 500_000
"""Records: fewer are opened quickly, however few the generation holds."""
_ROWS_AT_ONCE = 4096
"""Records that are copied at once: lookups wait for as long."""


def worth_compacting(segments: int, records: int, samples: int) -> bool:
    """Return whether reading the segments takes twice as long as reading the generation, and is not quick.

    Compacting writes as much as all samples have, so bytes written per update stay within a factor however many updates come.
    """
    return records + RECORDS_PER_SEGMENT * segments > max(2 * samples, WORTH_COMPACTING)


class Maintenance:
    """Operations on the whole store, through one handle. FitStore documents what they promise."""

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
        with replica.maintenance, self._layout.files.exclusive(), replica.disk:
            while True:
                self._flusher.flush()
                self._follower.refresh()
                number = replica.state.generation.number
                segments = tuple(sorted(replica.state.infos))
                tag = Tag(name, number, segments, replica.clock(), replica.writer)
                with pinned(self._layout, tag) as still_pinned:
                    # Nothing of it was removed before it was pinned if it is still current.
                    if read_current(self._layout) != number:
                        continue
                    if not write_tag(self._layout, tag):
                        if read_tag(self._layout, name) == tag:
                            return tag
                        raise TagExistsError(f"{self._layout.location}: tag {name!r} names another state; choose another name")
                    if still_pinned():
                        return tag
                    self._layout.files.remove(tag_file(name))

    def untag(self, name: str) -> None:
        with self._replica.maintenance, self._layout.files.exclusive():
            read_tag(self._layout, name)
            self._layout.files.remove(tag_file(name))

    def restore(self, tag: str) -> None:
        replica, layout = self._replica, self._layout
        with replica.maintenance, layout.files.exclusive(), replica.disk:
            state = load_tagged(layout, self._manifest, read_tag(layout, tag))
            while True:
                before = current_generation(layout, self._manifest.fingerprint)
                restored = self._restored(state, tag, before)
                if restored is not None:
                    break
            replica.go_back(restored)
            self._tidy()

    def _restored(self, state: State, tag: str, before: Generation) -> State | None:
        """Make a tagged state current in place of `before`. Return None if that is no longer current."""
        number = claim_generation(self._layout, before.number)
        if number is None:
            return None
        replica = self._replica
        entry = log.entry("restore", replica.writer, replica.clock(), generation=number, tag=tag)
        entries, runs = (*before.history, entry), state.runs | dict(before.runs)
        generation = Generation(number, number, frozenset(), entries, runs)
        if not self._make_current(generation, state.table, before.number):
            return None
        return State(generation, state.table, set(), runs=dict(runs))

    def compact(self, *, force: bool) -> int:
        with self._replica.maintenance, self._layout.files.exclusive():
            self._compact(force)
            self._tidy()
        return self._replica.state.generation.number

    def _compact(self, force: bool) -> None:
        replica = self._replica
        while True:
            with replica.disk:
                self._flusher.flush()
                self._follower.refresh()
                state = replica.state
                infos, absorbed = dict(state.infos), frozenset(state.names)
            if not infos and not force:
                return
            # Other threads may flush now, as other processes do: what they write is not absorbed, and still counts.
            generation = self._compacted(state, infos, absorbed)
            if generation is not None:
                with replica.disk:
                    if replica.state is state:  # else it has been read again already
                        since = {name: info for name, info in state.infos.items() if name not in absorbed}
                        replica.adopt(State(generation, state.table, state.names, since, state.runs))
                return

    def _compacted(
        self, state: State, infos: dict[str, tuple[SegmentInfo, int]], absorbed: frozenset[str]
    ) -> Generation | None:
        """Make a state current as one generation. Return None if its generation is no longer current."""
        old = state.generation
        number = claim_generation(self._layout, old.number)
        if number is None:
            return None
        entries = log.of_compaction(infos, self._replica.writer, self._replica.clock(), number)
        generation = Generation(number, old.line, absorbed, (*old.history, *entries), dict(state.runs))
        return generation if self._make_current(generation, state.table, old.number) else None

    def gc(self, *, dry_run: bool, grace_s: float) -> list[str]:
        with self._replica.maintenance, self._layout.files.exclusive():
            self._follower.refresh()
            files, generation = self._layout.files, self._replica.state.generation
            abandoned = [name for name in files.stale_claims(grace_s) if name > generation_name(generation.number)]
            if dry_run:
                return unneeded(self._layout, generation).names + abandoned + files.leftovers(grace_s)
            if abandoned:
                # Their writers may only be slow; but once CURRENT has moved past them, they can't become current.
                self._compact(force=True)
            return self._clean(grace_s)

    def _make_current(self, generation: Generation, table: FitTable, old: int) -> bool:
        """Write records as a generation, make it current if `old` still is, and return whether it did."""

        def rows_of(part: slice) -> np.ndarray:
            rows = np.empty(part.stop - part.start, ROW)
            for start in range(part.start, part.stop, _ROWS_AT_ONCE):
                some = slice(start, min(start + _ROWS_AT_ONCE, part.stop))
                with self._replica.memory:
                    rows[some.start - part.start : some.stop - part.start] = table.rows[some]
            return rows

        layout, number, fingerprint = self._layout, generation.number, self._manifest.fingerprint
        write_generation(layout, generation, samples=self._manifest.samples, fingerprint=fingerprint, rows_of=rows_of)
        if move_current(layout, old, number):
            return True
        current = read_current(layout)
        if current < number:
            # It was never current, and only this handle could make it so.
            layout.files.remove_tree(generation_name(number), inventory_name(number))
            return False
        # Perhaps only the answer was lost, and others have continued from it.
        past = current_generation(layout, fingerprint).history
        return any(entry.get("generation") == number for entry in past)

    def _tidy(self) -> None:
        """Clean up after a finished operation: a file that can't be removed now is left for the next time."""
        with suppress(OSError):
            self._clean()

    def _clean(self, grace_s: float = GRACE_S) -> list[str]:
        """Remove unneeded files and leftovers, and return their names."""
        files = self._layout.files
        removed = remove_unneeded(self._layout, self._replica.state.generation)
        leftovers = files.leftovers(grace_s)
        for name in leftovers:
            files.discard(name)
        return removed + leftovers
