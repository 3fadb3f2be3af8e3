"""cdflib's reader, which believes counts in damaged files and would loop for hours, with limits to them.

Records of CDF 3 that count: a variable's descriptor counts its dimensions at byte 340, an index its entries at byte 24.
"""

from __future__ import annotations

from typing import Any

import cdflib

_Z_VARIABLE, _DIMENSIONS_AT, _MOST_DIMENSIONS = 8, 340, 16
_ENTRIES_AT = 24
_SMALLEST_ENTRY = 16  # bytes: two record numbers and a place
_MOST_INDICES = 10_000


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
