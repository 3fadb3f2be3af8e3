"""What a fit store asks of the place where its files lie: a local folder, or an object store.

What every place promises: a file appears whole and durable or not at all; nothing but the pointer CURRENT and fences is ever
replaced, and CURRENT only while it is what it was expected to be; a listing names whatever was finished before it began.
Names are relative, with '/'.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol
from uuid import uuid4

from store.files.atomic import TEMPORARY

Put = Callable[[str, bytes], None]
"""Takes a file's name in a tree, and its content."""


class Files(Protocol):
    """Files under one place. `location` names it in messages.

    A tree is a folder of files with an inventory beside it, which says that it is whole. FileNotFoundError from read if
    there is no such file; other OSErrors if the disk or the network refuses.
    """

    location: str
    concurrency: int
    """Reads worth having under way at once."""

    def where(self, name: str) -> str:
        """The file's full name, for messages."""

    def read(self, name: str) -> bytes: ...

    def exists(self, name: str) -> bool: ...

    def children(self, folder: str) -> list[str]:
        """Names directly in a folder, sorted, but not those that begin with TEMPORARY; none if there is no such folder."""

    def descendants(self, folder: str) -> list[str]:
        """Names of all files below a folder, relative to it, sorted."""

    def temporaries(self, folder: str) -> list[str]:
        """Full names directly in a folder that begin with TEMPORARY, sorted."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, durably. Folders are made if need be."""

    def create(self, name: str, content: bytes) -> bool:
        """As write, but only if there is no such file; says whether there wasn't. Of several who try at once, one succeeds,
        unless they write the same."""

    def swap(self, name: str, expected: bytes, content: bytes) -> bool:
        """Replaces a file if it holds `expected`; says whether it did. Of several who try at once, one succeeds. Locally
        they must hold `exclusive`."""

    def write_root(self, fill: Callable[[Files], None]) -> None:
        """Makes the whole place, which `fill` fills through the files that it is given. Raises FileExistsError if anything
        is there but what an interrupted creation left."""

    def claim(self, tree: str) -> bool:
        """Reserves a tree's name for the caller; False if somebody else has it, or had."""

    def stale_claims(self, older_than_s: float) -> list[str]:
        """Trees that were claimed so long ago, and are not finished."""

    def write_tree(self, tree: str, inventory: str, fill: Callable[[Put], bytes]) -> None:
        """Makes a tree, whole or not at all, under a name that was claimed. `fill` puts its files, and returns the content
        of its inventory."""

    def remove_tree(self, tree: str, inventory: str) -> None:
        """Removes a tree, or what there is of it, and the claim, so that nobody takes half of it for finished."""

    def remove(self, *names: str) -> None:
        """Removes files, those that are there."""

    def prune(self, folder: str) -> None:
        """Removes a folder if it is empty."""

    def sync(self) -> None:
        """Makes durable what another process may have renamed a moment ago in the top folder."""

    def leftovers(self, older_than_s: float) -> list[str]:
        """Names of what was begun and not finished by writers that are dead, or have been silent for so long."""

    def discard(self, leftover: str) -> None:
        """Removes one of them."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Held by whoever tags, compacts, restores or collects, where a place can do that: spares two of them the same work.
        Nothing but `swap` relies on it."""

    def zarr_store(self) -> Any:
        """For zarr's functions, with names as paths."""


def is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(TEMPORARY)


def unique() -> str:
    """A name part that is never used twice, even by a forked process."""
    return uuid4().hex[:16]
