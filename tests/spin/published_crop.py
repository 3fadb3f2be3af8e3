"""The crop as the published training cuts it, without its augmentations, in float64.

Facts from nkolot/SPIN, utils/imutils.py: the box's corners are taken back to the image and truncated to whole pixels; what
lies outside is black; the box is resized by Pillow's bilinear filter (scipy.misc.imresize), a triangle that is as wide as
the shrinkage, its weights normalised at every pixel.
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


def published_crop(image: np.ndarray, box: Box, crop_px: int) -> np.ndarray:
    """(P, P, 3) float64."""
    height, width = image.shape[:2]
    left, top = max(0, box.left), max(0, box.top)
    right, bottom = min(width, box.left + box.side), min(height, box.top + box.side)
    padded = np.zeros((box.side, box.side, 3))
    padded[top - box.top : bottom - box.top, left - box.left : right - box.left] = image[top:bottom, left:right]
    weights = triangle_weights(box.side, crop_px)
    return np.einsum("iy,jx,yxc->ijc", weights, weights, padded, optimize=True)


def triangle_weights(pixels: int, wanted: int) -> np.ndarray:
    """(wanted, pixels): what each pixel of a row contributes to each of the resized row."""
    ratio = pixels / wanted
    centres = (np.arange(wanted) + 0.5) * ratio
    distance = np.abs(np.arange(pixels) + 0.5 - centres[:, None]) / max(1.0, ratio)
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(1, keepdims=True)
