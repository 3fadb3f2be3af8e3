"""Which frame a file's pixels are in: of the upright image, or of the stored one, which EXIF may turn.

Annotation files give the size of an image, and the image itself has one. Where the two differ, keypoints were made for other
pixels: for the stored image's, if that has the size given, or on an image of another size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

    from pipelines.readers.formats.image_check import ImageCheck

_ROUNDED_PX = 1.0  # sizes that differ by no more are one
READ_AS_STORED = "in images that EXIF turns, with the stored image's width and height: keypoints and boxes are turned with them"


@dataclass(frozen=True)
class Frame:
    """The way from a file's pixels to the upright image's; `problem`: why there is none. `size_px`: upright, as given."""

    size_px: tuple[float, float] | None = None
    problem: str = ""
    to_upright: Float[np.ndarray, "2 3"] | None = None  # None: they are the same

    def points(self, xy: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """Return points of the upright image."""
        return xy if self.to_upright is None else xy @ self.to_upright[:, :2].T + self.to_upright[:, 2]

    def box(self, xywh: Float[np.ndarray, "4"]) -> Float[np.ndarray, "4"]:
        """Return a box, x, y, width and height, of the upright image."""
        if self.to_upright is None:
            return xywh
        corners = self.points(np.stack([xywh[:2], xywh[:2] + xywh[2:]]))
        return np.concatenate([corners.min(0), np.abs(corners[1] - corners[0])])


def frame_of(given_px: tuple[float, float] | None, image: ImageCheck) -> Frame:
    """Return the frame of a file that gives this width and height for an image."""
    if given_px is None or image.problem or _same(given_px, image.size_px):
        return Frame(given_px)
    if _same(given_px, image.stored_px):
        return Frame(image.size_px, to_upright=stored_to_upright(image))
    turned = "" if image.size_px == image.stored_px else ", upright, and {} × {} px as stored".format(*image.stored_px)
    given = " × ".join(f"{side:g}" for side in given_px)
    return Frame(problem=f"its image is {image.size_px[0]} × {image.size_px[1]} px{turned}, but the file gives {given} px")


def size_of(width: Any, height: Any) -> tuple[float, float] | None:
    """Return an image's size as a file gives it; None if that is no size, as the zeros of some tools."""
    try:
        size = float(width), float(height)
    except (TypeError, ValueError, OverflowError):
        return None
    return size if all(0 < side < np.inf for side in size) and not isinstance(width, bool) else None


def _same(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return abs(first[0] - second[0]) <= _ROUNDED_PX and abs(first[1] - second[1]) <= _ROUNDED_PX


def stored_to_upright(image: ImageCheck) -> Float[np.ndarray, "2 3"]:
    """Return where a point of the stored image is in the upright one (EXIF 2.3, tag 274)."""
    w, h = image.stored_px
    x, y, from_right, from_below = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, w], [0.0, -1.0, h]
    rows = {
        2: (from_right, y), 3: (from_right, from_below), 4: (x, from_below), 5: (y, x),
        6: (from_below, x), 7: (from_below, from_right), 8: (y, from_right),
    }  # fmt: skip
    return np.array(rows.get(image.orientation, (x, y)))
