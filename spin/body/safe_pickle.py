"""Reads pickles of arrays (SMPL_*.pkl, gmm_08.pkl, 3DPW's sequences) without executing anything in them.

A pickle is a program that may name any importable function. Those of SMPL name chumpy (unmaintained) and scipy, only to
wrap arrays. This reader knows a short list of names, each bound to numpy or to a stand-in that does nothing but hold
the state it is given, and refuses every other name.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spin.errors import BodyFileError

_PLAIN_TYPE = re.compile(r"[<>|=]?([biufc][0-9]{1,2}|[SU][0-9]{1,6}|O[48]?|\?)")
_LARGEST = 2**25  # numbers in a sparse matrix written out; SMPL's joint regressor has 165,360


class _Held:
    """Stand-in for a class whose instances only carry state. Never calls anything."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


class _Chumpy(_Held):
    """chumpy.Ch: the array is under 'x'."""


class _ChumpySelect(_Held):
    """chumpy.reordering.Select: entries `idxs` of the flattened array `a`, in `preferred_shape`."""


class _Sparse(_Held):
    """A scipy.sparse matrix in compressed form."""


class _CompressedColumns(_Sparse):
    pass


class _CompressedRows(_Sparse):
    pass


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """What protocol-2 pickles call to make bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"asks for encoding {encoding!r}")
    return text.encode("latin1")


class _Type:
    """A numpy.dtype that a pickle describes: of plain numbers, texts or objects, without fields.

    numpy's own would take a layout of fields with objects between raw bytes, and follow these bytes as pointers.
    """

    def __init__(self, spec: object, align: object = False, copy: object = False) -> None:
        if not isinstance(spec, str) or not _PLAIN_TYPE.fullmatch(spec):
            raise pickle.UnpicklingError(f"describes an array of {str(spec)[:40]!r}")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5:
            raise pickle.UnpicklingError("describes an array's type without its state")
        order, *layout = state[1:5]
        if layout != [None, None, None]:  # subarray, names, fields
            raise pickle.UnpicklingError("describes an array of structures")
        if order in ("<", ">") and self.dtype.kind != "O":
            self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array that a pickle fills; what fills it is checked first, as numpy's own `__setstate__` trusts it."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not (isinstance(kind, _Type) and isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)):
            raise pickle.UnpicklingError("describes an array without its type or shape")
        count = math.prod(shape)
        if kind.dtype.kind == "O":
            if not isinstance(content, list) or len(content) != count:
                raise pickle.UnpicklingError("describes an array of objects without them")
        else:
            content = _raw(content)
            if len(content) != count * kind.dtype.itemsize:
                raise pickle.UnpicklingError(f"describes an array of shape {shape} with {len(content)} bytes")
        super().__setstate__((1, shape, kind.dtype, bool(fortran), content))  # type: ignore[arg-type]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)


_NDARRAY = "numpy.ndarray"
"""What the name numpy.ndarray is bound to: it can be passed on, and does nothing."""


def _reconstruct_array(_: object, shape: object, kind: object) -> np.ndarray:
    return _Array(0, np.uint8)


def _scalar(kind: object, content: object) -> Any:
    if not isinstance(kind, _Type) or kind.dtype.kind == "O":
        raise pickle.UnpicklingError("describes a number without its type")
    raw = _raw(content)
    if len(raw) != kind.dtype.itemsize:
        raise pickle.UnpicklingError(f"describes a number with {len(raw)} bytes")
    return np.frombuffer(raw, kind.dtype)[0]


def _raw(content: object) -> bytes:
    """Return an array's bytes, which Python 2 wrote as text."""
    if isinstance(content, str):
        return content.encode("latin1")
    if not isinstance(content, (bytes, bytearray)):
        raise pickle.UnpicklingError(f"describes an array by a {type(content).__name__}")
    return bytes(content)


def _no_bytes() -> bytes:
    """Return what Python 3 writes by a call in the oldest protocols: the bytes of an array without numbers."""
    return b""


def _reconstruct_object(cls: type, _base: type, _state: object) -> object:
    if not (isinstance(cls, type) and issubclass(cls, _Held)):
        raise pickle.UnpicklingError(f"asks to build a {cls!r}")
    return cls.__new__(cls)


def _allowed_names() -> dict[tuple[str, str], Callable[..., Any] | type]:
    names: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _NDARRAY,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _encode_latin1,
        ("copy_reg", "_reconstructor"): _reconstruct_object,
        ("copyreg", "_reconstructor"): _reconstruct_object,
        ("__builtin__", "bytes"): _no_bytes,
        ("__builtin__", "object"): object,
        ("builtins", "object"): object,
        ("collections", "OrderedDict"): dict,
        ("chumpy.reordering", "Select"): _ChumpySelect,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[core, "_reconstruct"] = _reconstruct_array
        names[core, "scalar"] = _scalar
    names |= {(module, "Ch"): _Chumpy for module in ("chumpy", "chumpy.ch")}
    for column, row in (("scipy.sparse.csc", "scipy.sparse.csr"), ("scipy.sparse._csc", "scipy.sparse._csr")):
        names |= {(column, kind): _CompressedColumns for kind in ("csc_matrix", "csc_array")}
        names |= {(row, kind): _CompressedRows for kind in ("csr_matrix", "csr_array")}
    return names


# In Python, not in C: the C version reserves memory by a number in the file, 10 GB for a damaged one of 10 kB.
class _Unpickler(pickle._Unpickler):
    allowed = _allowed_names()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"names {module}.{name}, which a file of arrays has no use for") from None

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError("asks for a persistent object")


def _dense(sparse: _Sparse) -> np.ndarray:
    state = sparse.state
    shape = tuple(int(n) for n in state["_shape" if "_shape" in state else "shape"])
    if len(shape) != 2 or not 0 <= math.prod(shape) <= _LARGEST:
        raise pickle.UnpicklingError(f"describes a matrix of shape {shape}, more than {_LARGEST:,} numbers")
    data, indices, starts = (np.asarray(state[k]) for k in ("data", "indices", "indptr"))
    out = np.zeros(shape, np.float64)
    along = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    # Entries that appear twice add up, as in SciPy.
    if isinstance(sparse, _CompressedColumns):
        np.add.at(out, (indices, along), data)
    else:
        np.add.at(out, (along, indices), data)
    return out


def _plain(value: Any) -> Any:
    """Return the array of a stand-in; other values unchanged."""
    if isinstance(value, _Sparse):
        return _dense(value)
    if isinstance(value, _ChumpySelect):
        whole = np.asarray(_plain(value.state["a"]))
        chosen = whole.ravel()[np.asarray(value.state["idxs"], np.int64)]
        shape = value.state.get("preferred_shape")
        return chosen if shape is None else chosen.reshape(tuple(int(n) for n in shape))
    if isinstance(value, _Chumpy):
        return _plain(value.state["x"])
    return value.view(np.ndarray) if isinstance(value, _Array) else value


def read_array_pickle(path: str | Path) -> dict[str, Any]:
    """Return the dictionary of arrays in a pickle of SMPL's or SMPLify's, without chumpy's and SciPy's wrappers.

    Raises BodyFileError, naming the file, if it is missing, damaged, no dictionary, or names anything outside the list.
    """
    return _read(Path(path), "a body-model pickle of arrays")


def read_data_pickle(path: str | Path) -> dict[str, Any]:
    """Return the dictionary in a pickle of a data set's: arrays, numbers, texts, and lists of them, as Python 2 or 3 wrote it.

    Raises BodyFileError, as `read_array_pickle`.
    """
    return _read(Path(path), "a pickle of arrays and lists")


def _read(file: Path, expected: str) -> dict[str, Any]:
    if not file.is_file():
        raise BodyFileError(f"{file}: no such file")
    try:
        content = _Unpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"holds a {type(content).__name__}, expected a dictionary")
        return {str(key): _plain(value) for key, value in content.items()}
    except MemoryError:
        raise BodyFileError(f"{file}: asks for more memory than there is; the file is damaged") from None
    except Exception as error:  # a damaged pickle can raise nearly anything, and all of it means the same
        reason = " ".join(str(error).split())[:200]
        raise BodyFileError(f"{file}: refused, it {reason}; expected {expected}") from error
