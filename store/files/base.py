"""The protocol between a fit store and the place where its files are stored: a local folder, or an object store.

Every place promises: a file appears whole and durable or not at all; only the pointer CURRENT and fences are ever
replaced, and CURRENT only while it holds what was expected; a listing has every file that was finished before it began.
Names are relative, with '/'.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol
from uuid import uuid4

from store.errors import OutsideError
from store.files.atomic import TEMPORARY

Put = Callable[[str, bytes], None]
"""A function that takes a file's name in a tree, and its content."""


class Files(Protocol):
    """Files under one place. `location` names it in messages.

    A tree is a folder of files with an inventory next to it, which marks it as whole. read raises FileNotFoundError if
    there is no such file, and other OSErrors if the disk or the network fails.
    """

    location: str
    concurrency: int
    """How many reads to run at once."""

    def where(self, name: str) -> str:
        """Return the file's full name, for messages."""

    def read(self, name: str) -> bytes: ...

    def exists(self, name: str) -> bool: ...

    def children(self, folder: str) -> list[str]:
        """Return names directly in a folder, sorted, without those that begin with TEMPORARY; none without a folder."""

    def descendants(self, folder: str) -> list[str]:
        """Return the names of all files below a folder, relative to it, sorted."""

    def temporaries(self, folder: str) -> list[str]:
        """Return full names directly in a folder that begin with TEMPORARY, sorted."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, durably. Missing folders are made."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file if there is none of this name, and return whether it was written. Of several that try at once one
        succeeds, unless they write the same."""

    def swap(self, name: str, expected: bytes, content: bytes) -> bool:
        """Replace a file if it holds `expected`, and return whether it did. Of several that try at once one succeeds.
        Locally they must hold `exclusive`."""

    def write_root(self, fill: Callable[[Files], None]) -> None:
        """Make the whole place; `fill` writes its files through the Files it is passed. Raises FileExistsError if there is
        anything but what an interrupted creation left."""

    def claim(self, tree: str) -> bool:
        """Reserve a tree's name for the caller. Return False if another process has it, or had it."""

    def stale_claims(self, older_than_s: float) -> list[str]:
        """Return unfinished trees that were claimed longer ago than this."""

    def write_tree(self, tree: str, inventory: str, fill: Callable[[Put], bytes]) -> None:
        """Make a tree, whole or not at all, under a claimed name. `fill` puts its files, and returns the content of its
        inventory."""

    def remove_tree(self, tree: str, inventory: str) -> None:
        """Remove a tree, or its remains, and the claim. At no moment does half a tree look finished."""

    def remove(self, *names: str) -> None:
        """Remove those of these files that exist."""

    def prune(self, folder: str) -> None:
        """Remove a folder if it is empty."""

    def sync(self) -> None:
        """Make durable what another process may just have renamed in the top folder."""

    def leftovers(self, older_than_s: float) -> list[str]:
        """Return names of unfinished files whose writers have died, or have written nothing for this long."""

    def discard(self, leftover: str) -> None:
        """Remove one of the leftovers."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Return the lock of tags, compactions, restores and collections, where a place has one. It saves two of them the same
        work; only `swap` relies on it."""

    def zarr_store(self) -> Any:
        """Return a store for zarr's functions, with names as paths."""


def inside(name: str, location: str) -> str:
    """Return a relative name. Raise OutsideError if it leads out of its place: names are read from files."""
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise OutsideError(f"{location}: holds the name {name!r}, which leads out of it; it is damaged, or made to do harm")
    return name


def is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(TEMPORARY)


def unique() -> str:
    """Return part of a name that is never used twice, even by a forked process."""
    return uuid4().hex[:16]
