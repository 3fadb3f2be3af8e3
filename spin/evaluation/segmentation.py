"""Masks and body parts compared pixel by pixel, as the evaluation of UP-3D and of SPIN counts them.

Counts are kept for each sample and added up over all samples before the division: large people weigh more than small ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spin.errors import KeypointError

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

UNDECIDED = 255
"""The true label of pixels that the annotators left undecided."""


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of N samples: for each of C classes true positives, false positives, false negatives; right ones, and all."""

    by_class: Int[np.ndarray, "N C 3"]
    right: Int[np.ndarray, " N"]
    all: Int[np.ndarray, " N"]


def count_pixels(predicted: UInt8[np.ndarray, "H W"], true: UInt8[np.ndarray, "H W"], classes: int) -> PixelCounts:
    """Return one sample's counts; 0 is the background. KeypointError if the pictures differ in size or hold other labels.

    Where the truth is `UNDECIDED` no class counts anything; for `right` and `all` such a pixel is background, as published.
    """
    if predicted.shape != true.shape:
        raise KeypointError(f"labels of {predicted.shape} pixels and true ones of {true.shape}: expected the same")
    if predicted.size and predicted.max() >= classes:
        raise KeypointError(f"predicted labels go up to {predicted.max()}, expected 0 to {classes - 1}")
    of_true = np.full(256, -1)
    of_true[:classes], of_true[UNDECIDED] = np.arange(classes), classes
    rows = of_true[true]
    if rows.size and rows.min() < 0:
        raise KeypointError(
            f"true labels hold {int(true[rows < 0][0])}: expected 0 to {classes - 1}, or {UNDECIDED} for undecided"
        )
    pairs = np.bincount((rows * classes + predicted).ravel(), minlength=(classes + 1) * classes)
    table = pairs.reshape(classes + 1, classes)
    decided = table[:classes]
    positive = np.diag(decided)
    by_class = np.stack([positive, decided.sum(0) - positive, decided.sum(1) - positive], -1)
    right = positive.sum() + table[classes, 0]
    return PixelCounts(by_class[None], np.array([right]), np.array([true.size]))


def f1(by_class: Float[np.ndarray, "*n C 3"]) -> Float[np.ndarray, "*n"]:
    """Return the mean over the classes of 2 tp / (2 tp + fp + fn) of summed counts, without classes that never occur."""
    tp, fp, fn = np.moveaxis(np.asarray(by_class, np.float64), -1, 0)
    total = 2 * tp + fp + fn
    each = np.divide(2 * tp, total, out=np.full(total.shape, np.nan), where=total > 0)
    occurs = ~np.isnan(each)
    return np.where(occurs, each, 0.0).sum(-1) / np.maximum(occurs.sum(-1), 1)
