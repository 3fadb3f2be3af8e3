"""Reading and writing the files of the exchange formats. Nothing in them is executed; a damaged one is named, in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from store.errors import ExchangeError
from store.files.atomic import write_named_by_content

BODY_KEY = "spin_pipe_body"
"""Whose pose and betas an .npz holds, as spin-pipe adds it; other programs read the keys they know and leave it."""


def refusal(path: Path, text: str) -> ExchangeError:
    """One line that names the file. What is quoted from the file may hold anything: only what can be printed stays."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return ExchangeError(f"{path}: {shown}")


def require_file(path: Path, what: str) -> None:
    if not path.is_file():
        raise ExchangeError(f"{path}: no such file of {what}")


def read_array(path: Path, expected: str) -> np.ndarray:
    """An .npy file's array."""
    content = _guarded(path, expected, lambda: np.load(path, allow_pickle=False))
    if not isinstance(content, np.ndarray):
        content.close()
        raise ExchangeError(f"{path}: expected {expected}, found an archive of arrays")
    return content


def array_names(path: Path, expected: str) -> frozenset[str]:
    """The names of an .npz file's arrays."""

    def names() -> frozenset[str]:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise ValueError("it holds one array without a name")
        with content:
            return frozenset(content.files)

    return _guarded(path, expected, names)


def read_arrays(path: Path, names: Iterable[str], expected: str) -> dict[str, np.ndarray]:
    """Those of the named arrays that an .npz has."""

    def arrays() -> dict[str, np.ndarray]:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in names if name in content.files}

    return _guarded(path, expected, arrays)


def read_json(path: Path, expected: str, keep: Callable[[dict[str, Any]], Any]) -> Any:
    """A JSON file; `keep` makes of each object, as soon as it is read, what is kept of it."""
    return _guarded(path, expected, lambda: json.loads(path.read_text(encoding="utf-8"), object_hook=keep))


def _guarded(path: Path, expected: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # numpy, zipfile and json raise whatever damage leads them to
        reason = str(error)[:200] or type(error).__name__
        raise refusal(path, f"expected {expected}; it can't be read ({reason})") from error


def numbers(
    path: Path, name: str, array: np.ndarray, shape: tuple[int, ...], dtype: str = "<f4"
) -> np.ndarray:
    """The array as `dtype`. ExchangeError unless it holds real numbers in that shape; what overflows becomes infinite."""
    if array.dtype.kind not in "fiub" or array.shape != shape:
        raise refusal(
            path, f"{name} should hold numbers of shape {shape}, found {array.dtype} of shape {array.shape}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def flags(path: Path, name: str, array: np.ndarray, count: int) -> np.ndarray:
    """One yes or no a row: above 0 is yes."""
    return numbers(path, name, array, (count,), "<f8") > 0


def texts(path: Path, name: str, array: np.ndarray, count: int) -> list[str]:
    """One text a row; bytes are UTF-8."""
    if array.dtype.kind not in "US" or array.shape != (count,):
        raise refusal(path, f"{name} should hold {count} texts, found {array.dtype} of shape {array.shape}")
    try:
        return [text.decode() if isinstance(text, bytes) else str(text) for text in array.tolist()]
    except UnicodeDecodeError as error:
        raise ExchangeError(f"{path}: {name} holds bytes that are not UTF-8 ({error})") from error


def body_named(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Whose bodies an .npz says it holds, or ''."""
    array = arrays.get(BODY_KEY)
    named = "" if array is None else texts(path, BODY_KEY, array.reshape(-1)[:1], 1)[0]
    if not named.isprintable():
        raise refusal(path, f"{BODY_KEY} should be a body's fingerprint, found {named[:50]!r}")
    return named


def missing_keys(path: Path, expected: str, names: Iterable[str]) -> ExchangeError:
    found = ", ".join(sorted(names)[:20]) or "nothing"
    return refusal(path, f"expected {expected}, found {found}")


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
