"""A state of the store in memory: the current one, or one that a tag names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from store.errors import StoreError
from store.fits.fingerprint import Fingerprint
from store.fits.format.generations import Generation, load_generation, read_generation
from store.fits.format.layout import Layout, Manifest, read_current
from store.fits.format.segments import Segment, SegmentInfo, read_segment
from store.fits.format.tags import Tag
from store.fits.records import Fits
from store.fits.table import FitTable

if TYPE_CHECKING:
    from jaxtyping import Integer

_AHEAD = 3  # segments read while others are merged, for each that is being read


@dataclass
class State:
    """Records in memory and what they were read from.

    names: the segments of the generation's line that the records contain ('FOLDER/FILE'). infos: descriptions of those that the
    generation has not absorbed, with their numbers of records. runs: names of runs by their codes.
    """

    generation: Generation
    table: FitTable
    names: set[str]
    infos: dict[str, tuple[SegmentInfo, int]] = field(default_factory=dict)
    runs: dict[int, str] = field(default_factory=dict)

    def absorb(self, name: str, segment: Segment) -> None:
        """Merge one segment into the records."""
        merge_segment(self.table, segment)
        self.note(name, segment.info, len(segment))

    def note(self, name: str, info: SegmentInfo, records: int) -> None:
        self.names.add(name)
        self.infos[name] = (info, records)
        self.runs.update(info.runs)


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
        """All records, not copied: read only."""
        return self._table.fits

    def get(self, ids: Integer[np.ndarray, "k"]) -> Fits:
        """Return copies of the records of these samples, in the tagged state. Raises SampleIdError."""
        return self._table.get(ids)

    def summary(self) -> dict[str, Any]:
        """Return the same as FitStore.summary, of the tagged state."""
        return {
            **self._table.summary(),
            "generation": self.tag.generation,
            "segments": len(self.tag.segments),
        }


def current_generation(layout: Layout, fingerprint: Fingerprint) -> Generation:
    """Return the current generation without its records, though others may replace and remove it at the same time.

    Raises what read_generation raises.
    """
    while True:
        number = read_current(layout)
        try:
            return read_generation(layout, number, fingerprint=fingerprint)
        except StoreError:
            if read_current(layout) == number:
                raise


def load_current(layout: Layout, manifest: Manifest) -> State:
    """Return the current state: the current generation and every segment of its line.

    Needs no lock: if a compaction moved CURRENT, and so may have removed files, everything is read again.
    Raises what load_generation and read_segment raise.
    """
    while True:
        number = read_current(layout)
        try:
            state = _load(layout, manifest, number)
            listed = set(layout.segment_names(state.generation.line, number))
            state.names = set(listed & state.generation.absorbed)
            for name, segment in read_segments(layout, manifest, sorted(listed - state.generation.absorbed)):
                state.absorb(name, segment)
        except (StoreError, OSError):
            if read_current(layout) == number:
                raise
            continue
        if read_current(layout) == number:
            return state


def load_tagged(layout: Layout, manifest: Manifest, tag: Tag) -> State:
    """Return a tagged state. Raises what load_generation and read_segment raise."""
    state = _load(layout, manifest, tag.generation)
    for name, segment in read_segments(layout, manifest, tag.segments):
        state.absorb(name, segment)
    return state


def _load(layout: Layout, manifest: Manifest, number: int) -> State:
    generation, rows = load_generation(layout, number, samples=manifest.samples, fingerprint=manifest.fingerprint)
    return State(generation, FitTable(rows), set(), runs=dict(generation.runs))


def read_segments(layout: Layout, manifest: Manifest, names: Iterable[str]) -> Iterator[tuple[str, Segment]]:
    """Yield segments one after another, a few of them read ahead by other threads."""
    names = list(names)

    def read(name: str) -> Segment:
        return read_segment(layout, name, samples=manifest.samples, fingerprint=manifest.fingerprint)

    if len(names) <= 1:
        yield from ((name, read(name)) for name in names)
        return
    # Reading local ones takes less time than merging them.
    readers = layout.files.concurrency // 2
    ahead = _AHEAD * readers
    with ThreadPoolExecutor(readers) as pool:
        waiting = [pool.submit(read, name) for name in names[:ahead]]
        for place, name in enumerate(names):
            segment = waiting.pop(0).result()
            if place + ahead < len(names):
                waiting.append(pool.submit(read, names[place + ahead]))
            yield name, segment


def merge_segment(table: FitTable, segment: Segment) -> None:
    """Merge a segment into a table. Only records that may win are read whole."""
    mine, columns = table.rows, segment.columns
    score, epoch = columns["score"], columns["epoch"]
    hopeful = score <= mine["score"][segment.ids]
    hopeful &= epoch == mine["epoch"][segment.ids]
    hopeful |= epoch > mine["epoch"][segment.ids]
    places = np.flatnonzero(hopeful)
    if len(places):
        table.merge(segment.ids[places], Fits.of_rows(segment.rows(places)))
