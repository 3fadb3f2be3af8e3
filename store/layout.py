"""Where a fit store's parts lie, and which generation is current."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from store.errors import FitStoreNotFoundError, FormatVersionError
from store.files import Files
from store.fingerprint import Fingerprint
from store.seal import read_sealed, to_bytes

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

    def generation_numbers(self) -> list[int]:
        """All generations there are, ascending; some may not be, or no longer be, current."""
        names = self.files.children(GENERATIONS)
        stems = [name.removesuffix(".zarr") for name in names if name.endswith(".zarr")]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def segment_names(self, first: int, last: int) -> list[str]:
        """Names ('FOLDER/FILE') of the segments written against generations first … last, sorted."""
        names = []
        for folder in self.files.children(SEGMENTS):
            if folder.isdecimal() and first <= int(folder) <= last:
                files = self.files.children(f"{SEGMENTS}/{folder}")
                names += [f"{folder}/{file}" for file in files if file.endswith(".arrow")]
        return sorted(names)


def generation_name(number: int) -> str:
    return f"{GENERATIONS}/{number:06d}.zarr"


def inventory_name(number: int) -> str:
    """What a generation says of itself and of its files."""
    return f"{GENERATIONS}/{number:06d}.json"


def segment_folder(number: int) -> str:
    return f"{SEGMENTS}/{number:06d}"


def is_segment_name(name: object) -> bool:
    """Whether this is 'FOLDER/FILE' of a segment: names come from files, and must not lead anywhere else."""
    return isinstance(name, str) and re.fullmatch(r"\d+/[A-Za-z0-9][^/\\]*\.arrow", name) is not None


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
    """Raises FitStoreNotFoundError, or FormatVersionError for another format or version."""
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
    """The number of the current generation. Raises FormatVersionError if the pointer is missing or damaged."""
    where = layout.files.where(CURRENT)
    try:
        content = layout.files.read(CURRENT)
    except FileNotFoundError as error:
        raise FormatVersionError(f"{where} is missing; restore it from a copy") from error
    number = content.partition(b" ")[0]
    if not number.isdigit() or content != current_line(int(number)):
        raise FormatVersionError(f"{where}: damaged, found {content[:40]!r}; restore it from a copy")
    return int(number)


def move_current(layout: Layout, old: int, new: int) -> bool:
    """Makes another generation current, if `old` still is; says whether."""
    return layout.files.swap(CURRENT, current_line(old), current_line(new))


def current_line(number: int) -> bytes:
    """'NUMBER CHECKSUM': one flipped bit must not point to another generation."""
    text = f"{number:06d}"
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()
