"""Whether an image can be used, found out without decoding it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 4096  # cameras and editors may add bytes after the image's end


_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values that exchange width and height
_REMEMBERED = 10_000  # checks: readers compare sizes of the images that are checked after them


@dataclass(frozen=True)
class ImageCheck:
    """Why an image can't be used, or ''; then its width and height in px are known, upright and as stored.

    `orientation`: EXIF's, 1 to 8; 1 if the stored image is upright.
    """

    problem: str = ""
    size_px: tuple[int, int] = (0, 0)
    stored_px: tuple[int, int] = (0, 0)
    orientation: int = 1


def check_image(path: Path, *, decode: bool = False) -> ImageCheck:
    """Return an image's size, and why it can't be used.

    Its header is read and its end looked for, which finds missing, foreign and truncated files; with `decode` it is also
    decoded, at an eighth of its size, which finds damage in between.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        return _check(path, decode)
    return _remembered(path, decode, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=_REMEMBERED)
def _remembered(path: Path, decode: bool, changed_ns: int, size: int) -> ImageCheck:
    return _check(path, decode)


def _check(path: Path, decode: bool) -> ImageCheck:
    try:
        with path.open("rb") as handle:
            with Image.open(handle) as image:
                end = _ENDS.get(image.format or "")
                # Of a PNG without, Pillow would decode all to look for it after the pixels.
                exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
                found = exif.get(_ORIENTATION, 1)
                orientation = found if found in range(1, 9) else 1
                stored = image.size
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - _TAIL))
            if end is not None and end not in handle.read():
                return ImageCheck("its image is cut short")
    except FileNotFoundError:
        return ImageCheck("its image is missing")
    except UnidentifiedImageError:
        return ImageCheck("its image can't be decoded")
    except (OSError, ValueError) as error:  # no permission, a folder, a name that no file can have
        return ImageCheck(f"its image can't be read ({getattr(error, 'strerror', None) or error})")
    except Exception as error:  # a damaged header can make Pillow raise nearly anything
        return ImageCheck(f"its image can't be decoded ({type(error).__name__})")
    if decode and not _decodes(path):
        return ImageCheck("its image can't be decoded")
    size = stored[::-1] if orientation in _LYING else stored
    return ImageCheck(size_px=size, stored_px=stored, orientation=orientation)


def _decodes(path: Path) -> bool:
    try:
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_REDUCED_COLOR_8) is not None
    except cv2.error:  # more pixels than OpenCV allows
        return False


def check_images(root: Path, images: Iterable[str], *, decode: bool = False) -> dict[str, ImageCheck]:
    """Check each image once."""
    return {image: check_image(root / image, decode=decode) for image in dict.fromkeys(images)}
