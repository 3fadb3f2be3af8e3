"""A fit store's files in a folder of this machine: whole by renaming, durable by syncing, one at a time by a lock."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from store.errors import OutsideError
from store.files.atomic import (
    locked,
    make_folder,
    remove_folder,
    sync_folder,
    write_file,
    write_folder,
)
from store.files.base import Files, Put, inside, is_temporary


class LocalFiles:
    """Files in a folder. See store.files.Files for what each method promises."""

    concurrency = 2  # checksums of one read run while another copies; the disk is no slower for it

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def where(self, name: str) -> str:
        return str(self.root / name)

    def _path(self, name: str) -> Path:
        """Return a file's path. Raise OutsideError if its name, or a link on the way, leads out of the root."""
        path = self.root / inside(name, self.location)
        root, real = os.path.realpath(self.root), os.path.realpath(path)
        if real != root and not real.startswith(root.rstrip("/") + "/"):
            raise OutsideError(f"{path}: leads out of the store, to {real}; remove the link")
        return path

    def read(self, name: str) -> bytes:
        return self._path(name).read_bytes()

    def exists(self, name: str) -> bool:
        return self._path(name).exists()

    def children(self, folder: str) -> list[str]:
        return sorted(name for name in self._names(folder) if not is_temporary(name))

    def descendants(self, folder: str) -> list[str]:
        top = self._path(folder)
        found = [Path(parent, name) for parent, _, names in os.walk(top, onerror=_unless_gone) for name in names]
        return sorted(path.relative_to(top).as_posix() for path in found)

    def temporaries(self, folder: str) -> list[str]:
        return sorted(f"{folder}/{name}".lstrip("/") for name in self._names(folder) if is_temporary(name))

    def _names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self._path(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        self._make(path.parent)
        write_file(path, content)

    def _make(self, folder: Path) -> None:
        if folder != self.root:
            if not folder.parent.exists():
                self._make(folder.parent)
            make_folder(folder)

    def create(self, name: str, content: bytes) -> bool:
        # Every created name is new, or written under the lock.
        if self.exists(name):
            return False
        self.write(name, content)
        return True

    def swap(self, name: str, expected: bytes, content: bytes) -> bool:
        if self.read(name) != expected:
            return False
        write_file(self._path(name), content)
        return True

    def write_root(self, fill: Callable[[Files], None]) -> None:
        def fill_folder(folder: Path) -> None:
            for part in ("generations", "segments", "tags"):
                (folder / part).mkdir()
            fill(LocalFiles(folder))

        self.root.parent.mkdir(parents=True, exist_ok=True)
        write_folder(self.root, fill_folder)

    def claim(self, tree: str) -> bool:
        return not self.exists(tree)  # the lock is held until it is there

    def stale_claims(self, older_than_s: float) -> list[str]:
        return []

    def write_tree(self, tree: str, inventory: str, fill: Callable[[Put], bytes]) -> None:
        def fill_folder(folder: Path) -> None:
            def put(name: str, content: bytes) -> None:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

            # Before the tree has its name: every named tree has an inventory.
            self.write(inventory, fill(put))

        write_folder(self._path(tree), fill_folder)

    def remove_tree(self, tree: str, inventory: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            remove_folder(self._path(tree))
        self.remove(inventory)

    def remove(self, *names: str) -> None:
        for name in names:
            self._path(name).unlink(missing_ok=True)

    def prune(self, folder: str) -> None:
        try:
            self._path(folder).rmdir()
        except OSError:
            return  # it is not empty; a writer that is about to use it would make it again

    def sync(self) -> None:
        sync_folder(self.root)

    def leftovers(self, older_than_s: float) -> list[str]:
        """Include segments only if untouched for this long, as their writers hold no lock. The caller holds `exclusive`."""
        found = [name for folder in ("", "generations", "tags", "fences") for name in self.temporaries(folder)]
        before = time.time() - older_than_s
        for folder in self.children("segments"):
            for name in self.temporaries(f"segments/{folder}"):
                with contextlib.suppress(FileNotFoundError):  # finished since
                    if self._path(name).stat().st_mtime <= before:
                        found.append(name)
        return sorted(found)

    def discard(self, leftover: str) -> None:
        path = self._path(leftover)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def exclusive(self) -> AbstractContextManager[None]:
        return locked(self.root / "lock")

    def zarr_store(self) -> Any:
        from zarr.storage import LocalStore

        return LocalStore(self.root)


def _unless_gone(error: OSError) -> None:
    """A folder that can't be listed must not look like an empty one."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
