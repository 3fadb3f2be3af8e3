"""Unpack an archive into a folder that nothing in it can leave."""

from __future__ import annotations

import errno
import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from pipelines.errors import StageError

_BLOCK = 1 << 20
# What names in an archive lead to that contradict each other, or are too long.
_CONFLICTING = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def unpack(archive: Path, into: Path, *, without: str) -> list[str]:
    """Extract the files of a .tar.gz into the empty folder `into`, without a first folder called `without`.

    Return their relative names. Raise StageError, naming the member, for a link, a device, or a name that is absolute or
    leaves the folder, and for an archive that is cut short, damaged (by its checksum), or larger than the room on the disk.
    `into` then holds the members before it.
    """
    names: dict[str, None] = {}
    free = shutil.disk_usage(into).free
    try:
        with gzip.open(archive) as stream:
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as tar:
                for member in tar:
                    name = _checked_name(archive, member, without)
                    free -= member.size
                    if free < 0:
                        raise StageError(f"{archive.name}: needs more room than is free in {into}; make room")
                    if name:
                        tar.extract(member.replace(name=name, mode=0o644, deep=False), into, filter="data")
                    if member.isreg():
                        names[name] = None
            while stream.read(_BLOCK):
                pass  # the checksum is at the very end
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise StageError(f"{archive.name}: damaged, or not a .tar.gz ({type(error).__name__}: {error})") from error
    except OSError as error:
        if error.errno not in _CONFLICTING:
            raise  # of the disk, not of the archive
        raise StageError(f"{archive.name}: holds names that can't be files ({error.strerror})") from error
    if not names:
        raise StageError(f"{archive.name}: holds no file")
    return list(names)


def _checked_name(archive: Path, member: tarfile.TarInfo, without: str) -> str:
    """Return the member's name without the first folder. Stricter than tarfile's filter, which allows links within."""
    path = PurePosixPath(member.name)
    wrong = ""
    if path.is_absolute() or "\\" in member.name:
        wrong = "an absolute or foreign path"
    elif ".." in path.parts:
        wrong = "a path that leaves the folder"
    elif not (member.isreg() or member.isdir()):
        wrong = "a link" if member.issym() or member.islnk() else "a device or another special file"
    if wrong:
        raise StageError(f"{archive.name}: {member.name[:200]!r} in it is {wrong}; nothing of this archive is used")
    parts = path.parts[1:] if path.parts[:1] == (without,) else path.parts
    if member.isreg() and not parts:
        raise StageError(f"{archive.name}: {member.name[:200]!r} in it is a file where a folder is expected")
    return "/".join(parts)
