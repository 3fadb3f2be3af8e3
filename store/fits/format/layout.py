"""The names of a fit store's files, its manifest, and the pointer to the current generation."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from store.errors import FitStoreNotFoundError, FormatVersionError
from store.files.base import Files
from store.files.checksummed_json import read_sealed, to_bytes
from store.fits.fingerprint import Fingerprint

FORMAT = "spin-pipe-fits"
VERSION = 1

MANIFEST = "store.json"
CURRENT = "CURRENT"
GENERATIONS = "generations"
SEGMENTS = "segments"
TAGS = "tags"


@dataclass(frozen=True)
class Layout:
    """The names inside one fit store."""

    files: Files

    @property
    def location(self) -> str:
        return self.files.location

    def generation_files(self) -> dict[int, set[str]]:
        """Return the numbers in use, and which files each has: 'zarr', 'json' (its inventory), 'claim'."""
        found: dict[int, set[str]] = {}
        for name in self.files.children(GENERATIONS):
            stem, _, kind = name.partition(".")
            if stem.isdecimal():
                found.setdefault(int(stem), set()).add(kind)
        return found

    def generation_numbers(self) -> list[int]:
        """Return the numbers of all finished generations, ascending; some may not be, or no longer be, current."""
        return sorted(
            number
            for number, kinds in self.generation_files().items()
            # A local one that has lost its inventory counts, so that verify names it.
            if "zarr" in kinds and ("json" in kinds or "claim" not in kinds)
        )

    def segment_names(self, first: int, last: int) -> list[str]:
        """Return names ('FOLDER/FILE') of the segments written against generations first … last, sorted."""
        names = [name for name in self.files.descendants(SEGMENTS) if is_segment_name(name)]
        return [name for name in names if first <= int(name.partition("/")[0]) <= last]


def generation_name(number: int) -> str:
    return f"{GENERATIONS}/{number:06d}.zarr"


def inventory_name(number: int) -> str:
    """The file with a generation's description, and sizes and checksums of its files."""
    return f"{GENERATIONS}/{number:06d}.json"


def segment_folder(number: int) -> str:
    return f"{SEGMENTS}/{number:06d}"


def is_segment_name(name: object) -> bool:
    """Return whether this is 'FOLDER/FILE' of a segment: names are read from files, and must not lead anywhere else."""
    return isinstance(name, str) and re.fullmatch(r"[0-9]{1,12}/[A-Za-z0-9][^/\\\x00]*\.arrow", name) is not None


@dataclass(frozen=True)
class Manifest:
    """What never changes about a store: the number of samples, and the conditions of its scores."""

    samples: int
    fingerprint: Fingerprint

    def to_bytes(self) -> bytes:
        return to_bytes(
            {
                "format": FORMAT,
                "version": VERSION,
                "samples": self.samples,
                "fingerprint": self.fingerprint.to_json(),
            }
        )


def read_manifest(layout: Layout) -> Manifest:
    """Return the manifest. Raises FitStoreNotFoundError, or FormatVersionError for another format or version."""
    where = layout.files.where(MANIFEST)
    try:
        content = read_sealed(layout.files, MANIFEST, format_name=FORMAT, version=VERSION)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FitStoreNotFoundError(
            f"{layout.location} holds no fit store (no store.json); make one with `spin-pipe fit-static`"
        ) from error
    samples = content.get("samples")
    if not isinstance(samples, int) or samples < 0:
        raise FormatVersionError(f"{where}: samples must be a count, found {samples!r}")
    return Manifest(samples, Fingerprint.from_json(content.get("fingerprint"), where=where))


def read_current(layout: Layout) -> int:
    """Return the number of the current generation. Raises FormatVersionError if the pointer is missing or damaged."""
    where = layout.files.where(CURRENT)
    try:
        content = layout.files.read(CURRENT)
    except FileNotFoundError as error:
        raise FormatVersionError(
            f"{where} is missing: run `spin-pipe store repair`, or create the store again if that was interrupted"
        ) from error
    number = content.partition(b" ")[0]
    if not number.isdigit() or content != current_line(int(number)):
        raise FormatVersionError(f"{where}: damaged, found {content[:40]!r}; restore it from a copy")
    return int(number)


def move_current(layout: Layout, old: int, new: int) -> bool:
    """Make another generation current if `old` still is, and return whether it did."""
    return layout.files.swap(CURRENT, current_line(old), current_line(new))


def claim_generation(layout: Layout, after: int) -> int | None:
    """Claim a number for the generation after `after`: one that no other writer has, and that was never current.

    Return None if `after` is no longer current.
    """
    number = max([after, *layout.generation_files()]) + 1
    while not layout.files.claim(generation_name(number)):
        number += 1
    # A slow writer may claim a number that others have used and removed since.
    if read_current(layout) == after:
        return number
    layout.files.remove_tree(generation_name(number), inventory_name(number))
    return None


def current_line(number: int) -> bytes:
    """Return 'NUMBER CHECKSUM': one flipped bit must not point to another generation."""
    text = f"{number:06d}"
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()
