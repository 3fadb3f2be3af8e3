"""The crop as the published training cuts it, without its augmentations: transcribed from the rule, pixel by pixel.

Facts from nkolot/SPIN, utils/imutils.py: the box's corners are taken back to the image and truncated to whole pixels; what
lies outside is black; the floats are stretched to 0..255 by SciPy's bytescale; the box is resized by Pillow's bilinear filter
(both in scipy.misc.imresize), a triangle that is as wide as the shrinkage, its weights normalised at every pixel; sums are
rounded to whole grey levels along each row, then along each column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Box:
    """Whole pixels of the image, the upper ends not included."""

    left: int
    top: int
    side: int

    @classmethod
    def of(cls, center_px: np.ndarray, scale: float) -> Box:
        low, high = ([int(c + sign * 100 * scale) for c in center_px] for sign in (-1, 1))
        return cls(low[0], low[1], high[0] - low[0])

    @property
    def center_px(self) -> np.ndarray:
        return np.array([self.left + self.side / 2, self.top + self.side / 2])

    @property
    def scale(self) -> float:
        return self.side / 200


def corners(center_px: tuple[float, float], scale: float, crop_px: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The box's corners, by utils/imutils.py's get_transform and transform: a matrix, inverted, and truncated."""
    h = 200 * scale
    t = np.zeros((3, 3))
    t[0, 0] = t[1, 1] = float(crop_px) / h
    t[0, 2] = crop_px * (-float(center_px[0]) / h + 0.5)
    t[1, 2] = crop_px * (-float(center_px[1]) / h + 0.5)
    t[2, 2] = 1
    t = np.linalg.inv(t)
    low, high = (np.dot(t, np.array([pixel, pixel, 1.0]))[:2].astype(int) for pixel in (0, crop_px))
    return (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))


def padded_box(image: np.ndarray, low: tuple[int, int], high: tuple[int, int]) -> np.ndarray:
    """The box's pixels (x, y from `low` up to `high`), float64, black outside the image."""
    height, width = image.shape[:2]
    out = np.zeros((high[1] - low[1], high[0] - low[0], 3))
    for row in range(len(out)):
        for column in range(out.shape[1]):
            x, y = low[0] + column, low[1] + row
            if 0 <= x < width and 0 <= y < height:
                out[row, column] = image[y, x]
    return out


def unstretched_crop(image: np.ndarray, box: Box, crop_px: int) -> np.ndarray:
    """(P, P, 3) float64: cut and resized, but neither stretched nor rounded."""
    height, width = image.shape[:2]
    left, top = max(0, box.left), max(0, box.top)
    right, bottom = min(width, box.left + box.side), min(height, box.top + box.side)
    padded = np.zeros((box.side, box.side, 3))
    padded[top - box.top : bottom - box.top, left - box.left : right - box.left] = image[top:bottom, left:right]
    weights = triangle_weights(box.side, crop_px)
    return np.einsum("iy,jx,yxc->ijc", weights, weights, padded, optimize=True)


def bytescale(data: np.ndarray) -> np.ndarray:
    """scipy.misc.bytescale of floats with its defaults, as SciPy 1.0 to 1.2 have it."""
    least, most = data.min(), data.max()
    spread = most - least
    if spread == 0:
        spread = 1
    scaled = (data - least) * (255.0 / spread)
    return (scaled.clip(0, 255) + 0.5).astype(np.uint8)


def resized(image: np.ndarray, crop_px: int) -> np.ndarray:
    """Pillow's bilinear resize of 8-bit channels: rows first, then columns, each rounded half up to whole grey levels."""
    along_rows = np.einsum("jx,yxc->yjc", triangle_weights(image.shape[1], crop_px), image.astype(np.float64))
    whole = np.floor(along_rows + 0.5)
    along_columns = np.einsum("iy,yjc->ijc", triangle_weights(image.shape[0], crop_px), whole)
    return np.floor(along_columns + 0.5).clip(0, 255).astype(np.uint8)


def triangle_weights(pixels: int, wanted: int) -> np.ndarray:
    """(wanted, pixels): what each pixel of a row contributes to each of the resized row."""
    ratio = pixels / wanted
    centres = (np.arange(wanted) + 0.5) * ratio
    distance = np.abs(np.arange(pixels) + 0.5 - centres[:, None]) / max(1.0, ratio)
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(1, keepdims=True)
