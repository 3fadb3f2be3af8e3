"""Names of images, as annotation files give them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any


def is_text(name: str) -> bool:
    """Names of files that are not UTF-8 are not, and some that JSON escapes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def name_problem(name: Any) -> str:
    """Why a name can't be that of an image in the data set's folder; '' if it can."""
    if not isinstance(name, str) or not name:
        return "names no image"
    if "\\" in name:
        return "its image's name has a backslash; use forward slashes"
    path = PurePosixPath(name)
    if ".." in path.parts or path.is_absolute():
        return "its image lies outside the root"
    if "\0" in name or not name.isprintable():
        return "its image's name is no file's"
    return ""
