"""Reads and writes the files of the exchange formats. Nothing in them is executed; one line names a damaged one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from store.errors import ExchangeError
from store.files.atomic import write_named_by_content

BODY_KEY = "spin_pipe_body"
"""The key under which spin-pipe adds the fingerprint of the body to an .npz; other programs ignore it."""


def unusable(path: Path, text: str) -> ExchangeError:
    """Return an error of one line that names the file; unprintable characters, which the file may hold, become '?'."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return ExchangeError(f"{path}: {shown}")


def require_file(path: Path, what: str) -> None:
    if not path.is_file():
        raise ExchangeError(f"{path}: no such file of {what}; correct the path")


def read_array(path: Path, expected: str) -> np.ndarray:
    """Return an .npy file's array."""
    content = _guarded(path, expected, lambda: np.load(path, allow_pickle=False))
    if not isinstance(content, np.ndarray):
        content.close()
        raise ExchangeError(f"{path}: expected {expected}, found an archive of arrays")
    return content


def array_names(path: Path, expected: str) -> frozenset[str]:
    """Return the names of an .npz file's arrays."""

    def names() -> frozenset[str]:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise ValueError("it holds one array without a name")
        with content:
            return frozenset(content.files)

    return _guarded(path, expected, names)


def read_arrays(path: Path, names: Iterable[str], expected: str) -> dict[str, np.ndarray]:
    """Return those of the named arrays that an .npz has."""

    def arrays() -> dict[str, np.ndarray]:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in names if name in content.files}

    return _guarded(path, expected, arrays)


def read_json(path: Path, expected: str, keep: Callable[[dict[str, Any]], Any]) -> Any:
    """Return a JSON file's content; `keep` replaces each object as soon as it is read, to save memory."""
    return _guarded(path, expected, lambda: json.loads(path.read_text(encoding="utf-8"), object_hook=keep))


def _guarded(path: Path, expected: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # numpy, zipfile and json raise errors of any kind on damage
        reason = str(error)[:200] or type(error).__name__
        raise unusable(path, f"expected {expected}; it can't be read ({reason})") from error


def numbers(path: Path, name: str, array: np.ndarray, shape: tuple[int, ...], dtype: str = "<f4") -> np.ndarray:
    """Return the array as `dtype`; what overflows becomes infinite.

    Raises ExchangeError unless it holds real numbers in that shape.
    """
    if array.dtype.kind not in "fiub" or array.shape != shape:
        raise unusable(path, f"{name} should hold numbers of shape {shape}, found {array.dtype} of shape {array.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def flags(path: Path, name: str, array: np.ndarray, count: int) -> np.ndarray:
    """Return one bool per row: whether it is above 0."""
    return numbers(path, name, array, (count,), "<f8") > 0


def texts(path: Path, name: str, array: np.ndarray, count: int) -> list[str]:
    """Return one text per row; bytes are UTF-8."""
    if array.dtype.kind not in "US" or array.shape != (count,):
        raise unusable(path, f"{name} should hold {count} texts, found {array.dtype} of shape {array.shape}")
    try:
        return [text.decode() if isinstance(text, bytes) else str(text) for text in array.tolist()]
    except UnicodeDecodeError as error:
        raise ExchangeError(f"{path}: {name} holds bytes that are not UTF-8 ({error})") from error


def body_named(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Return the fingerprint of the body in an .npz, or ''."""
    array = arrays.get(BODY_KEY)
    named = "" if array is None else texts(path, BODY_KEY, array.reshape(-1)[:1], 1)[0]
    if not named.isprintable():
        raise unusable(path, f"{BODY_KEY} should be a body's fingerprint, found {named[:50]!r}")
    return named


def missing_keys(path: Path, expected: str, names: Iterable[str]) -> ExchangeError:
    found = ", ".join(sorted(names)[:20]) or "nothing"
    return unusable(path, f"expected {expected}, found {found}")


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write or replace an .npz, atomically; its folder is made if there is none."""

    def fill(handle: BinaryIO) -> None:
        np.savez(handle, **arrays)  # type: ignore[arg-type]

    _write(path, ".npz", fill)


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write or replace an .npy, atomically; its folder is made if there is none."""
    _write(path, ".npy", lambda handle: np.save(handle, array, allow_pickle=False))


def write_json(path: Path, content: Any) -> None:
    """Write or replace a JSON file, atomically; its folder is made if there is none."""

    def fill(handle: BinaryIO) -> None:
        for piece in json.JSONEncoder(allow_nan=False).iterencode(content):
            handle.write(piece.encode())

    _write(path, ".json", fill)


def _write(path: Path, suffix: str, fill: Callable[[BinaryIO], None]) -> None:
    if path.suffix != suffix:
        raise ExchangeError(f"{path}: the name must end in {suffix}")

    def named(handle: BinaryIO) -> str:
        fill(handle)
        return path.name

    path.parent.mkdir(parents=True, exist_ok=True)
    write_named_by_content(path.parent, named)
