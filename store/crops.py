"""Packed crops: every person's surroundings as a small JPEG, all of a data set in one file that is mapped into memory.

The file (little-endian), written whole or not at all:

    SPINCROP                                8 bytes
    JPEG JPEG JPEG ...                      one after the other
    index                                   a record of ROW for each row of the annotations, in their order
    footer                                  JSON, UTF-8: what the crops were made for and belong to, what packing cost
    length of the footer, its CRC-32        uint32 each
    SPINCROP                                8 bytes

So a crop is found by its row's number, and read alone. A row without a crop has size 0, and its reason in the footer. The
footer has the checksum of the index, and the index that of each JPEG, so damage is found before it is used. In an Arrow file
mapped into memory a flipped bit in an offset would end the process.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from store.errors import CropsError
from store.files.atomic import remove_leftovers, write_named_by_content

if TYPE_CHECKING:
    from jaxtyping import Float64

MAGIC = b"SPINCROP"
FORMAT, VERSION = "spin-pipe-crops", 1
ROW = np.dtype([("at", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("zoom", "<f8", 2), ("offset", "<f8", 2)], align=False)
"""Where a row's JPEG is in the file, and the affine to its pixels from the image's: zoom · image px + offset."""
_END = struct.Struct("<II8s")
_REMEDY = "make it again with `spin-pipe pack`"


@dataclass(frozen=True)
class MadeFor:
    """What the crops were made for: sharp at `crop_px`, with all that augmentations of these spreads can reach."""

    crop_px: int
    scale: float  # largest change of the box's side, a share
    rotation_deg: float  # largest turn


@dataclass(frozen=True)
class PackingSummary:
    """What packing cost and saved."""

    rows: int
    unreadable: int
    bytes: int  # of the JPEGs
    image_bytes: int  # of the images they were cut from
    quality: int
    compared: int  # training crops that were cut from both
    mean_absolute_difference: float  # between them, grey levels
    psnr_db: float
    made_for: MadeFor


@dataclass(frozen=True)
class CropRow:
    """One person's JPEG and the affine (2, 3) to its pixels from the image's; or why there is none."""

    jpeg: bytes | None
    from_image: Float64[np.ndarray, "2 3"]
    problem: str = ""


@dataclass(frozen=True)
class PackedCrop:
    """One person's JPEG, in the mapped file, and the affine to its pixels from the image's."""

    jpeg: memoryview
    from_image: Float64[np.ndarray, "2 3"]


class CropsWriter:
    """Writes the rows in order; `close` needs all of them."""

    def __init__(self, handle: BinaryIO, *, rows: int) -> None:
        self._handle, self._index, self._rows = handle, np.zeros(rows, ROW), rows
        self._problems: dict[int, str] = {}
        self._written, self._at = 0, handle.write(MAGIC)

    def add(self, rows: Iterable[CropRow]) -> None:
        for row in rows:
            if self._written < self._rows:
                content = row.jpeg or b""
                affine = np.diag(row.from_image), row.from_image[:, 2]
                self._index[self._written] = (self._at, len(content), zlib.crc32(content), *affine)
                self._at += self._handle.write(content)
                if row.jpeg is None:
                    self._problems[self._written] = row.problem
            self._written += 1

    def close(self, content: dict[str, Any]) -> None:
        """Finish the file. Raises CropsError if rows are missing, or too many."""
        if self._written != self._rows:
            raise CropsError(f"packed crops: {self._written} rows of {self._rows} were added")
        index = self._index.tobytes()
        footer = {
            "format": FORMAT,
            "version": VERSION,
            **content,
            "rows": self._rows,
            "index_at": self._at,
            "index_crc32": zlib.crc32(index),
            "problems": self._problems,
        }
        text = json.dumps(footer).encode()
        self._handle.write(index + text + _END.pack(len(text), zlib.crc32(text), MAGIC))


def write_crops(
    path: Path,
    parts: Iterable[list[CropRow]],
    summary: dict[str, Any],
    *,
    dataset: str,
    annotations: str,
    rows: int,
    made_for: MadeFor,
) -> None:
    """Write or replace the file, atomically, as the parts come; `summary` is read when the last has come.

    Keys of the summary: those of PackingSummary but `rows` and `made_for`, which the file knows.
    """

    def fill(handle: BinaryIO) -> str:
        writer = CropsWriter(handle, rows=rows)
        for part in parts:
            writer.add(part)
        content = {"dataset": dataset, "annotations": annotations, "made_for": asdict(made_for)}
        writer.close({**content, "summary": summary})
        return path.name

    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    write_named_by_content(path.parent, fill)


class PackedCrops:
    """The crops of one data set. Any number of threads and processes may read the same file."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises CropsError if the file is missing, damaged or of another format."""
        self.path = path
        try:
            self._content = np.memmap(path, np.uint8, "r")
        except FileNotFoundError as error:
            raise CropsError(f"{path}: no such packed crops; make them with `spin-pipe pack`") from error
        except (OSError, ValueError) as error:
            raise CropsError(f"{path}: can't be read ({error}); {_REMEDY}") from error
        footer, size = self._footer()
        try:
            self._rows, start = int(footer["rows"]), int(footer["index_at"])
            index = self._content[start : self._content.size - size].tobytes()
            self._index = np.frombuffer(index, ROW)
            if zlib.crc32(index) != footer["index_crc32"] or len(self._index) != self._rows:
                raise ValueError("its index is not as written")
            self.dataset, self.annotations = str(footer["dataset"]), str(footer["annotations"])
            self.made_for = MadeFor(**footer["made_for"])
            self.problems = {int(row): str(text) for row, text in footer["problems"].items()}
            """Rows without a crop, and why."""
            self.summary = PackingSummary(rows=self._rows, made_for=self.made_for, **footer["summary"])
            """What packing cost and saved."""
        except (KeyError, TypeError, ValueError) as error:
            raise CropsError(f"{path}: damaged packed crops ({error}); {_REMEDY}") from error

    def _footer(self) -> tuple[dict[str, Any], int]:
        """Return the footer, and how many bytes it takes with what follows it."""
        content, end = self._content, _END.size
        if content.size < len(MAGIC) + end or content[: len(MAGIC)].tobytes() != MAGIC:
            raise CropsError(f"{self.path}: not packed crops, or damaged; {_REMEDY}")
        length, checksum, magic = _END.unpack(content[-end:].tobytes())
        text = content[max(0, content.size - end - length) : content.size - end].tobytes()
        if magic != MAGIC or zlib.crc32(text) != checksum:
            raise CropsError(f"{self.path}: packed crops that are cut short or damaged; {_REMEDY}")
        footer = json.loads(text)
        found = (footer.get("format"), footer.get("version"))
        if found != (FORMAT, VERSION):
            raise CropsError(
                f"{self.path}: expected {FORMAT} version {VERSION}, found {found[0]} version {found[1]}; {_REMEDY}"
            )
        return footer, length + end

    def __len__(self) -> int:
        return self._rows

    def require(self, annotations: str) -> None:
        """Raise CropsError unless these are the crops of the annotations with this content hash."""
        if self.annotations != annotations:
            raise CropsError(
                f"{self.path}: packed from other annotations of {self.dataset!r} than there are now; run "
                f"`spin-pipe pack {self.dataset}` again, or remove the file to train from the images"
            )

    def get(self, row: int) -> PackedCrop | str:
        """Return the crop of a row, or why there is none. Raises CropsError if it is damaged."""
        if not 0 <= row < self._rows:
            raise CropsError(f"{self.path}: no row {row}; there are {self._rows}")
        if row in self.problems:
            return self.problems[row]
        entry = self._index[row]
        at, size = int(entry["at"]), int(entry["size"])
        content = self._content.data[at : at + size]
        if zlib.crc32(content) != entry["crc32"]:
            raise CropsError(f"{self.path}: the crop of row {row} is damaged; {_REMEDY}")
        (zoom_x, zoom_y), (x, y) = entry["zoom"], entry["offset"]
        return PackedCrop(content, np.array([[zoom_x, 0, x], [0, zoom_y, y]]))


def packing_summary(path: str | Path) -> PackingSummary:
    """Return what packing cost and saved, from the file. Raises CropsError if it is missing, damaged or of another format."""
    return PackedCrops(Path(path)).summary
