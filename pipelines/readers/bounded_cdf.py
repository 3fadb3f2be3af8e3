"""cdflib's reader, which believes counts in damaged files and would loop for hours, with limits to them.

Records of CDF 3 that count: a variable's descriptor counts its dimensions at byte 340, an index its entries at byte 24.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cdflib
import numpy as np

_Z_VARIABLE, _DIMENSIONS_AT, _MOST_DIMENSIONS = 8, 340, 16
_ENTRIES_AT = 24
_SMALLEST_ENTRY = 16  # bytes: two record numbers and a place
_MOST_INDICES = 10_000


def variable_of(path: Path, name: str) -> np.ndarray:
    """A variable of numbers, float64. ValueError, or whatever cdflib raises, if there is none or the file is damaged."""
    _check_counts(path)
    file = BoundedCDF(path)
    about = file.varinq(name)
    # A damaged number of records would have terabytes set aside; gzip makes data at most a thousand times smaller.
    numbers = (about.Last_Rec + 1) * math.prod(int(size) for size in about.Dim_Sizes)
    if not 0 <= numbers <= 1100 * path.stat().st_size:
        raise ValueError(f"{numbers} numbers do not fit into {path.stat().st_size} bytes")
    return np.asarray(file.varget(name), np.float64)


def _check_counts(path: Path) -> None:
    """ValueError if the file's header counts more variables, attributes or dimensions than its bytes could hold.

    (CDF 3: the descriptor record at byte 8 points to the global
    one, whose counts stand from its byte 44 on.)
    """
    head = path.read_bytes()
    if len(head) < 28 or head[:8] != b"\xcd\xf3\x00\x01\x00\x00\xff\xff":
        return  # an older version, a compressed file, or none: cdflib says so
    at = int.from_bytes(head[20:28], "big")
    counts = np.frombuffer(head[at + 44 : at + 64].ljust(20, b"\xff"), ">i4")
    variables, attributes, _, dimensions, more_variables = counts.tolist()
    if not all(
        0 <= count <= len(head) // 16 for count in (variables, attributes, dimensions, more_variables)
    ):
        raise ValueError("its header counts more than the file holds")


class BoundedCDF(cdflib.CDF):
    """A CDF file whose damaged counts raise ValueError."""

    _indices = 0

    def _read_vdr3(self, byte_loc: int) -> Any:
        if self._number(byte_loc + 8, 4) == _Z_VARIABLE:  # others have the file's dimensions
            self._limit(byte_loc + _DIMENSIONS_AT, _MOST_DIMENSIONS, "dimensions")
        return super()._read_vdr3(byte_loc)

    def _read_vxrs(self, byte_loc: int, *args: Any, **kwargs: Any) -> Any:
        self._indices += 1
        if self._indices > _MOST_INDICES:
            raise ValueError("its indices go in a circle")
        size = self._number(byte_loc, 8)
        self._limit(byte_loc + _ENTRIES_AT, max(size, 0) // _SMALLEST_ENTRY, "entries of an index")
        # A damaged size would allow any count.
        self._limit(byte_loc + _ENTRIES_AT, _MOST_INDICES, "entries of an index")
        return super()._read_vxrs(byte_loc, *args, **kwargs)

    def _limit(self, at: int, most: int, what: str) -> None:
        count = self._number(at, 4)
        if not 0 <= count <= most:
            raise ValueError(f"it counts {count} {what}")

    def _number(self, at: int, size: int) -> int:
        self._f.seek(at)
        return int.from_bytes(self._f.read(size), "big", signed=True)
