"""Where a fit store's parts lie, and which generation is current."""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from store.durable import write_file
from store.errors import FitStoreNotFoundError, FormatVersionError
from store.fingerprint import Fingerprint
from store.seal import read_sealed, to_bytes

FORMAT = "spin-pipe-fits"
VERSION = 1


@dataclass(frozen=True)
class Layout:
    """The paths inside one fit store's folder."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "store.json"

    @property
    def current(self) -> Path:
        return self.root / "CURRENT"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def generations(self) -> Path:
        return self.root / "generations"

    @property
    def segments(self) -> Path:
        return self.root / "segments"

    @property
    def tags(self) -> Path:
        return self.root / "tags"

    def generation(self, number: int) -> Path:
        return self.generations / f"{number:06d}.zarr"

    def segment_folder(self, number: int) -> Path:
        return self.segments / f"{number:06d}"

    def generation_numbers(self) -> list[int]:
        """All generations on disk, ascending; some may not be, or no longer be, current."""
        return sorted(int(path.stem) for path in self.generations.glob("*.zarr") if path.stem.isdecimal())

    def segment_names(self, first: int, last: int) -> list[str]:
        """Names ('FOLDER/FILE') of the segments written against generations first ... last, sorted."""
        names = []
        for folder in self.segments.iterdir():
            if folder.name.isdecimal() and first <= int(folder.name) <= last:
                try:
                    files = os.listdir(folder)
                except FileNotFoundError:  # Only empty folders are ever removed.
                    continue
                names += [f"{folder.name}/{file}" for file in files if file.endswith(".arrow")]
        return sorted(names)


def is_segment_name(name: object) -> bool:
    """Whether this is 'FOLDER/FILE' of a segment: names come from files, and must not lead anywhere else."""
    return isinstance(name, str) and re.fullmatch(r"\d+/[A-Za-z0-9][^/\\]*\.arrow", name) is not None


@dataclass(frozen=True)
class Manifest:
    """What never changes about a store: the number of samples, and the conditions of its scores."""

    samples: int
    fingerprint: Fingerprint


def made_earlier(path: Path, version: object) -> FormatVersionError:
    """The error for a generation or a segment of a version that came before this program's."""
    return FormatVersionError(
        f"{path}: made by an earlier version of spin-pipe (this part's format is version {version}), which is no "
        "longer read; `spin-pipe fit-static` into another data folder (--data) makes the fits again"
    )


def write_manifest(layout: Layout, manifest: Manifest) -> None:
    content = {
        "format": FORMAT,
        "version": VERSION,
        "samples": manifest.samples,
        "fingerprint": manifest.fingerprint.to_json(),
    }
    write_file(layout.manifest, to_bytes(content))


def read_manifest(layout: Layout) -> Manifest:
    """Raises FitStoreNotFoundError, or FormatVersionError for another format or version."""
    try:
        content = read_sealed(layout.manifest, format_name=FORMAT, version=VERSION)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FitStoreNotFoundError(
            f"{layout.root} holds no fit store (no store.json); make one with `spin-pipe fit-static`"
        ) from error
    samples = content.get("samples")
    if not isinstance(samples, int) or samples < 0:
        raise FormatVersionError(f"{layout.manifest}: samples must be a count, found {samples!r}")
    return Manifest(samples, Fingerprint.from_json(content.get("fingerprint"), where=str(layout.manifest)))


def read_current(layout: Layout) -> int:
    """The number of the current generation. Raises FormatVersionError if the pointer is missing or damaged."""
    try:
        content = layout.current.read_bytes()
    except FileNotFoundError as error:
        raise FormatVersionError(f"{layout.current} is missing; restore it from a copy") from error
    number = content.partition(b" ")[0]
    if not number.isdigit() or content != _current_line(int(number)):
        raise FormatVersionError(f"{layout.current}: damaged, found {content[:40]!r}; restore it from a copy")
    return int(number)


def write_current(layout: Layout, number: int) -> None:
    write_file(layout.current, _current_line(number))


def _current_line(number: int) -> bytes:
    """'NUMBER CHECKSUM': one flipped bit must not point to another generation."""
    text = f"{number:06d}"
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()
