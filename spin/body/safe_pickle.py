"""Reads pickles of arrays (SMPL_*.pkl, gmm_08.pkl, 3DPW's sequences) without executing anything in them.

A pickle is a program that may name any importable function. Those of SMPL name chumpy (unmaintained) and scipy, only to
wrap arrays. This reader knows a short list of names, each bound to numpy or to a stand-in that does nothing but hold
the state it is given, and refuses every other name.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spin.errors import BodyFileError


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


def _reconstruct_array(_: object, shape: tuple[int, ...], dtype: object) -> np.ndarray:
    return np.ndarray.__new__(np.ndarray, shape, np.dtype(dtype))  # type: ignore[call-overload]


def _reconstruct_object(cls: type, _base: type, _state: object) -> object:
    if not (isinstance(cls, type) and issubclass(cls, _Held)):
        raise pickle.UnpicklingError(f"asks to build a {cls!r}")
    return cls.__new__(cls)


def _allowed_names() -> dict[tuple[str, str], Callable[..., Any] | type]:
    names: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode_latin1,
        ("copy_reg", "_reconstructor"): _reconstruct_object,
        ("copyreg", "_reconstructor"): _reconstruct_object,
        ("__builtin__", "object"): object,
        ("builtins", "object"): object,
        ("collections", "OrderedDict"): dict,
        ("chumpy.reordering", "Select"): _ChumpySelect,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[core, "_reconstruct"] = _reconstruct_array
        names[core, "scalar"] = np._core.multiarray.scalar  # type: ignore[attr-defined]
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
    return value


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
