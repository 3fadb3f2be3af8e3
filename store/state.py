"""A state on disk brought into memory, and the removal of what no state needs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from store.durable import TEMPORARY, remove_folder
from store.errors import StoreError
from store.generations import Generation, load_generation
from store.layout import Layout, Manifest, read_current
from store.segments import read_segment
from store.table import FitTable
from store.tags import Tag, read_tag, tag_names


@dataclass(frozen=True)
class State:
    """Records in memory and what they were read from.

    names: the segments of the generation's line that the records contain ('FOLDER/FILE').
    """

    generation: Generation
    table: FitTable
    names: frozenset[str]


def load_current(layout: Layout, manifest: Manifest) -> State:
    """The current state: the current generation and every segment of its line.

    Needs no lock: if a compaction moved on, and so may have removed files meanwhile, what was read is given
    up.
    Raises what load_generation and read_segment raise.
    """
    while True:
        number = read_current(layout)
        try:
            generation, fits = load_generation(
                layout, number, samples=manifest.samples, fingerprint=manifest.fingerprint
            )
            table = FitTable(fits)
            names = frozenset(layout.segment_names(generation.line, number))
            merge_segments(layout, manifest, table, sorted(names - generation.absorbed))
        except (StoreError, OSError):
            if read_current(layout) == number:
                raise
            continue
        if read_current(layout) == number:
            return State(generation, table, names)


def load_tagged(layout: Layout, manifest: Manifest, tag: Tag) -> FitTable:
    """The records of a tagged state. Raises what load_generation and read_segment raise."""
    _, fits = load_generation(
        layout, tag.generation, samples=manifest.samples, fingerprint=manifest.fingerprint
    )
    table = FitTable(fits)
    merge_segments(layout, manifest, table, tag.segments)
    return table


def merge_segments(layout: Layout, manifest: Manifest, table: FitTable, names: Iterable[str]) -> None:
    """Merge segments into a table."""
    for name in names:
        for updates in read_segment(layout, name, samples=manifest.samples, fingerprint=manifest.fingerprint):
            table.merge(updates.ids, updates.fits)


def next_number(layout: Layout) -> int:
    """A generation number that was never current and has no folder. The caller holds the store's lock."""
    return max([read_current(layout), *layout.generation_numbers()]) + 1


def remove_unneeded(layout: Layout, current: Generation) -> None:
    """Remove what neither the current state nor a tag needs. The caller holds the store's lock.

    Safe to stop at any moment and to repeat. Segments of the current line go only if the current generation
    has absorbed them: a writer may still be adding to the folders of earlier generations.
    """
    tags = [read_tag(layout, name) for name in tag_names(layout)]
    generations = {current.number, *(tag.generation for tag in tags)}
    pinned = {name for tag in tags for name in tag.segments}
    for number in layout.generation_numbers():
        if number not in generations:
            remove_folder(layout.generation(number))
    for unfinished in layout.generations.glob(f"{TEMPORARY}*"):
        shutil.rmtree(unfinished)
    past = set(layout.segment_names(0, current.line - 1))
    for name in (past | current.absorbed) - pinned:
        (layout.segments / name).unlink(missing_ok=True)
    for folder in layout.segments.iterdir():
        if folder.name.isdecimal() and int(folder.name) < current.number:
            # Not if something is in it; and a writer that is just about to use it makes it again.
            with contextlib.suppress(OSError):
                folder.rmdir()
