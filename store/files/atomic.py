"""Files and folders that are either whole or absent, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

TEMPORARY = ".tmp-"
"""Prefix of the names of unfinished or abandoned files; readers ignore them."""
_OLD_S = 60.0  # more than passes between a file's creation and the lock on it


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder durably, if there is none; its parent must exist."""
    folder.mkdir(exist_ok=True)
    # Even if it exists: the process that made it may not have reached this line.
    sync_folder(folder.parent)


def write_named_by_content(folder: Path, fill: Callable[[BinaryIO], str]) -> Path:
    """Write a file that appears in `folder` whole and durable, or not at all.

    fill writes the content and returns the file's name; a file of that name is replaced. Returns the path.
    """
    temporary = folder / f"{TEMPORARY}{uuid4().hex}"
    try:
        with temporary.open("xb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # shows that it is being written (see remove_leftovers)
            name = fill(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)
    return folder / name


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed: old ones without a writer."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError), path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - path.stat().st_mtime > _OLD_S:
                path.unlink()


def write_file(path: Path, content: bytes) -> None:
    """Write or replace one file, atomically and durably."""

    def fill(handle: BinaryIO) -> str:
        handle.write(content)
        return path.name

    write_named_by_content(path.parent, fill)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder that appears whole and durable, or not at all.

    Raises FileExistsError if `path` is in use.
    """
    temporary = path.parent / f"{TEMPORARY}{uuid4().hex}"
    temporary.mkdir()
    try:
        fill(temporary)
        _sync_tree(temporary)
        try:
            os.rename(temporary, path)
        except OSError as error:
            if path.exists():
                raise FileExistsError(f"{path} is already there") from error
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def _sync_tree(folder: Path) -> None:
    def fail(error: OSError) -> None:
        raise error

    for parent, _, files in os.walk(folder, topdown=False, onerror=fail):
        for name in files:
            descriptor = os.open(os.path.join(parent, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(parent))


def remove_folder(path: Path) -> None:
    """Remove a folder so that no one ever sees half of it under its name."""
    abandoned = path.parent / f"{TEMPORARY}{uuid4().hex}"
    os.rename(path, abandoned)
    shutil.rmtree(abandoned, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the one lock of this file, waiting for it; the system releases it if the process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # the umask decides who else may lock
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
