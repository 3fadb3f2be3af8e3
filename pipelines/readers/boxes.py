"""Boxes compared with keypoints: two corners, x1, y1, x2, y2, look like x, y, width and height, and are another box."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Bool, Float

SMALLEST_SHARE = 0.02
"""Of a box's side, that keypoints span at least: a larger box shows nothing of the person."""
CORNERS = "its box looks like x1, y1, x2, y2, by its keypoints; expected x, y, width, height"
_INSIDE = 0.05  # of the box's sides: keypoints may be as far outside it
_SURELY, _LIKELY = 2.5, 1.5  # times the overlap with the keypoints' extent if a box is read as corners
_FEWEST = 3  # people who show a file's convention
LOOKED_AT = 500
"""People of a file, at most, that its convention is found by."""


def extents(
    xy: Float[np.ndarray, "N J 2"], seen: Bool[np.ndarray, "N J"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]:
    """Return the lowest and highest coordinates of what is seen; not a number where nothing is."""
    low, high = np.where(seen[..., None], xy, np.inf).min(1), np.where(seen[..., None], xy, -np.inf).max(1)
    none = ~seen.any(1)
    low[none] = high[none] = np.nan
    return low, high


def are_corners(
    boxes: Float[np.ndarray, "N 4"], low: Float[np.ndarray, "N 2"], high: Float[np.ndarray, "N 2"]
) -> Bool[np.ndarray, " N"]:
    """Return which boxes must be two corners: the keypoints fill them so, and far less of them read as a size."""
    return _times(boxes, low, high) >= _SURELY


def require_sizes(
    file: Path, boxes: Float[np.ndarray, "N 4"], low: Float[np.ndarray, "N 2"], high: Float[np.ndarray, "N 2"]
) -> None:
    """Raise StageError if most of a file's boxes that show the convention are two corners."""
    times = _times(boxes, low, high)
    corners, sizes = int((times >= _LIKELY).sum()), int((times < 1).sum())
    if corners >= _FEWEST and corners > sizes:
        raise StageError(
            f"{file}: boxes look like x1, y1, x2, y2: of {corners} people the keypoints fill them so, of {sizes} they don't; "
            "expected x, y, width, height: width = x2 - x1, height = y2 - y1"
        )


def _times(boxes: np.ndarray, low: np.ndarray, high: np.ndarray) -> Float[np.ndarray, " N"]:
    """Return how many times the overlap with the keypoints is if a box is read as corners; 0 where it can't be two."""
    first, second = boxes[:, :2], boxes[:, 2:]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        spare = _INSIDE * (second - first)
        inside = ((low >= first - spare) & (high <= second + spare) & (second > first)).all(1)
        times = _overlap(first, second, low, high) / _overlap(first, first + second, low, high)
        return np.where(inside, np.nan_to_num(times, nan=0.0, posinf=np.inf), 0.0)


def _overlap(first: np.ndarray, second: np.ndarray, low: np.ndarray, high: np.ndarray) -> Float[np.ndarray, " N"]:
    """Return the share of the two rectangles' union that both cover."""
    both = np.clip(np.minimum(second, high) - np.maximum(first, low), 0, None).prod(1)
    return both / ((second - first).prod(1) + (high - low).prod(1) - both)
