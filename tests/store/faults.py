"""A disk that refuses: the n-th call that goes to it fails, as it does on a full, forbidden or failing one."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CALLS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "listdir", "scandir", "open")  # of os
READ, WRITE, HANDLE = "read_bytes", "write_bytes", "open"  # of Path


class Faults:
    """Counts calls to the disk; the `at`-th (from 0) raises an OSError, those after it work again.

    A failing write leaves half of its bytes behind. Of calls of one kind on names inside an unfinished folder only the
    first and then every 40th count, and a run of syncs counts once: whichever of them fails, the same is left.
    """

    def __init__(self, patch: pytest.MonkeyPatch, at: int, code: int) -> None:
        self.calls, self.at, self.code = 0, at, code
        self.failed = self.before = ""
        self._inside: Counter[str] = Counter()
        for name in CALLS:
            patch.setattr(os, name, self._failing(name, getattr(os, name)))
        patch.setattr(Path, READ, self._failing(READ, getattr(Path, READ)))
        patch.setattr(Path, WRITE, self._writing(getattr(Path, WRITE)))
        patch.setattr(Path, HANDLE, self._opening(getattr(Path, HANDLE)))

    @property
    def happened(self) -> bool:
        return bool(self.failed)

    def _turn(self, name: str, subject: object) -> bool:
        inside = ".tmp-" in os.path.dirname(str(subject))
        repeated = name == self.before == "fsync" or (inside and self._inside[name] % 40 > 0)
        self.before = name
        self._inside[name] += inside
        if repeated:
            return False
        self.calls += 1
        if self.calls != self.at + 1:
            return False
        self.failed = name
        return True

    def _error(self, subject: object) -> OSError:
        return OSError(self.code, os.strerror(self.code), str(subject))

    def _failing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(subject: Any = ".", *arguments: Any, **named: Any) -> Any:
            if self._turn(name, subject):
                raise self._error(subject)
            return call(subject, *arguments, **named)

        return failing

    def _writing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def writing(path: Path, content: bytes) -> Any:
            if self._turn(WRITE, path):
                call(path, bytes(content)[: len(content) // 2])
                raise self._error(path)
            return call(path, content)

        return writing

    def _opening(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def opening(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if "x" in mode or "w" in mode:
                if self._turn("open to write", path):
                    raise self._error(path)
                return _Handle(call(path, mode, *arguments, **named), self, path)
            return call(path, mode, *arguments, **named)

        return opening


class _Handle:
    """An open file whose write may fail in the middle."""

    def __init__(self, handle: Any, faults: Faults, path: Path) -> None:
        self._handle, self._faults, self._path = handle, faults, path

    def write(self, content: bytes) -> int:
        if self._faults._turn("write", self._path):
            self._handle.write(memoryview(content)[: len(content) // 2])
            raise self._faults._error(self._path)
        written: int = self._handle.write(content)
        return written

    def __enter__(self) -> _Handle:
        self._handle.__enter__()
        return self

    def __exit__(self, *arguments: Any) -> Any:
        return self._handle.__exit__(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


CODES = (errno.ENOSPC, errno.EACCES, errno.EIO)
