"""The fit store: the best body found for each training sample, durable, in a local folder.

What is promised, and when:
- merge() changes memory only. flush() returns once every update merged before it was called survives the loss of the
  process and of the machine's power. tag(), reset() and compact() flush first; restore() gives up what is pending.
- Several processes may hold the store open and flush at the same time;
  each sees the others' updates when it opens, refreshes, tags, resets or compacts. A handle may be used by several threads:
  get() and merge() never wait for the disk.
- Whatever is killed at whatever moment, the store opens to the state before or after the interrupted operation. A flush
  of more than 65,536 records is several segments, of which some may be there; merging the same updates again is harmless.
- A reset retracts the fits it finds: an update that was begun before it, with a record of before it, can't undo it,
  however good it looks and however late it comes (see store.merge).
- A restore begins a new line of history: updates flushed by others through handles opened before it are
  refused with StaleWriterError, and segments that were late do not come back.
- An error in an operation leaves the store as it was, and the handle with everything still pending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from store import history
from store.errors import FitStoreExistsError, RecordError, StaleWriterError, StoreError, TagExistsError
from store.files import Files, open_files
from store.fingerprint import Fingerprint, require_same
from store.generations import VERSION, Generation, read_generation, write_generation
from store.layout import (
    CURRENT,
    MANIFEST,
    Layout,
    Manifest,
    current_line,
    generation_name,
    move_current,
    read_current,
    read_manifest,
)
from store.merge import retractions
from store.provenance import now_ms, run_code
from store.records import Fits, empty_rows, take_rows
from store.segments import MERGE, RESET, ROWS_PER_SEGMENT, SegmentInfo, check_writer, write_segment
from store.state import (
    State,
    load_current,
    load_tagged,
    next_number,
    read_segments,
    remove_unneeded,
    unneeded,
)
from store.table import FitTable
from store.tags import Tag, check_tag_name, read_tag, tag_file, tag_names, write_tag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Int64, Integer

GRACE_S = 24 * 3600.0
"""An unfinished segment that nobody has touched for so long is a dead writer's."""


class FitSnapshot:
    """A tagged state, read-only, in memory."""

    def __init__(self, tag: Tag, fingerprint: Fingerprint, state: State) -> None:
        self.tag = tag
        self.fingerprint = fingerprint
        self.runs: Mapping[int, str] = state.runs
        self._table = state.table

    @property
    def samples(self) -> int:
        return len(self._table)

    @property
    def fits(self) -> Fits:
        """All records, not copied: to be read only."""
        return self._table.fits

    def get(self, ids: Integer[np.ndarray, "k"]) -> Fits:
        """Copies of the records of these samples, in the tagged state. Raises SampleIdError."""
        return self._table.get(ids)

    def summary(self) -> dict:
        """As FitStore.summary, of the tagged state."""
        return {
            **self._table.summary(),
            "generation": self.tag.generation,
            "segments": len(self.tag.segments),
        }


class FitStore:
    """One record per sample (see store.records), durable and in memory.

    Made by create, open, open_or_create.
    """

    def __init__(
        self, layout: Layout, manifest: Manifest, state: State, writer: str, clock: Callable[[], int]
    ) -> None:
        self._layout = layout
        self._manifest = manifest
        self._writer = writer
        self._clock = clock
        self._state = state
        self._pending = np.zeros(manifest.samples, bool)
        self._in_flight = 0
        # The generation last seen to be of this handle's line.
        self._line_seen_at: int | None = None
        # Memory; and, taken before it, whatever is done to files: one thing at a time.
        self._memory = threading.RLock()
        self._disk = threading.RLock()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        samples: int,
        fingerprint: Fingerprint,
        writer: str | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> FitStore:
        """Make an empty store of `samples` records in a new or empty folder.

        Raises FitStoreExistsError, RecordError.
        """
        if samples < 1:
            raise RecordError(f"{path}: a fit store needs at least one sample, found {samples}")
        files, manifest = open_files(path), Manifest(samples, fingerprint)

        def fill(inside: Files) -> None:
            _begin(inside, manifest, clock())
            inside.write(MANIFEST, manifest.to_bytes())

        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            files.write_root(fill)
        except FileExistsError as error:
            raise FitStoreExistsError(
                f"{path} is not empty; name a new folder, or open the store that is there"
            ) from error
        return cls.open(path, writer=writer, clock=clock)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        fingerprint: Fingerprint | None = None,
        writer: str | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> FitStore:
        """Open a store; `writer` is a name for this handle's segment files. Stores of earlier versions open, too; the next
        compaction writes them in today's.

        Raises FitStoreNotFoundError; FingerprintMismatchError if `fingerprint` is given and is not the
        store's; CorruptSegmentError or CorruptGenerationError, naming the file; FormatVersionError;
        UnusableNameError.
        """
        files = open_files(path)
        layout = Layout(files)
        manifest = read_manifest(layout)
        if fingerprint is not None:
            require_same(manifest.fingerprint, fingerprint, where=str(path))
        state = load_current(layout, manifest)
        return cls(layout, manifest, state, check_writer(writer or "writer"), clock)

    @classmethod
    def open_or_create(
        cls, path: str | Path, *, samples: int, fingerprint: Fingerprint, writer: str | None = None
    ) -> FitStore:
        """Open the store, or make it.

        Raises as open and create do, and RecordError if it holds other samples.
        """
        files = open_files(path)
        if not files.exists(MANIFEST):
            try:
                return cls.create(path, samples=samples, fingerprint=fingerprint, writer=writer)
            except FitStoreExistsError:
                # Another process may have made it meanwhile.
                if not files.exists(MANIFEST):
                    raise
        store = cls.open(path, fingerprint=fingerprint, writer=writer)
        if store.samples != samples:
            raise RecordError(f"{path}: the store has {store.samples} samples, expected {samples}")
        return store

    @property
    def location(self) -> str:
        """The folder."""
        return self._layout.location

    @property
    def path(self) -> Path:
        """The folder of a local store."""
        return Path(self._layout.location)

    @property
    def samples(self) -> int:
        return self._manifest.samples

    @property
    def fingerprint(self) -> Fingerprint:
        return self._manifest.fingerprint

    @property
    def pending(self) -> int:
        """The number of records that changed and are not yet durable."""
        with self._memory:
            return int(np.count_nonzero(self._pending)) + self._in_flight

    @property
    def segments(self) -> int:
        """The number of segments that opening the store would read."""
        return len(self._state.infos)

    @property
    def segment_records(self) -> int:
        """The number of records in them."""
        return sum(records for _, records in list(self._state.infos.values()))

    @property
    def runs(self) -> Mapping[int, str]:
        """Names of the runs that fits came from, by the codes in the column `run`."""
        return dict(self._state.runs)

    @property
    def fits(self) -> Fits:
        """All records as this handle knows them, not copied: to be read only, while nobody merges."""
        return self._state.table.fits

    def get(self, ids: Integer[np.ndarray, "k"]) -> Fits:
        """Copies of the records of these samples, as this handle knows them. Raises SampleIdError."""
        with self._memory:
            return self._state.table.get(ids)

    def merge(self, ids: Integer[np.ndarray, "k"], fits: Fits) -> Bool[np.ndarray, "k"]:
        """Offer records; True where an offer became the sample's record. In memory only, until flush.

        Raises SampleIdError, RecordError. Inadmissible offers are not accepted (see
        store.records.admissible), nor are those of an epoch before their sample's.
        """
        return self.offer(ids, fits)[0]

    def offer(self, ids: Integer[np.ndarray, "k"], fits: Fits) -> tuple[Bool[np.ndarray, "k"], float]:
        """As merge; says also by how much scores fell in all."""
        with self._memory:
            merged = self._state.table.merge(ids, fits)
            self._pending[merged.changed] = True
        return merged.accepted, merged.gained

    def name_run(self, name: str) -> int:
        """The code for the column `run` of fits that this run makes; what it means is stored with them."""
        code = run_code(name)
        if name:
            with self._memory:
                self._state.runs[code] = name
        return code

    def flush(self) -> int:
        """Make everything merged so far durable; returns the number of records written.

        Raises StaleWriterError if the store was restored meanwhile, OSError if the disk refuses. After an
        error what was not written is still pending.
        """
        written = 0
        with self._disk:
            ids = np.flatnonzero(self._pending)
            for start in range(0, len(ids), ROWS_PER_SEGMENT):
                written += self._flush_some(ids[start : start + ROWS_PER_SEGMENT])
        return written

    def _flush_some(self, ids: Int64[np.ndarray, "k"]) -> int:
        with self._memory:
            rows = take_rows(self._state.table.rows, ids)
            # What is merged while this is written is pending again.
            self._pending[ids] = False
            self._in_flight = len(ids)
        try:
            self._write_segment(ids, rows, MERGE)
        except BaseException:
            with self._memory:
                self._pending[ids] = True
            raise
        finally:
            self._in_flight = 0
        return len(ids)

    def _write_segment(
        self, ids: Int64[np.ndarray, "k"], rows: np.ndarray, operation: str, where: str = ""
    ) -> None:
        runs = {code: name for code, name in self.runs.items() if (rows["run"] == np.uint64(code)).any()}
        info = SegmentInfo(operation, self._writer, self._clock(), where, runs)
        while True:
            number = self._current_in_line()
            try:
                name = write_segment(
                    self._layout, number, fingerprint=self.fingerprint, info=info, ids=ids, rows=rows
                )
                break
            except FileNotFoundError:
                # A compaction moved on and removed the empty folder of the generation before.
                if read_current(self._layout) == number:
                    raise
        # A restore that came before the segment did has left it behind; one that comes later undoes it
        # knowingly.
        self._current_in_line()
        with self._memory:
            self._state.note(name, info, len(ids))

    def refresh(self) -> None:
        """Take in what other handles made durable.

        Raises StaleWriterError if the store was restored and this handle has pending updates; else as open
        does. A compaction by another handle is read whole, so memory holds two states for a moment.
        """
        with self._disk:
            while True:
                number = read_current(self._layout)
                if number != self._state.generation.number:
                    self._follow()
                    continue
                listed = set(self._layout.segment_names(self._state.generation.line, number))
                new = sorted(listed - self._state.names)
                try:
                    for name, segment in read_segments(self._layout, self._manifest, new):
                        with self._memory:
                            self._state.absorb(name, segment)
                except (StoreError, OSError):
                    if read_current(self._layout) == number:
                        raise
                    continue
                if read_current(self._layout) == number:
                    self._state.names &= listed
                    return

    def reset(self, ids: Integer[np.ndarray, "k"], *, where: str = "") -> int:
        """Retract the fits of these samples, durably: they are without a fit until one is offered that was begun afterwards.

        `where` says why, for the log (see store.expressions for ids by an expression). Returns how many had a fit.
        Raises as flush and refresh do.
        """
        with self._disk:
            self.flush()
            self.refresh()
            with self._memory:
                ids = np.unique(ids)
                known = self.get(ids)
            fitted = known.source != 0
            chosen, fits = ids[fitted], retractions(known.epoch[fitted])
            for start in range(0, len(chosen), ROWS_PER_SEGMENT):
                part = slice(start, start + ROWS_PER_SEGMENT)
                self._write_segment(chosen[part], fits.take(part).to_rows(), RESET, where)
            with self._memory:
                # Durable already. What was merged meanwhile is pending, and loses here as it will elsewhere.
                self._state.table.merge(chosen, fits)
        return len(chosen)

    def tag(self, name: str) -> Tag:
        """Flush, and name the store's state. A tag of that name must not exist, or must mean the same state.

        Raises TagExistsError, UnusableNameError, and what flush and refresh raise.
        """
        check_tag_name(name)
        with self._disk, self._layout.files.exclusive():
            while True:
                self.flush()
                self.refresh()
                number = self._state.generation.number
                tag = Tag(name, number, tuple(sorted(self._state.infos)), self._clock(), self._writer)
                if not write_tag(self._layout, tag):
                    if read_tag(self._layout, name) == tag:
                        return tag
                    raise TagExistsError(
                        f"{self.location}: tag {name!r} names another state; choose another name"
                    )
                if read_current(self._layout) == number:
                    return tag
                self._layout.files.remove(tag_file(name))

    def untag(self, name: str) -> None:
        """Remove a tag; what it alone needed goes with the next compaction or collection. Raises TagNotFoundError."""
        with self._disk, self._layout.files.exclusive():
            read_tag(self._layout, name)
            self._layout.files.remove(tag_file(name))

    def tags(self) -> list[str]:
        """The names of all tags, sorted."""
        return tag_names(self._layout)

    def at(self, tag: str) -> FitSnapshot:
        """The state that a tag names.

        Raises TagNotFoundError, CorruptSegmentError, CorruptGenerationError.
        """
        pinned = read_tag(self._layout, tag)
        return FitSnapshot(pinned, self.fingerprint, load_tagged(self._layout, self._manifest, pinned))

    def restore(self, tag: str) -> None:
        """Make the tagged state the current one, durably; this handle's pending updates are given up.

        Tags stay valid. Raises as at() does; then nothing has changed.
        """
        with self._disk, self._layout.files.exclusive():
            state = load_tagged(self._layout, self._manifest, read_tag(self._layout, tag))
            while True:
                old = read_current(self._layout)
                before = read_generation(self._layout, old, fingerprint=self.fingerprint)
                number = next_number(self._layout)
                entry = history.entry("restore", self._writer, self._clock(), generation=number, tag=tag)
                generation = Generation(
                    number, number, frozenset(), (*before.history, entry), state.runs | dict(before.runs)
                )
                self._write(generation, state.table)
                if move_current(self._layout, old, number):
                    break
                self._layout.files.remove_tree(generation_name(number))
            with self._memory:
                self._pending[:] = False
                self._adopt(State(generation, state.table, set(), runs=dict(generation.runs)))
            self._clean()

    def compact(self, *, force: bool = False) -> int:
        """Flush, write the state as the next generation, and remove what is no longer needed. Changes no
        answer; get() and merge() go on meanwhile, flush() waits.

        Returns the current generation's number: the old one if there was no segment to absorb, unless it was
        written by an earlier version, or `force` is set.
        """
        with self._disk, self._layout.files.exclusive():
            while True:
                self.flush()
                self.refresh()
                old = self._state.generation
                if not self._state.infos and old.version == VERSION and not force:
                    break
                number = next_number(self._layout)
                entries = history.of_compaction(self._state.infos, self._writer, self._clock(), number)
                generation = Generation(
                    number,
                    old.line,
                    frozenset(self._state.names),
                    (*old.history, *entries),
                    dict(self._state.runs),
                )
                self._write(generation, self._state.table)
                if move_current(self._layout, old.number, number):
                    with self._memory:
                        table, names = self._state.table, self._state.names
                        self._adopt(State(generation, table, names, runs=dict(self._state.runs)))
                    break
                self._layout.files.remove_tree(generation_name(number))
            self._clean()
        return self._state.generation.number

    def gc(self, *, dry_run: bool = False, grace_s: float = GRACE_S) -> list[str]:
        """Remove what neither the state nor a tag needs, and unfinished files that nobody has touched for `grace_s`.

        Returns the names of what was, or with `dry_run` would be, removed. compact() does as much by itself.
        """
        with self._disk, self._layout.files.exclusive():
            self.refresh()
            leftovers = self._layout.files.leftovers(grace_s)
            if dry_run:
                return unneeded(self._layout, self._state.generation) + leftovers
            return self._clean(grace_s)

    def log(self) -> list[dict[str, Any]]:
        """What was done to the store, oldest first: 'operation', 'time_ms' (0 if not known), 'writer', and what belongs to
        the operation. Segments that a compaction has absorbed are counted in its entry."""
        with self._disk:
            self.refresh()
            tags = [read_tag(self._layout, name) for name in self.tags()]
            return history.of_store(self._state.generation, self._state.infos, tags)

    def summary(self) -> dict:
        """samples, sources (counts by name), loss_percentiles_px2, generation, segments, pending (counts)."""
        with self._memory:
            return {
                **self._state.table.summary(),
                "generation": self._state.generation.number,
                "segments": self.segments,
                "pending": self.pending,
            }

    def _write(self, generation: Generation, table: FitTable) -> None:
        def rows_of(part: slice) -> np.ndarray:
            with self._memory:
                return table.rows[part].copy()

        write_generation(
            self._layout,
            generation,
            samples=self.samples,
            fingerprint=self.fingerprint,
            rows_of=rows_of,
        )

    def _clean(self, grace_s: float = GRACE_S) -> list[str]:
        """Remove what nobody needs. The caller holds the store's lock."""
        files = self._layout.files
        removed = remove_unneeded(self._layout, self._state.generation)
        leftovers = files.leftovers(grace_s)
        for name in leftovers:
            files.discard(name)
        return removed + leftovers

    def _adopt(self, state: State) -> None:
        self._state = state
        self._line_seen_at = None

    def _follow(self) -> None:
        """Another handle compacted or restored: read the current state, and keep what is pending here."""
        state = load_current(self._layout, self._manifest)
        with self._memory:
            ids = np.flatnonzero(self._pending)
            if len(ids):
                if state.generation.line != self._state.generation.line:
                    raise self._stale()
                self._pending[:] = False
                self._pending[state.table.merge(ids, self._state.table.get(ids)).changed] = True
            state.runs |= self._state.runs
            self._adopt(state)

    def _current_in_line(self) -> int:
        """The current generation's number.

        Raises StaleWriterError if it is of another line than this handle.
        """
        while True:
            number = read_current(self._layout)
            if number == self._line_seen_at:
                return number
            try:
                generation = read_generation(self._layout, number, fingerprint=self.fingerprint)
            except StoreError:
                if read_current(self._layout) == number:
                    raise
                continue
            if generation.line != self._state.generation.line:
                raise self._stale()
            # Whoever moved CURRENT may not have made that durable yet; updates written against it must not
            # be ahead.
            self._layout.files.sync()
            self._line_seen_at = number

    def _stale(self) -> StaleWriterError:
        return StaleWriterError(
            f"{self.location}: the store was restored to a tag while it was open here; {self.pending} pending "
            "updates belong to the state before and are not written; open the store again"
        )


def _begin(files: Files, manifest: Manifest, time_ms: int) -> None:
    """Writes generation 0 of a new store and makes it current."""
    layout = Layout(files)
    entry = history.entry("create", "", time_ms, generation=0, samples=manifest.samples)
    write_generation(
        layout,
        Generation(0, 0, frozenset(), (entry,)),
        samples=manifest.samples,
        fingerprint=manifest.fingerprint,
        rows_of=lambda part: empty_rows(part.stop - part.start),
    )
    files.create(CURRENT, current_line(0))
