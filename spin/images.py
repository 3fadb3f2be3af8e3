"""Image files to pixels: whole, or as little of a JPEG as one crop needs.

A JPEG's blocks can be decoded at 1/2, 1/4 or 1/8 of their size for a fraction of the work, and its rows in order only until
the last one that is needed. Non-JPEG files are decoded whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg

from spin.errors import ImageError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

_FACTORS = (8, 4, 2, 1)  # by which a JPEG's blocks are reduced quickly; those between have no fast code
_SPARE_ROWS = 16  # decoded below the last row needed: colours are interpolated from rows above and below
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class Encoded:
    """The content of an image file, and what messages call it."""

    data: UInt8[np.ndarray, " n"]
    name: str

    @classmethod
    def of(cls, content: bytes | memoryview, name: str) -> Encoded:
        return cls(np.frombuffer(content, np.uint8), name)


@dataclass(frozen=True)
class Pixels:
    """Decoded pixels (RGB), and the affine to them from the pixels of the whole upright image (continuous, px)."""

    image: UInt8[np.ndarray, "h w 3"]
    from_upright: Float[np.ndarray, "2 3"]


@dataclass(frozen=True)
class JpegHeader:
    """What decoding less of a JPEG needs to know."""

    width: int  # as stored, before it is turned upright
    height: int
    orientation: int  # EXIF, 1 to 8
    height_at: int  # where in the file the height stands
    rows_in_order: bool  # one scan brings all components, from the top down


def read_encoded(path: str | Path) -> Encoded:
    """The file's content. ImageError if there is none or it can't be read."""
    file = Path(path)
    if not file.is_file():
        raise ImageError(f"image {file}: no such file; check the data set's image root (--root)")
    try:
        return Encoded(np.fromfile(file, np.uint8), str(file))
    except OSError as error:
        raise ImageError(f"image {file}: {error.strerror}") from error


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """An 8-bit RGB image, upright as its EXIF tag says. ImageError if there is none or it can't be decoded."""
    return decode(read_encoded(path))


def decode_part(encoded: Encoded, corners_px: Float[np.ndarray, "4 2"], shrink: float) -> Pixels:
    """The part of an image within the corners (px of the upright image), reduced at most `shrink` times.

    Pixels beyond the corners may be missing, and what lies within a pixel of them. ImageError if it can't be decoded.
    """
    header = jpeg_header(encoded.data)
    if header is None:
        return Pixels(decode(encoded), np.eye(2, 3))
    to_stored = _upright_to_stored(header)
    needed = int(np.clip((corners_px @ to_stored[1, :2] + to_stored[1, 2]).max(), 0, header.height)) + 1
    rows, data = (needed // _SPARE_ROWS + 2) * _SPARE_ROWS, encoded.data
    if header.rows_in_order and rows < header.height:
        # A header that speaks of fewer rows makes the decoder stop after them.
        data = data.copy()
        data[header.height_at : header.height_at + 2] = divmod(rows, 256)
    else:
        rows = header.height
    factor = next(f for f in _FACTORS if f <= max(1.0, shrink))
    try:
        image = simplejpeg.decode_jpeg(
            data,
            "RGB",
            min_height=math.ceil(rows / factor),
            min_width=math.ceil(header.width / factor),
            strict=False,  # damage within is shown as it is, as OpenCV does, which decodes all other files
        )
    except ValueError:  # colours of four inks, for one
        return Pixels(decode(encoded), np.eye(2, 3))
    return Pixels(image, to_stored / factor)


def jpeg_header(data: UInt8[np.ndarray, " n"]) -> JpegHeader | None:
    """None if the file is no JPEG, or one that is not as expected in some way: then it is to be decoded whole."""
    head = data.data
    if bytes(head[:2]) != b"\xff\xd8":
        return None
    at, orientation, frame = 2, 1, None
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        body = head[at + 4 : at + 2 + length]
        if marker == 0xE1 and bytes(body[:6]) == b"Exif\0\0":
            orientation = _exif_orientation(bytes(body[6:]))
        elif marker in (0xC0, 0xC1, 0xC2) and len(body) >= 6:  # baseline, extended, progressive
            frame = at + 5, marker, body
        elif marker == 0xDA and frame is not None and body:
            height_at, kind, (_, h1, h0, w1, w0, components, *_) = frame
            width, height = w1 << 8 | w0, h1 << 8 | h0
            in_order = kind != 0xC2 and body[0] == components
            return JpegHeader(width, height, orientation, height_at, in_order) if width and height else None
        at += 2 + length
    return None


def decode(encoded: Encoded) -> UInt8[np.ndarray, "H W 3"]:
    """The whole image in RGB, upright as its EXIF tag says. ImageError if it can't be decoded."""
    try:
        image = cv2.imdecode(encoded.data, cv2.IMREAD_COLOR) if encoded.data.size else None
    except cv2.error:  # more pixels than OpenCV allows
        image = None
    if image is None:
        raise ImageError(
            f"image {encoded.name}: can't be decoded ({encoded.data.size} bytes); expected a JPEG or PNG, replace the file"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _exif_orientation(tiff: bytes) -> int:
    """The orientation tag of an EXIF block's first directory; 1 (upright) if it has none."""
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if number(entry, 2) == _ORIENTATION_TAG:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
        if entry >= len(tiff):
            break
    return 1


def _upright_to_stored(header: JpegHeader) -> Float[np.ndarray, "2 3"]:
    """Where a point of the upright image lies in the stored one (EXIF 2.3, tag 274)."""
    w, h = header.width, header.height
    x, y = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
    from_right, from_below = [-1.0, 0.0, w], [0.0, -1.0, h]
    turned_right, turned_below = [0.0, -1.0, w], [-1.0, 0.0, h]
    by_orientation = {
        1: (x, y),
        2: (from_right, y),
        3: (from_right, from_below),
        4: (x, from_below),
        5: (y, x),
        6: (y, turned_below),
        7: (turned_right, turned_below),
        8: (turned_right, x),
    }
    return np.array(by_orientation[header.orientation])
