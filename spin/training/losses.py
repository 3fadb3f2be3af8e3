"""The losses of SPIN's training (Kolotouros et al., ICCV 2019, section 3.4), over samples that have a target.

A batch in which nothing is valid gives zeros with gradients of zero. What stands in for an unknown target,
perhaps NaN, never reaches a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spin.camera import CROP_PX
from spin.joints import JOINTS, SUPERSET_NAMES

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from spin.training.config import LossWeights

_HIPS = [SUPERSET_NAMES.index("right hip"), SUPERSET_NAMES.index("left hip")]


@dataclass(frozen=True)
class Losses:
    """The terms before their weights, and the weighted total: scalars."""

    keypoints: Tensor
    joints: Tensor
    pose: Tensor
    betas: Tensor
    shape: Tensor
    camera: Tensor
    total: Tensor

    def as_floats(self) -> dict[str, float]:
        return {name: float(term.detach()) for name, term in vars(self).items()}


def keypoint_loss(
    projected_crop_px: Float[Tensor, "B 49 2"],
    keypoints_crop_px: Float[Tensor, "B 49 3"],
    weights: LossWeights,
) -> Tensor:
    """Squared distance in crop half-widths, weighted by confidence; the mean over all keypoints and axes."""
    confidence = keypoints_crop_px[..., 2:].clamp_min(0)
    factor = torch.full_like(confidence, weights.ground_truth)
    factor[:, JOINTS.openpose] = weights.openpose
    weight = confidence * factor
    half = CROP_PX / 2
    difference = (projected_crop_px - keypoints_crop_px[..., :2]) / half
    return (weight * _known(difference, weight > 0) ** 2).mean()


def joint_loss(keypoints_m: Float[Tensor, "B 49 3"], joints_m: Float[Tensor, "B 24 4"], known: Bool[Tensor, " B"]) -> Tensor:
    """Squared distance (m²) to the 3D joints of the superset, both centred at mid-hip, by confidence.

    The mean over joints and axes of the samples whose 3D joints, hips among them, are known.
    """
    known = known & (joints_m[:, _HIPS, 3] > 0).all(1)
    predicted, target = keypoints_m[:, JOINTS.superset], joints_m[..., :3]
    predicted = predicted - predicted[:, _HIPS].mean(1, keepdim=True)
    target = target - target[:, _HIPS].mean(1, keepdim=True)
    weight = torch.where(known[:, None, None], joints_m[..., 3:], 0.0)
    error = weight * _known(predicted - target, weight > 0) ** 2
    return _mean_over(error, known)


def pose_loss(rotations: Float[Tensor, "B 24 3 3"], target: Float[Tensor, "B 24 3 3"], valid: Bool[Tensor, " B"]) -> Tensor:
    """Mean squared difference of rotation matrices, over valid samples."""
    return _mean_over(_known(rotations - target, valid) ** 2, valid)


def betas_loss(betas: Float[Tensor, "B 10"], target: Float[Tensor, "B 10"], valid: Bool[Tensor, " B"]) -> Tensor:
    """Mean squared difference of shape coefficients, over valid samples."""
    return _mean_over(_known(betas - target, valid) ** 2, valid)


def shape_loss(vertices_m: Float[Tensor, "B V 3"], target_m: Float[Tensor, "B V 3"], valid: Bool[Tensor, " B"]) -> Tensor:
    """Mean absolute difference (m) of vertices, over valid samples."""
    return _mean_over(_known(vertices_m - target_m, valid).abs(), valid)


def camera_loss(weak_camera: Float[Tensor, "B 3"]) -> Tensor:
    """exp(-10 s)², which keeps the predicted scale, and with it the depth, positive."""
    return (torch.exp(-10 * weak_camera[:, 0]) ** 2).mean()


def total_loss(
    *,
    keypoints: Tensor,
    joints: Tensor,
    pose: Tensor,
    betas: Tensor,
    shape: Tensor,
    camera: Tensor,
    weights: LossWeights,
) -> Losses:
    """The published sum; 3D joints share the 2D keypoints' weight, the camera term has none."""
    total = weights.keypoints * (keypoints + joints) + weights.pose * pose + weights.betas * betas
    total = weights.total * (total + weights.shape * shape + camera)
    return Losses(keypoints, joints, pose, betas, shape, camera, total)


def _known(difference: Tensor, known: Tensor) -> Tensor:
    """The difference where the target is known, else zero: also where an unknown target is NaN."""
    known = known.reshape(known.shape + (1,) * (difference.dim() - known.dim()))
    return torch.where(known, difference, 0.0)


def _mean_over(error: Tensor, valid: Tensor) -> Tensor:
    """Mean over the entries of valid samples, the others being zero in `error`; zero if none is valid."""
    per_sample = error[0].numel()
    return error.sum() / (valid.sum().clamp_min(1) * per_sample)
