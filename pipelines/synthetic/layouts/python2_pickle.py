"""Pickles as Python 2 wrote them (protocol 2): what 3DPW's sequences are.

Python 3's own module would name other functions for arrays, and write bytes as calls; these are the opcodes of the original.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_MARK, _TUPLE, _REDUCE, _BUILD, _NONE = b"(", b"t", b"R", b"b", b"N"
_END_OF_DICT, _END_OF_LIST = b"u", b"e"


def dumps(value: Any) -> bytes:
    """Return a pickle of dictionaries, lists, tuples, texts, numbers and arrays of numbers.

    Raise TypeError for anything else.
    """
    return b"\x80\x02" + _write(value) + pickle.STOP


def _write(value: Any) -> bytes:
    if value is None:
        return _NONE
    if isinstance(value, np.ndarray):
        return _array(value)
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):
            return write(value)
    raise TypeError(f"a {type(value).__name__} is not written")


def _string(data: bytes) -> bytes:
    """A `str` of Python 2."""
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    return b"J" + struct.pack("<i", value)


def _dictionary(value: dict[Any, Any]) -> bytes:
    items = b"".join(_write(k) + _write(v) for k, v in value.items())
    return b"}" + _MARK + items + _END_OF_DICT


def _list(value: list[Any]) -> bytes:
    return b"]" + _MARK + b"".join(map(_write, value)) + _END_OF_LIST


def _tuple(value: tuple[Any, ...]) -> bytes:
    return _MARK + b"".join(map(_write, value)) + _TUPLE


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _array(value: np.ndarray) -> bytes:
    kind = value.dtype.newbyteorder("<")
    letter = kind.str[1:]
    order = "|" if kind.itemsize == 1 else "<"
    dtype = _name("numpy", "dtype") + _tuple((letter, 0, 1)) + _REDUCE
    dtype += _tuple((3, order, None, None, None, -1, -1, 0)) + _BUILD
    empty = _MARK + _name("numpy", "ndarray") + _tuple((0,)) + _string(b"b") + _TUPLE
    data = _string(np.ascontiguousarray(value, kind).tobytes())
    state = _MARK + _write(1) + _tuple(value.shape) + dtype + _write(False) + data + _TUPLE
    return _name("numpy.core.multiarray", "_reconstruct") + empty + _REDUCE + state + _BUILD


_WRITERS: dict[type, Callable[[Any], bytes]] = {
    bool: lambda value: b"\x88" if value else b"\x89",
    int: _integer,
    float: lambda value: b"G" + struct.pack(">d", value),
    str: lambda value: _string(value.encode("latin1")),
    dict: _dictionary,
    list: _list,
    tuple: _tuple,
}
