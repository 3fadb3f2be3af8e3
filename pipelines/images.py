"""Whether an image can be used, found out without decoding it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 4096  # cameras and editors may add bytes after the image's end


def image_problem(path: Path, *, decode: bool = False) -> str:
    """Why an image can't be used, or ''.

    Its header is read and its end looked for, which finds missing, foreign and truncated files; with `decode` it is also
    decoded, at an eighth of its size, which finds damage in between.
    """
    try:
        with Image.open(path) as image:
            end = _ENDS.get(image.format or "")
        with path.open("rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - _TAIL))
            if end is not None and end not in handle.read():
                return "its image is cut short"
    except FileNotFoundError:
        return "its image is missing"
    except UnidentifiedImageError:
        return "its image can't be decoded"
    except (OSError, ValueError) as error:  # no permission, a folder, a name that no file can have
        return f"its image can't be read ({getattr(error, 'strerror', None) or error})"
    except Exception as error:  # Pillow's parsers raise whatever a damaged header leads them to
        return f"its image can't be decoded ({type(error).__name__})"
    if decode and not _decodes(path):
        return "its image can't be decoded"
    return ""


def _decodes(path: Path) -> bool:
    try:
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_REDUCED_COLOR_8) is not None
    except cv2.error:  # more pixels than OpenCV allows
        return False


def image_problems(root: Path, images: Iterable[str], *, decode: bool = False) -> dict[str, str]:
    """The images that can't be used, with the reason."""
    found = ((image, image_problem(root / image, decode=decode)) for image in images)
    return {image: problem for image, problem in found if problem}
