"""Where a fit store's files lie. Names are relative, with '/'. What follows asks nothing that an object store lacks.

What both promise: a file appears whole and durable or not at all; nothing but the pointer CURRENT is ever replaced, and it
is replaced only while it is what it was expected to be.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from store.durable import (
    TEMPORARY,
    locked,
    make_folder,
    remove_folder,
    sync_folder,
    write_file,
    write_folder,
)
from store.errors import UnusableNameError

_URL = re.compile(r"[a-z][a-z0-9+]*://")


class Files(Protocol):
    """Files under one place. `location` names it in messages.

    FileNotFoundError from read and size if there is no such file; other OSErrors if the disk or the network refuses.
    """

    location: str

    def where(self, name: str) -> str:
        """The file's full name, for messages."""

    def read(self, name: str) -> bytes: ...

    def exists(self, name: str) -> bool: ...

    def size(self, name: str) -> int: ...

    def children(self, folder: str) -> list[str]:
        """Names directly in a folder, finished ones only, sorted; none if there is no such folder."""

    def descendants(self, folder: str) -> list[str]:
        """Names of all files below a folder, relative to it, sorted."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, durably. Its folder is made if need be, but not that folder's own."""

    def create(self, name: str, content: bytes) -> bool:
        """As write, but only if there is no such file; says whether it wrote."""

    def swap(self, name: str, expected: bytes, content: bytes) -> bool:
        """Replaces a file if it holds `expected`; says whether it did. Locally the caller holds `exclusive`."""

    def write_root(self, fill: Callable[[Files], None]) -> None:
        """Makes the whole place, which `fill` fills through the files that it is given. Raises FileExistsError."""

    def put(self, name: str, content: bytes) -> None:
        """Writes one file of a tree that is being filled: durable when the tree is."""

    def write_tree(self, name: str, fill: Callable[[str], None]) -> None:
        """Makes a folder whose files `fill` puts below the name that it is given. Raises FileExistsError."""

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""

    def remove_tree(self, name: str) -> None:
        """Removes a folder and all in it, so that nobody sees half of it as finished."""

    def prune(self, folder: str) -> None:
        """Removes a folder if it is empty."""

    def sync(self) -> None:
        """Makes durable what another process may have renamed a moment ago in the top folder."""

    def leftovers(self, older_than_s: float) -> list[str]:
        """Names of unfinished files and folders; of segments only those untouched for so long, as their writers hold no
        lock. The caller holds `exclusive`."""

    def discard(self, leftover: str) -> None:
        """Removes one of them."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Held by whoever tags, compacts, restores or collects."""

    def zarr_store(self) -> Any:
        """For zarr's functions, with names as paths."""


def open_files(location: str | Path) -> Files:
    """Raises UnusableNameError for a URL: object stores are not supported yet."""
    if _URL.match(str(location)):
        raise UnusableNameError(f"{location}: fits are kept in local folders; name one")
    return LocalFiles(Path(location))


class LocalFiles:
    """Files in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def where(self, name: str) -> str:
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size

    def children(self, folder: str) -> list[str]:
        try:
            names = os.listdir(self.root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.startswith(TEMPORARY))

    def descendants(self, folder: str) -> list[str]:
        top = self.root / folder
        found = [Path(parent, name) for parent, _, names in os.walk(top) for name in names]
        return sorted(path.relative_to(top).as_posix() for path in found)

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        if path.parent != self.root:
            make_folder(path.parent)
        write_file(path, content)

    def create(self, name: str, content: bytes) -> bool:
        # Names that are created are made up anew each time, or written under the lock.
        if self.exists(name):
            return False
        self.write(name, content)
        return True

    def swap(self, name: str, expected: bytes, content: bytes) -> bool:
        if self.read(name) != expected:
            return False
        write_file(self.root / name, content)
        return True

    def write_root(self, fill: Callable[[Files], None]) -> None:
        def fill_folder(folder: Path) -> None:
            for part in ("generations", "segments", "tags"):
                (folder / part).mkdir()
            fill(LocalFiles(folder))

        write_folder(self.root, fill_folder)

    def put(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def write_tree(self, name: str, fill: Callable[[str], None]) -> None:
        write_folder(self.root / name, lambda folder: fill(folder.relative_to(self.root).as_posix()))

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def remove_tree(self, name: str) -> None:
        remove_folder(self.root / name)

    def prune(self, folder: str) -> None:
        try:
            (self.root / folder).rmdir()
        except OSError:
            return  # something is in it; and a writer that is just about to use it makes it again

    def sync(self) -> None:
        sync_folder(self.root)

    def leftovers(self, older_than_s: float) -> list[str]:
        before = time.time() - older_than_s
        found = [path for folder in ("", "generations", "tags") for path in self._unfinished(folder)]
        for folder in self.children("segments"):
            for path in self._unfinished(f"segments/{folder}"):
                with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                    if path.stat().st_mtime <= before:
                        found.append(path)
        return sorted(path.relative_to(self.root).as_posix() for path in found)

    def _unfinished(self, folder: str) -> list[Path]:
        return list((self.root / folder).glob(f"{TEMPORARY}*"))

    def discard(self, leftover: str) -> None:
        path = self.root / leftover
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def exclusive(self) -> AbstractContextManager[None]:
        return locked(self.root / "lock")

    def zarr_store(self) -> Any:
        from zarr.storage import LocalStore

        return LocalStore(self.root)


def unique() -> str:
    """A name part that is never used twice, even by a forked process."""
    return uuid4().hex[:16]
