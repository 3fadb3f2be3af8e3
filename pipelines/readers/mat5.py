"""Arrays of numbers from MATLAB 5 files (versions 5 to 7 of MATLAB), by MathWorks' "MAT-File Format".

scipy reads all that such a file may hold, but a damaged one can end the process that reads it, without an exception. Here is
what a plain array needs, and any file ends in an array or a ValueError.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

_HEADER_BYTES = 128
_MOST_BYTES = 256 << 20  # unpacked: a small file may claim any number
# Numbers of a data element's kind (table 1-1), and of an array's (table 1-3), whose numbers may be stored as smaller ones.
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED, _UTF8 = 1, 5, 6, 14, 15, 16
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_OTHER = {1: "cells", 2: "structs", 3: "objects", 4: "text", 5: "a sparse matrix"}
_COMPLEX = 0x0800


def array_of(data: bytes, name: str) -> np.ndarray:
    """The variable of this name in a file's bytes, in MATLAB's axes. ValueError if there is none, or no array of numbers."""
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("no header of MATLAB 5")
    found = []
    for kind, content in _elements(data[_HEADER_BYTES:], order):
        if kind == _COMPRESSED:
            kind, content = next(_elements(_unpacked(content), order), (0, b""))
        if kind == _MATRIX:
            parts = list(_elements(content, order))
            found.append(_name(parts))
            if found[-1] == name:
                return _numbers(parts, order)
    raise ValueError(f"no variable {name!r}, but {', '.join(map(repr, found)) or 'none'}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Kind and content of data elements that stand one after the other. What is cut off at the end is a ValueError."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:  # up to four bytes lie within the tag
            kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise ValueError(f"a small element claims {size} bytes")
        else:
            start = at + 8
            after = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(data):
            raise ValueError(f"ends {start + size - len(data)} bytes too early")
        yield kind, data[start : start + size]
        at = after


def _unpacked(content: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        out = unpacker.decompress(content, _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"can't be unpacked: {error}") from error
    if not unpacker.eof:
        raise ValueError(f"is cut short, or over {_MOST_BYTES >> 20} MB unpacked")
    return out


def _name(parts: list[tuple[int, bytes]]) -> str:
    """Of a matrix: its third part, after flags and dimensions. Some programs write it as UTF-8."""
    return parts[2][1].decode("latin-1") if len(parts) > 2 and parts[2][0] in (_INT8, _UTF8) else ""


def _numbers(parts: list[tuple[int, bytes]], order: str) -> np.ndarray:
    (flags_kind, flags), (dimensions_kind, dimensions) = parts[:2]
    if (
        flags_kind != _UINT32
        or len(flags) != 8
        or dimensions_kind not in (_INT32, _UINT32)
        or len(dimensions) % 4
    ):
        raise ValueError("an array without flags or dimensions")
    flag = int(np.frombuffer(flags, order + "u4")[0])
    kind = _CLASSES.get(flag & 0xFF)
    if kind is None or flag & _COMPLEX:
        what = "complex numbers" if kind else _OTHER.get(flag & 0xFF, "of an unknown kind")
        raise ValueError(f"the variable is {what}; expected real numbers")
    shape = np.frombuffer(dimensions, order + "i4").tolist()
    stored = _STORED.get(parts[3][0]) if len(parts) > 3 else None
    if stored is None or len(shape) > 8 or min(shape, default=-1) < 0:
        raise ValueError(f"an array {shape} without its numbers")
    content = parts[3][1]
    if len(content) != math.prod(shape) * np.dtype(stored).itemsize:
        raise ValueError(f"an array {shape} of {len(content)} bytes of numbers")
    numbers = np.frombuffer(content, order + stored)
    with np.errstate(invalid="ignore", over="ignore"):
        return numbers.astype(kind).reshape(shape, order="F")
