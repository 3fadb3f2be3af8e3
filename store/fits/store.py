"""The fit store: the best body found for each training sample, durable, in a local folder or an object store.

What is promised, and when:
- merge() changes memory only. flush() returns once every update merged before it was called survives the loss of the
  process and of the machine's power. tag(), reset() and compact() flush first; restore() discards pending updates.
- Several processes may hold the store open and flush at the same time;
  each sees the others' updates when it opens, refreshes, tags, resets or compacts. A handle may be used by several threads:
  get() and merge() never wait for the disk.
- If a process is killed at any moment, the store opens to the state before or after the interrupted operation. A flush
  of more than 65,536 records is several segments, of which some may be there; merging the same updates again is harmless.
- A reset retracts the fits it finds: an update that was begun before it, with a record of before it, can't undo it,
  however good it looks and however late it comes (see store.fits.merge).
- A restore begins a new line of history: updates flushed by others through handles opened before it are
  rejected with StaleWriterError, and late segments do not come back.
- An error in an operation leaves the store unchanged, and the handle's updates pending.

Inside, a Replica is what a handle has in memory, a Follower reads what others did, a Flusher writes segments, and
Maintenance works on the whole store. FORMAT.md specifies the files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.errors import FitStoreExistsError, RecordError
from store.files.base import Files
from store.files.open import open_files
from store.fits import log
from store.fits.fingerprint import Fingerprint, require_same
from store.fits.format.fencing import read_fence, write_fence
from store.fits.format.generations import Generation, write_generation
from store.fits.format.layout import (
    CURRENT,
    MANIFEST,
    Layout,
    Manifest,
    current_line,
    generation_name,
    inventory_name,
    read_manifest,
)
from store.fits.format.segments import check_writer
from store.fits.format.state import FitSnapshot, load_current, load_tagged
from store.fits.format.tags import Tag, read_tag, tag_names
from store.fits.handle.maintenance import GRACE_S, Maintenance, worth_compacting
from store.fits.handle.memory import Replica
from store.fits.handle.reader import Follower
from store.fits.handle.writer import Flusher
from store.fits.records import Fits, empty_rows
from store.fits.runs import now_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from jaxtyping import Bool, Integer


class FitStore:
    """One record per sample (see store.fits.records), durable and in memory.

    Made by create, open, open_or_create.
    """

    def __init__(self, layout: Layout, manifest: Manifest, writer: str, clock: Callable[[], int] = now_ms) -> None:
        state = load_current(layout, manifest)
        self._replica = Replica(layout, manifest, state, writer, clock)
        self._follower = Follower(self._replica)
        self._flusher = Flusher(self._replica, self._follower)
        self._maintenance = Maintenance(self._replica, self._follower, self._flusher)

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
        """Make an empty store of `samples` records in a new or empty folder, or at s3://BUCKET/PREFIX where nothing is.

        Raises FitStoreExistsError, RecordError.
        """
        if samples < 1:
            raise RecordError(f"{path}: a fit store needs at least one sample, found {samples}")
        files, manifest = open_files(path), Manifest(samples, fingerprint)

        try:
            files.write_root(lambda inside: _begin(inside, manifest, clock()))
        except FileExistsError as error:
            raise FitStoreExistsError(f"{path} is not empty; name a new folder, or open the store that is there") from error
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
        """Open a store; `writer` is a name for this handle's segment files.

        Raises FitStoreNotFoundError; FingerprintMismatchError if `fingerprint` is given and is not the
        store's; CorruptSegmentError or CorruptGenerationError, naming the file; FormatVersionError;
        UnusableNameError.
        """
        files = open_files(path)
        layout = Layout(files)
        manifest = read_manifest(layout)
        if fingerprint is not None:
            require_same(manifest.fingerprint, fingerprint, where=str(path))
        return cls(layout, manifest, check_writer(writer or "writer"), clock)

    @classmethod
    def open_or_create(cls, path: str | Path, *, samples: int, fingerprint: Fingerprint, writer: str | None = None) -> FitStore:
        """Open the store, or make it.

        Raises the errors of open and create, and RecordError if it holds other samples.
        """
        files = open_files(path)
        if not files.exists(CURRENT):
            try:
                return cls.create(path, samples=samples, fingerprint=fingerprint, writer=writer)
            except FitStoreExistsError:
                # Another process may have made it since.
                if not files.exists(MANIFEST):
                    raise
        store = cls.open(path, fingerprint=fingerprint, writer=writer)
        if store.samples != samples:
            raise RecordError(f"{path}: the store has {store.samples} samples, expected {samples}")
        return store

    @property
    def location(self) -> str:
        """The folder or URL."""
        return self._replica.layout.location

    @property
    def path(self) -> Path:
        """The folder of a local store."""
        return Path(self.location)

    @property
    def samples(self) -> int:
        return self._replica.manifest.samples

    @property
    def fingerprint(self) -> Fingerprint:
        return self._replica.manifest.fingerprint

    @property
    def pending(self) -> int:
        """The number of records that changed and are not yet durable."""
        return self._replica.pending

    @property
    def segments(self) -> int:
        """The number of segments that opening the store would read."""
        return len(self._replica.state.infos)

    @property
    def segment_records(self) -> int:
        """The number of records in them."""
        return sum(records for _, records in list(self._replica.state.infos.values()))

    @property
    def runs(self) -> Mapping[int, str]:
        """Names of the runs that fits came from, by the codes in the column `run`."""
        return dict(self._replica.state.runs)

    @property
    def fits(self) -> Fits:
        """All records as this handle knows them, not copied: read only, and only while nothing is merged."""
        return self._replica.state.table.fits

    def get(self, ids: Integer[np.ndarray, "k"]) -> Fits:
        """Return copies of the records of these samples, as this handle knows them. Raises SampleIdError."""
        return self._replica.get(ids)

    def merge(self, ids: Integer[np.ndarray, "k"], fits: Fits) -> Bool[np.ndarray, "k"]:
        """Offer records; True where an offer became the sample's record. In memory only, until flush.

        Raises SampleIdError, RecordError. Inadmissible offers are not accepted (see
        store.fits.records.admissible), nor are those of an epoch before their sample's.
        """
        return self.offer(ids, fits)[0]

    def offer(self, ids: Integer[np.ndarray, "k"], fits: Fits) -> tuple[Bool[np.ndarray, "k"], float]:
        """Merge, and return also by how much scores fell in all."""
        merged = self._replica.offer(ids, fits)
        return merged.accepted, merged.gained

    def name_run(self, name: str) -> int:
        """Return the code for the column `run` of fits that this run makes; the name is stored with them."""
        return self._replica.name_run(name)

    def flush(self) -> int:
        """Make everything merged so far durable; returns the number of records written.

        Raises StaleWriterError if the store was restored since, OSError if the disk fails. After an
        error what was not written is still pending.
        """
        return self._flusher.flush()

    def refresh(self) -> None:
        """Take in what other handles made durable.

        Raises StaleWriterError if the store was restored and this handle has pending updates; else as open
        does. A compaction by another handle is read whole, so memory briefly holds two states.
        """
        self._follower.refresh()

    def reset(self, ids: Integer[np.ndarray, "k"], *, where: str = "") -> int:
        """Retract the fits of these samples, durably: they are without a fit until one is offered that was begun afterwards.

        `where` is the reason, for the log (see store.fits.query for ids by an expression). Returns how many had a fit.
        Raises as flush and refresh do.
        """
        return self._flusher.reset(ids, where)

    def tag(self, name: str) -> Tag:
        """Flush, and name the store's state. A tag of that name must not exist, or must mean the same state.

        Raises TagExistsError, UnusableNameError, and what flush and refresh raise.
        """
        return self._maintenance.tag(name)

    def untag(self, name: str) -> None:
        """Remove a tag; what it alone needed goes with the next compaction or collection. Raises TagNotFoundError."""
        self._maintenance.untag(name)

    def tags(self) -> list[str]:
        """Return the names of all tags, sorted."""
        return tag_names(self._replica.layout)

    def at(self, tag: str) -> FitSnapshot:
        """Return the state that a tag names.

        Raises TagNotFoundError, CorruptSegmentError, CorruptGenerationError.
        """
        layout, manifest = self._replica.layout, self._replica.manifest
        pinned = read_tag(layout, tag)
        return FitSnapshot(pinned, manifest.fingerprint, load_tagged(layout, manifest, pinned))

    def restore(self, tag: str) -> None:
        """Make the tagged state the current one, durably, and discard this handle's pending updates.

        Tags stay valid. Raises as at() does; then nothing has changed.
        """
        self._maintenance.restore(tag)

    def compact(self, *, force: bool = False) -> int:
        """Flush, write the state as the next generation, and remove what is no longer needed. Changes no
        record; get(), merge() and flush() go on at the same time.

        Returns the current generation's number: the old one if there was no segment to absorb, unless `force`
        is set.
        """
        return self._maintenance.compact(force=force)

    @property
    def worth_compacting(self) -> bool:
        """Whether reading the segments would make opening the store slow."""
        return worth_compacting(self.segments, self.segment_records, self.samples)

    def fence(self, run: str) -> str:
        """Return what set_fence last wrote for this run; '' if nothing. Raises FormatVersionError if that is damaged."""
        return read_fence(self._replica.layout, run)

    def set_fence(self, run: str, fence: str) -> None:
        """Store, durably, which workers may offer fits for this run: its service reads it when it starts again."""
        write_fence(self._replica.layout, run, fence)

    def gc(self, *, dry_run: bool = False, grace_s: float = GRACE_S) -> list[str]:
        """Remove what neither the state nor a tag needs, and unfinished files that were not touched for `grace_s`.

        Returns the names of what was, or with `dry_run` would be, removed. compact() does as much by itself.
        """
        return self._maintenance.gc(dry_run=dry_run, grace_s=grace_s)

    def log(self) -> list[dict[str, Any]]:
        """Return the store's log, oldest first: 'operation', 'time_ms' (0 if not known), 'writer', and what belongs to the
        operation. Segments that a compaction has absorbed are counted in its entry."""
        replica = self._replica
        with replica.disk:
            self._follower.refresh()
            tags = [read_tag(replica.layout, name) for name in self.tags()]
            return log.of_store(replica.state.generation, replica.state.infos, tags)

    def summary(self) -> dict[str, Any]:
        """Return samples, sources (counts by name), loss_percentiles_px2, generation, segments, pending (counts)."""
        replica = self._replica
        with replica.memory:
            return {
                **replica.state.table.summary(),
                "generation": replica.state.generation.number,
                "segments": self.segments,
                "pending": self.pending,
            }


def _begin(files: Files, manifest: Manifest, time_ms: int) -> None:
    """Write a new store. It exists once it has a CURRENT. Raises FileExistsError if another process was first."""
    if not files.create(MANIFEST, manifest.to_bytes()):
        raise FileExistsError(f"{files.where(MANIFEST)} is of another store")
    layout, number = Layout(files), 0
    while not files.claim(generation_name(number)):
        number += 1  # another process is creating the store, or was
    entry = log.entry("create", "", time_ms, generation=number, samples=manifest.samples)
    write_generation(
        layout,
        Generation(number, number, frozenset(), (entry,)),
        samples=manifest.samples,
        fingerprint=manifest.fingerprint,
        rows_of=lambda part: empty_rows(part.stop - part.start),
    )
    if not files.create(CURRENT, current_line(number)):
        files.remove_tree(generation_name(number), inventory_name(number))
        raise FileExistsError(f"{files.where(CURRENT)} is there already")
