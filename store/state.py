"""A state on disk brought into memory, and the removal of what no state needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from store.errors import StoreError
from store.generations import Generation, load_generation
from store.layout import (
    GENERATIONS,
    SEGMENTS,
    Layout,
    Manifest,
    generation_name,
    read_current,
    segment_folder,
)
from store.records import Fits
from store.segments import Segment, SegmentInfo, read_segment
from store.table import FitTable
from store.tags import Tag, read_tag, tag_names

_AHEAD = 4  # segments read while others are merged


@dataclass
class State:
    """Records in memory and what they were read from.

    names: the segments of the generation's line that the records contain ('FOLDER/FILE'). infos: what those that the
    generation has not absorbed say of themselves, with their numbers of records. runs: names of runs by their codes.
    """

    generation: Generation
    table: FitTable
    names: set[str]
    infos: dict[str, tuple[SegmentInfo, int]] = field(default_factory=dict)
    runs: dict[int, str] = field(default_factory=dict)

    def absorb(self, name: str, segment: Segment) -> None:
        """Merges one segment into the records."""
        merge_segment(self.table, segment)
        self.note(name, segment.info, len(segment))

    def note(self, name: str, info: SegmentInfo, records: int) -> None:
        self.names.add(name)
        self.infos[name] = (info, records)
        self.runs.update(info.runs)


def load_current(layout: Layout, manifest: Manifest) -> State:
    """The current state: the current generation and every segment of its line.

    Needs no lock: if a compaction moved on, and so may have removed files meanwhile, what was read is given
    up.
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
    """A tagged state. Raises what load_generation and read_segment raise."""
    state = _load(layout, manifest, tag.generation)
    for name, segment in read_segments(layout, manifest, tag.segments):
        state.absorb(name, segment)
    return state


def _load(layout: Layout, manifest: Manifest, number: int) -> State:
    generation, rows = load_generation(
        layout, number, samples=manifest.samples, fingerprint=manifest.fingerprint
    )
    return State(generation, FitTable(rows), set(), runs=dict(generation.runs))


def read_segments(layout: Layout, manifest: Manifest, names: Iterable[str]) -> Iterator[tuple[str, Segment]]:
    """Segments one after another, a few of them read ahead by another thread."""
    names = list(names)

    def read(name: str) -> Segment:
        return read_segment(layout, name, samples=manifest.samples, fingerprint=manifest.fingerprint)

    if len(names) <= 1:
        yield from ((name, read(name)) for name in names)
        return
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(read, name) for name in names[:_AHEAD]]
        for place, name in enumerate(names):
            segment = waiting.pop(0).result()
            if place + _AHEAD < len(names):
                waiting.append(pool.submit(read, names[place + _AHEAD]))
            yield name, segment


def merge_segment(table: FitTable, segment: Segment) -> None:
    """Merges a segment into a table. Only what may win is looked at as a whole."""
    mine, columns = table.rows, segment.columns
    score, epoch = columns["score"], columns.get("epoch")
    hopeful = score <= mine["score"][segment.ids]
    if epoch is not None:
        hopeful &= epoch == mine["epoch"][segment.ids]
        hopeful |= epoch > mine["epoch"][segment.ids]
    elif mine["epoch"].any():
        hopeful &= mine["epoch"][segment.ids] == 0
    places = np.flatnonzero(hopeful)
    if len(places):
        table.merge(segment.ids[places], Fits.of_rows(segment.rows(places)))


def next_number(layout: Layout) -> int:
    """A generation number that was never current and has no folder. The caller holds the store's lock."""
    return max([read_current(layout), *layout.generation_numbers()]) + 1


def unneeded(layout: Layout, current: Generation) -> list[str]:
    """Names of what neither the current state nor a tag needs: generations, inventories, segments.

    The caller holds the store's lock, or has made `current` current. Segments of the current line go only if
    the current generation has absorbed them: a writer may still be adding to the folders of earlier generations.
    """
    tags = [read_tag(layout, name) for name in tag_names(layout)]
    kept = {current.number, *(tag.generation for tag in tags)}
    pinned = {name for tag in tags for name in tag.segments}
    old = {number for number in layout.generation_numbers() if number < current.number} - kept
    names = [generation_name(number) for number in sorted(old)]
    for file in layout.files.children(GENERATIONS):
        stem, _, kind = file.partition(".")
        past = stem.isdecimal() and int(stem) < current.number
        if past and kind == "json" and int(stem) not in kept:
            names.append(f"{GENERATIONS}/{file}")
    superseded = set(layout.segment_names(0, current.line - 1))
    there = set(layout.segment_names(current.line, current.number))
    gone = (superseded | (current.absorbed & there)) - pinned
    return names + [f"{SEGMENTS}/{name}" for name in sorted(gone)]


def remove_unneeded(layout: Layout, current: Generation) -> list[str]:
    """Remove what `unneeded` names, and say what that was. Safe to stop at any moment and to repeat."""
    names = unneeded(layout, current)
    for name in names:
        if name.endswith(".zarr"):
            layout.files.remove_tree(name)
        else:
            layout.files.remove(name)
    for folder in layout.files.children(SEGMENTS):
        if folder.isdecimal() and int(folder) < current.number:
            layout.files.prune(segment_folder(int(folder)))
    return names
