"""Unneeded files, and their removal.

Safe while others write, compact, restore and tag, because CURRENT never goes back. A generation below the current one can
only be reached through a tag; the writer of a tag saw its generation current after the tag, or its pin, was written; so tags
that are listed after a generation became current are all that can ever need an earlier one. Generations above the current
one may be about to become it, and are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from store.fits.format.generations import Generation
from store.fits.format.layout import (
    GENERATIONS,
    SEGMENTS,
    Layout,
    generation_name,
    inventory_name,
    segment_folder,
)
from store.fits.format.tags import all_tags


@dataclass(frozen=True)
class Unneeded:
    """generations: numbers and which files each has; segments: 'FOLDER/FILE'."""

    generations: dict[int, set[str]]
    segments: list[str]

    @property
    def names(self) -> list[str]:
        names = [f"{GENERATIONS}/{number:06d}.{kind}" for number, kinds in self.generations.items() for kind in kinds]
        return sorted(names) + [f"{SEGMENTS}/{name}" for name in self.segments]


def unneeded(layout: Layout, current: Generation) -> Unneeded:
    """Return what neither the current state nor a tag needs. `current` is, or was, the current generation.

    Segments of the current line go only if the current generation has absorbed them: a writer may still be adding to the
    folders of earlier generations.
    """
    tags = all_tags(layout)
    kept = {tag.generation for tag in tags}
    pinned = {name for tag in tags for name in tag.segments}
    files = layout.generation_files()
    old = {number: files[number] for number in sorted(files) if number < current.number and number not in kept}
    there = set(layout.segment_names(0, current.number))
    superseded = {name for name in there if int(name.partition("/")[0]) < current.line}
    return Unneeded(old, sorted((superseded | (current.absorbed & there)) - pinned))


def remove_unneeded(layout: Layout, current: Generation) -> list[str]:
    """Remove what `unneeded` finds, and return its names. Safe to stop at any moment and to repeat."""
    found = unneeded(layout, current)
    for number in found.generations:
        layout.files.remove_tree(generation_name(number), inventory_name(number))
    layout.files.remove(*(f"{SEGMENTS}/{name}" for name in found.segments))
    for folder in layout.files.children(SEGMENTS):
        if folder.isdecimal() and int(folder) < current.number:
            layout.files.prune(segment_folder(int(folder)))
    return found.names
