"""What SMPLify minimises: robust reprojection, pose prior, bending prior, shape prior (Bogo et al., ECCV 2016, eq. 1-6).

Constants are those of SPIN's fitting: Geman-McClure with σ = 100 px on the 224 px crop, confidences squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spin.camera import project
from spin.joints import JOINTS

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.prior import PosePrior

# Positions, among the 69 body-pose angles, of the hinge of left and right elbow and knee, and the sign that makes an
# unnatural bend positive (SMPLify, E_a).
BENDING_INDEX = (52, 55, 9, 12)
BENDING_SIGN = (1.0, -1.0, -1.0, -1.0)


@dataclass(frozen=True)
class Objective:
    """Weights of the published objective. A weight enters squared, as published."""

    sigma_px: float = 100.0
    pose_prior: float = 4.78
    bending_prior: float = 15.2
    shape_prior: float = 5.0

    @property
    def fingerprint(self) -> str:
        """What a fit's loss depends on; stores of different objectives don't mix."""
        return (
            f"smplify:sigma={self.sigma_px:g},pose={self.pose_prior:g},bend={self.bending_prior:g},"
            f"shape={self.shape_prior:g}"
        )


def geman_mcclure(residual: Tensor, sigma: float) -> Tensor:
    """σ² r² / (σ² + r²): quadratic near zero, saturating at σ² for outliers."""
    squared = residual * residual
    return sigma**2 * squared / (sigma**2 + squared)


def body_weights(keypoints_crop_px: Float[Tensor, "B 49 3"]) -> Float[Tensor, "B 49"]:
    """Weight of each keypoint in the body term: its confidence, zero for hips and OpenPose's neck. A new tensor."""
    weights = keypoints_crop_px[..., 2].clone()
    weights[:, list(JOINTS.ignored_in_body_term)] = 0
    return weights


def reprojection_loss(
    body: CompactBody,
    objective: Objective,
    pose_aa: Float[Tensor, "B 72"],
    betas: Float[Tensor, "B 10"],
    camera_m: Float[Tensor, "B 3"],
    keypoints_crop_px: Float[Tensor, "B 49 3"],
) -> Float[Tensor, " B"]:
    """The loss that the fit store keeps: mean over the 49 joints of confidence² × robust squared error (px²)."""
    points = body.keypoints(body(pose_aa, betas))
    residual = project(points, camera_m) - keypoints_crop_px[..., :2]
    weights = body_weights(keypoints_crop_px)
    return (weights**2 * geman_mcclure(residual, objective.sigma_px).sum(-1)).mean(-1)


def bending_cost(body_pose: Float[Tensor, "B 69"]) -> Float[Tensor, " B"]:
    """Σ exp(±θ)² over elbows and knees: grows steeply when a hinge bends the wrong way."""
    sign = torch.tensor(BENDING_SIGN, dtype=body_pose.dtype, device=body_pose.device)
    return torch.exp(2 * sign * body_pose[:, list(BENDING_INDEX)]).sum(-1)


def prior_cost(
    prior: PosePrior, objective: Objective, pose_aa: Float[Tensor, "B 72"], betas: Float[Tensor, "B 10"]
) -> Float[Tensor, " B"]:
    """All terms that don't look at the image."""
    body_pose = pose_aa[:, 3:]
    return (
        objective.pose_prior**2 * prior(body_pose)
        + objective.bending_prior**2 * bending_cost(body_pose)
        + objective.shape_prior**2 * (betas * betas).sum(-1)
    )


def total_cost(
    body: CompactBody,
    prior: PosePrior,
    objective: Objective,
    pose_aa: Float[Tensor, "B 72"],
    betas: Float[Tensor, "B 10"],
    camera_m: Float[Tensor, "B 3"],
    keypoints_crop_px: Float[Tensor, "B 49 3"],
) -> Float[Tensor, " B"]:
    """The whole published objective: summed (not averaged) reprojection, plus priors."""
    reprojection = reprojection_loss(body, objective, pose_aa, betas, camera_m, keypoints_crop_px)
    return JOINTS.count * reprojection + prior_cost(prior, objective, pose_aa, betas)
