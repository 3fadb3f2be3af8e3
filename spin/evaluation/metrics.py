"""Errors between predicted and true points, one per sample, in float64.

Points are in metres, errors in millimetres (2D: pixels). A point that is not finite raises KeypointError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.errors import KeypointError
from spin.evaluation.procrustes import align

if TYPE_CHECKING:
    from jaxtyping import Float

MM_PER_M = 1000.0
PCK_MM = 150.0
AUC_STEP_MM = 5.0


def mpjpe_mm(predicted_m: Float[np.ndarray, "N J 3"], true_m: Float[np.ndarray, "N J 3"]) -> Float[np.ndarray, " N"]:
    """Return the mean distance over the joints of each sample, without alignment: centre them first (see `protocols`)."""
    return joint_errors_mm(predicted_m, true_m).mean(1)


def joint_errors_mm(predicted_m: Float[np.ndarray, "N J 3"], true_m: Float[np.ndarray, "N J 3"]) -> Float[np.ndarray, "N J"]:
    """Return the distance of each joint, without alignment."""
    predicted, true = _checked(predicted_m, true_m, 3)
    return MM_PER_M * np.linalg.norm(predicted - true, axis=-1)


def pa_mpjpe_mm(predicted_m: Float[np.ndarray, "N J 3"], true_m: Float[np.ndarray, "N J 3"]) -> Float[np.ndarray, " N"]:
    """Return the mean distance over the joints of each sample after its best similarity ("reconstruction error")."""
    return mpjpe_mm(procrustes_align(predicted_m, true_m), true_m)


def per_vertex_error_mm(predicted_m: Float[np.ndarray, "N V 3"], true_m: Float[np.ndarray, "N V 3"]) -> Float[np.ndarray, " N"]:
    """Return the mean distance over the vertices of each sample, without alignment."""
    return mpjpe_mm(predicted_m, true_m)


def pck(errors_mm: Float[np.ndarray, "N J"], threshold_mm: float = PCK_MM) -> Float[np.ndarray, " N"]:
    """Return the share of each sample's joints nearer than the threshold, in percent (3DPCK; Mehta et al., 3DV 2017)."""
    return 100.0 * (np.asarray(errors_mm) < threshold_mm).mean(-1)


def auc(errors_mm: Float[np.ndarray, "N J"]) -> Float[np.ndarray, " N"]:
    """Return the mean of PCK over the thresholds 0, 5, …, 150 mm, in percent. 0 mm is included, as in the data set's script."""
    thresholds = np.arange(0.0, PCK_MM + AUC_STEP_MM / 2, AUC_STEP_MM)
    # The number of thresholds above an error; the first of them is the next larger one.
    under = len(thresholds) - np.searchsorted(thresholds, np.asarray(errors_mm), side="right")
    return 100.0 * under.mean(-1) / len(thresholds)


def error_2d_px(
    predicted_px: Float[np.ndarray, "N J 2"],
    true_px: Float[np.ndarray, "N J 2"],
    confidence: Float[np.ndarray, "N J"],
) -> Float[np.ndarray, " N"]:
    """Return the mean distance over the keypoints of each sample, weighted by confidence; NaN where all confidences are 0.

    The position of a keypoint with confidence 0 is ignored.
    """
    weight = np.asarray(confidence, np.float64)
    if weight.shape != np.shape(true_px)[:2] or not np.isfinite(weight).all() or (weight < 0).any():
        raise KeypointError(f"confidences have shape {weight.shape}: expected {np.shape(true_px)[:2]}, finite and at least 0")
    predicted, true = _checked(predicted_px, np.where(weight[..., None] > 0, true_px, 0.0), 2)
    total = weight.sum(1)
    distance = (weight * np.linalg.norm(predicted - true, axis=-1)).sum(1)
    return np.divide(distance, total, out=np.full(len(total), np.nan), where=total > 0)


def procrustes_align(predicted_m: Float[np.ndarray, "N J 3"], true_m: Float[np.ndarray, "N J 3"]) -> Float[np.ndarray, "N J 3"]:
    """Move each predicted set by the rotation, scale and translation that bring it closest to the true one.

    Least squares (Umeyama, PAMI 1991); reflections are excluded. Points that coincide move to the true centre.
    """
    predicted, true = _checked(predicted_m, true_m, 3)
    return align(torch.from_numpy(predicted), torch.from_numpy(true)).numpy()


def _checked(predicted: object, true: object, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    pair = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    shapes = [array.shape for array in pair]
    if shapes[0] != shapes[1] or len(shapes[0]) != 3 or shapes[0][-1] != dimensions or 0 in shapes[0][1:]:
        raise KeypointError(
            f"predicted {shapes[0]} and true {shapes[1]} points: expected two arrays of the same shape "
            f"(samples, points, {dimensions})"
        )
    for name, array in zip(("predicted", "true"), pair):
        wrong = np.flatnonzero(~np.isfinite(array).all((1, 2)))
        if wrong.size:
            raise KeypointError(
                f"{name} points of {wrong.size} of {len(array)} samples are not finite "
                f"(first: sample {wrong[0]}); remove those samples and report them"
            )
    return pair
