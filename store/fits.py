"""The fit store: the best body found for each training sample, durable, on a local folder.

What is promised, and when:
- merge() changes memory only. flush() returns once every update merged so far survives the loss of the process and
  of the machine's power. tag() and compact() flush first; restore() gives up what is pending.
- Several processes may hold the store open and flush at the same time; each sees the others' updates when it
  opens, refreshes, tags or compacts. A handle itself is for one thread.
- Whatever is killed at whatever moment, the store opens to the state before or after the interrupted
  operation.
- A restore begins a new line of history: updates flushed by others through handles opened before it are
  refused with StaleWriterError, and segments that were late do not come back.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from store.durable import locked, sync_folder, write_folder
from store.errors import (
    FitStoreExistsError,
    RecordError,
    StaleWriterError,
    StoreError,
    TagExistsError,
)
from store.fingerprint import Fingerprint, require_same
from store.generations import read_generation, write_generation
from store.layout import (
    Layout,
    Manifest,
    read_current,
    read_manifest,
    write_current,
    write_manifest,
)
from store.records import Fits
from store.segments import check_writer, write_segment
from store.state import State, load_current, load_tagged, merge_segments, next_number, remove_unneeded
from store.table import FitTable
from store.tags import Tag, check_tag_name, read_tag, tag_names, write_tag

if TYPE_CHECKING:
    from jaxtyping import Bool, Integer


class FitSnapshot:
    """A tagged state, read-only, in memory."""

    def __init__(self, tag: Tag, fingerprint: Fingerprint, table: FitTable) -> None:
        self.tag = tag
        self.fingerprint = fingerprint
        self._table = table

    @property
    def samples(self) -> int:
        return len(self._table)

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
    """One record per sample (see store.records), on a local folder and in memory.

    Made by create, open, open_or_create.
    """

    def __init__(self, layout: Layout, manifest: Manifest, state: State, writer: str) -> None:
        self._layout = layout
        self._manifest = manifest
        self._writer = writer
        self._pending = np.zeros(manifest.samples, bool)
        self._generation = state.generation
        self._table = state.table
        # The segments of this line that memory contains; and the generation last seen to be of this line.
        self._names = set(state.names)
        self._line_seen_at: int | None = None

    @classmethod
    def create(
        cls, path: str | Path, *, samples: int, fingerprint: Fingerprint, writer: str | None = None
    ) -> FitStore:
        """Make an empty store of `samples` records in a new or empty folder.

        Raises FitStoreExistsError, RecordError.
        """
        layout, manifest = Layout(Path(path)), Manifest(samples, fingerprint)
        if samples < 1:
            raise RecordError(f"{path}: a fit store needs at least one sample, found {samples}")

        def fill(folder: Path) -> None:
            new = Layout(folder)
            for part in (new.generations, new.segments, new.tags):
                part.mkdir()
            write_generation(new, 0, line=0, absorbed=(), fits=Fits.empty(samples), fingerprint=fingerprint)
            write_current(new, 0)
            write_manifest(new, manifest)

        layout.root.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_folder(layout.root, fill)
        except FileExistsError as error:
            raise FitStoreExistsError(
                f"{path} is not empty; name a new folder, or open the store that is there"
            ) from error
        return cls.open(path, writer=writer)

    @classmethod
    def open(
        cls, path: str | Path, *, fingerprint: Fingerprint | None = None, writer: str | None = None
    ) -> FitStore:
        """Open a store; `writer` is a name for this handle's segment files.

        Raises FitStoreNotFoundError; FingerprintMismatchError if `fingerprint` is given and is not the
        store's; CorruptSegmentError or CorruptGenerationError, naming the file; FormatVersionError, also for
        a store that an earlier version of this program made; UnusableNameError.
        """
        layout = Layout(Path(path))
        manifest = read_manifest(layout)
        if fingerprint is not None:
            require_same(manifest.fingerprint, fingerprint, where=str(path))
        return cls(layout, manifest, load_current(layout, manifest), check_writer(writer or "writer"))

    @classmethod
    def open_or_create(
        cls, path: str | Path, *, samples: int, fingerprint: Fingerprint, writer: str | None = None
    ) -> FitStore:
        """Open the store, or make it.

        Raises as open and create do, and RecordError if it holds other samples.
        """
        layout = Layout(Path(path))
        if not layout.manifest.exists():
            try:
                return cls.create(path, samples=samples, fingerprint=fingerprint, writer=writer)
            except FitStoreExistsError:
                # Another process may have made it meanwhile.
                if not layout.manifest.exists():
                    raise
        store = cls.open(path, fingerprint=fingerprint, writer=writer)
        if store.samples != samples:
            raise RecordError(f"{path}: the store has {store.samples} samples, expected {samples}")
        return store

    @property
    def path(self) -> Path:
        return self._layout.root

    @property
    def samples(self) -> int:
        return self._manifest.samples

    @property
    def fingerprint(self) -> Fingerprint:
        return self._manifest.fingerprint

    @property
    def pending(self) -> int:
        """The number of records that changed and are not yet durable."""
        return int(np.count_nonzero(self._pending))

    @property
    def segments(self) -> int:
        """The number of segments that opening the store would read."""
        return len(self._names - self._generation.absorbed)

    def get(self, ids: Integer[np.ndarray, "k"]) -> Fits:
        """Copies of the records of these samples, as this handle knows them. Raises SampleIdError."""
        return self._table.get(ids)

    def merge(self, ids: Integer[np.ndarray, "k"], fits: Fits) -> Bool[np.ndarray, "k"]:
        """Offer records; True where an offer became the sample's record. In memory only, until flush.

        Raises SampleIdError, RecordError. Inadmissible offers are not accepted (see
        store.records.admissible).
        """
        merged = self._table.merge(ids, fits)
        self._pending[merged.changed] = True
        return merged.accepted

    def flush(self) -> int:
        """Make everything merged so far durable, as one segment; returns the number of records in it.

        Raises StaleWriterError if the store was restored meanwhile, OSError if the disk refuses. After an
        error everything is still pending.
        """
        ids = np.flatnonzero(self._pending)
        if len(ids):
            while True:
                number = self._current_in_line()
                try:
                    name = write_segment(
                        self._layout,
                        number,
                        writer=self._writer,
                        fingerprint=self.fingerprint,
                        ids=ids,
                        fits_of=self._table.get,
                    )
                    break
                except FileNotFoundError:
                    # A compaction moved on and removed the empty folder of the generation before.
                    if read_current(self._layout) == number:
                        raise
            # A restore that came before the segment did has left it behind; one that comes later undoes it
            # knowingly.
            self._current_in_line()
            self._names.add(name)
            self._pending[ids] = False
        return len(ids)

    def refresh(self) -> None:
        """Take in what other handles made durable.

        Raises StaleWriterError if the store was restored and this handle has pending updates; else as open
        does. A compaction by another handle is read whole, so memory holds two states for a moment.
        """
        while True:
            number = read_current(self._layout)
            if number != self._generation.number:
                self._follow()
                continue
            listed = set(self._layout.segment_names(self._generation.line, number))
            try:
                merge_segments(self._layout, self._manifest, self._table, sorted(listed - self._names))
            except (StoreError, OSError):
                if read_current(self._layout) == number:
                    raise
                continue
            if read_current(self._layout) == number:
                self._names = listed
                return

    def tag(self, name: str) -> Tag:
        """Flush, and name the store's state. A tag of that name must not exist, or must mean the same state.

        Raises TagExistsError, UnusableNameError, and what flush and refresh raise.
        """
        check_tag_name(name)
        with locked(self._layout.lock):
            self.flush()
            self.refresh()
            tag = Tag(name, self._generation.number, tuple(sorted(self._names - self._generation.absorbed)))
            if name in tag_names(self._layout):
                if read_tag(self._layout, name) != tag:
                    raise TagExistsError(
                        f"{self.path}: tag {name!r} names another state; choose another name"
                    )
            else:
                write_tag(self._layout, tag)
        return tag

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
        with locked(self._layout.lock):
            table = load_tagged(self._layout, self._manifest, read_tag(self._layout, tag))
            number = next_number(self._layout)
            generation = write_generation(
                self._layout,
                number,
                line=number,
                absorbed=(),
                fits=table.fits,
                fingerprint=self.fingerprint,
            )
            write_current(self._layout, number)
            self._pending[:] = False
            self._adopt(State(generation, table, frozenset()))
            remove_unneeded(self._layout, generation)

    def compact(self) -> int:
        """Flush, write the state as the next generation, and remove what is no longer needed. Changes no
        answer.

        Returns the current generation's number: the old one if there was no segment to absorb.
        """
        with locked(self._layout.lock):
            self.flush()
            self.refresh()
            if self._names - self._generation.absorbed:
                number = next_number(self._layout)
                generation = write_generation(
                    self._layout,
                    number,
                    line=self._generation.line,
                    absorbed=self._names,
                    fits=self._table.fits,
                    fingerprint=self.fingerprint,
                )
                write_current(self._layout, number)
                self._adopt(State(generation, self._table, frozenset(self._names)))
            remove_unneeded(self._layout, self._generation)
        return self._generation.number

    def summary(self) -> dict:
        """samples, sources (counts by name), loss_percentiles_px2, generation, segments, pending (counts)."""
        return {
            **self._table.summary(),
            "generation": self._generation.number,
            "segments": len(self._names - self._generation.absorbed),
            "pending": self.pending,
        }

    def _adopt(self, state: State) -> None:
        self._generation = state.generation
        self._table = state.table
        self._names = set(state.names)
        self._line_seen_at = None

    def _follow(self) -> None:
        """Another handle compacted or restored: read the current state, and keep what is pending here."""
        state = load_current(self._layout, self._manifest)
        ids = np.flatnonzero(self._pending)
        if len(ids):
            if state.generation.line != self._generation.line:
                raise self._stale()
            self._pending[:] = False
            self._pending[state.table.merge(ids, self._table.get(ids)).changed] = True
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
            if generation.line != self._generation.line:
                raise self._stale()
            # Whoever moved CURRENT may not have made that durable yet; updates written against it must not
            # be ahead.
            sync_folder(self._layout.root)
            self._line_seen_at = number

    def _stale(self) -> StaleWriterError:
        return StaleWriterError(
            f"{self.path}: the store was restored to a tag while it was open here; {self.pending} pending "
            "updates belong to the state before and are not written; open the store again"
        )
