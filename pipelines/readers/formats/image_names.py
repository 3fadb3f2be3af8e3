"""Names of images, as annotation files give them: whether they can be names, and of which recording."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

# A frame of a recording: SEQUENCE/image_00000.jpg (3DPW), S9_ACTION.CAMERA_000001.jpg (Human3.6M), …/img_000001.jpg (3DHP).
_FRAME = re.compile(r"(.+?)[_/](?:image_|img_|frame_)?\d{5,6}\.[A-Za-z]+")


def is_text(name: str) -> bool:
    """Return whether a name can be written as UTF-8. Some names of files and some that JSON escapes can't."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def name_problem(name: Any) -> str:
    """Return why a name can't be that of an image in the data set's folder; '' if it can."""
    if not isinstance(name, str) or not name:
        return "names no image"
    if "\\" in name:
        return "its image's name has a backslash; use forward slashes"
    path = PurePosixPath(name)
    if ".." in path.parts or path.is_absolute():
        return "its image is outside the root"
    if "\0" in name or not name.isprintable():
        return "its image's name can't be a file's name"
    return ""


def sequence_of(image: str) -> str:
    """Return the recording that an image is a frame of; the image's own name if it is none."""
    match = _FRAME.fullmatch(image)
    return match[1] if match else image
