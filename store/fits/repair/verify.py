"""Verification: reads every byte of a store, and names the files that are damaged or missing."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from store.errors import StoreError
from store.files.base import Files
from store.files.checksummed_json import read_sealed
from store.files.open import open_files
from store.fits.format import fencing
from store.fits.format.generations import read_inventory
from store.fits.format.layout import (
    CURRENT,
    GENERATIONS,
    SEGMENTS,
    Layout,
    Manifest,
    generation_name,
    read_current,
    read_manifest,
)
from store.fits.format.segments import read_segment
from store.fits.format.tags import read_tag, tag_names


@dataclass(frozen=True)
class Finding:
    """A damaged or missing file: its name in the store, and the problem."""

    file: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """How much was read, and what was found. A store is whole if there are no findings."""

    generations: int
    segments: int
    tags: int
    findings: tuple[Finding, ...]

    @property
    def whole(self) -> bool:
        return not self.findings


def verify(location: str | Path) -> Verification:
    """Check every finished file of a store, also those of tags and of generations that are no longer current.

    Raises FitStoreNotFoundError if there is no store, FormatVersionError if store.json is damaged: then nothing
    else can be checked.
    """
    files = open_files(location)
    while True:
        there = set(files.descendants(""))
        found = _verify(files)
        # A file that a compaction removes while it is read is not damaged.
        if found.whole or there <= set(files.descendants("")):
            return found


def _verify(files: Files) -> Verification:
    layout = Layout(files)
    manifest = read_manifest(layout)
    findings: list[Finding] = []

    def check(file: str, read: Callable[[], object]) -> None:
        try:
            read()
        except (StoreError, OSError) as error:
            findings.append(Finding(file, " ".join(str(error).split())))

    numbers = layout.generation_numbers()
    check(CURRENT, lambda: _current(layout, numbers))
    for number in numbers:
        for file, problem in _generation(files, layout, manifest, number):
            findings.append(Finding(file, problem))
    segments = layout.segment_names(0, 10**9)
    for name in segments:
        check(f"{SEGMENTS}/{name}", lambda name=name: _segment(layout, manifest, name))  # type: ignore[misc]
    tags = [name.removesuffix(".json") for name in files.children("tags")]
    for name in tag_names(layout):
        check(f"tags/{name}.json", lambda name=name: _tag(layout, name, numbers, segments))  # type: ignore[misc]
    for name in files.children(fencing.FENCES):
        check(f"{fencing.FENCES}/{name}", lambda name=name: _fence(layout, f"{fencing.FENCES}/{name}"))  # type: ignore[misc]
    return Verification(len(numbers), len(segments), len(tags), tuple(findings))


def _fence(layout: Layout, file: str) -> None:
    read_sealed(layout.files, file, format_name=fencing.FORMAT, version=fencing.VERSION)


def _current(layout: Layout, numbers: list[int]) -> None:
    number = read_current(layout)
    if number not in numbers:
        raise StoreError(f"{layout.files.where(generation_name(number))}: the current generation is missing")


def _segment(layout: Layout, manifest: Manifest, name: str) -> None:
    read_segment(layout, name, samples=manifest.samples, fingerprint=manifest.fingerprint)


def _tag(layout: Layout, name: str, numbers: list[int], segments: list[str]) -> None:
    tag = read_tag(layout, name)
    missing = [f"generation {tag.generation}"] if tag.generation not in numbers else []
    missing += sorted(set(tag.segments) - set(segments))
    if missing:
        raise StoreError(f"tag {name!r} needs what is missing: {', '.join(missing)}")


def _generation(files: Files, layout: Layout, manifest: Manifest, number: int) -> list[tuple[str, str]]:
    folder = generation_name(number)
    try:
        inventory = read_inventory(layout, number, fingerprint=manifest.fingerprint)
    except (StoreError, OSError) as error:
        return [(f"{GENERATIONS}/{number:06d}.json", " ".join(str(error).split()))]
    there, found = set(files.descendants(folder)), []
    for name, (size, checksum) in inventory.files.items():
        if name not in there:
            found.append((f"{folder}/{name}", "missing"))
            continue
        content = files.read(f"{folder}/{name}")
        if (len(content), f"{zlib.crc32(content):08x}") != (size, checksum):
            found.append((f"{folder}/{name}", f"damaged: not the {size} bytes with checksum {checksum}"))
    found += [(f"{folder}/{name}", "does not belong here") for name in sorted(there - set(inventory.files))]
    return found
