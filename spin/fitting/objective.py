"""What a fit minimises: robust reprojection, pose prior, bending prior, shape prior (Bogo et al., SMPLify, ECCV 2016, eq. 1-6).

Constants are those of SPIN's fitting: Geman-McClure with σ = 100 px on the 224 px crop, confidences squared. Two terms are
this project's: 3D joints where they are known, and the anchor. The minimum of the published objective is not the truth: one
view leaves depth open, and what the priors make of it is worse than what a good start knew. The anchor says so openly: the
start's answer is observations, and its distance, in units of the start's own uncertainty, is a term (docs/fitting.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spin.joints import JOINTS

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.observations import Observations
    from spin.fitting.prior import PosePrior

# Positions, among the 69 body-pose angles, of the hinge of left and right elbow and knee, and the sign that makes an
# unnatural bend positive (SMPLify, E_a).
BENDING_INDEX = (52, 55, 9, 12)
BENDING_SIGN = (1.0, -1.0, -1.0, -1.0)
BETA_LIMIT = 3.0  # SPIN accepts no shape beyond; solvers stay within
_FAR_PX, _USUAL_PX = 50.0, 3.0


@dataclass(frozen=True)
class Objective:
    """Weights of the terms; each enters squared, as published. The defaults are the published objective's.

    `anchor` multiplies the distance to the start in units of its uncertainty, and `anchored_pose_prior` replaces the pose
    prior's weight where a start is anchored; both are per px of the keypoints' noise, of which the start's residual
    tells: where keypoints are noisy, what the start knew counts for more. `joints3d` is in px per metre. `hips` multiplies the
    confidence of hips and OpenPose's neck, which the published objective ignores.
    """

    sigma_px: float = 100.0
    pose_prior: float = 4.78
    bending_prior: float = 15.2
    shape_prior: float = 5.0
    hips: float = 0.0
    joints3d: float = 300.0
    anchor: float = 0.0
    anchored_pose_prior: float = 0.0

    @classmethod
    def named(cls, name: str) -> Objective:
        """Return the 'anchored' objective, this project's default, or the 'published'. Raise ValueError for another name."""
        if name not in OBJECTIVES:
            raise ValueError(f"objective {name!r}: expected {' or '.join(OBJECTIVES)}")
        return OBJECTIVES[name]

    @property
    def is_anchored(self) -> bool:
        return self.anchor > 0

    @property
    def fingerprint(self) -> str:
        """Return what a fit depends on; fits of different objectives are not stored together."""
        text = (
            f"smplify:sigma={self.sigma_px:g},pose={self.pose_prior:g},bend={self.bending_prior:g},"
            f"shape={self.shape_prior:g},hips={self.hips:g},joints3d={self.joints3d:g}"
        )
        if self.is_anchored:
            text += f",anchor={self.anchor:g},anchored-pose={self.anchored_pose_prior:g}"
        return text


OBJECTIVES = {
    "anchored": Objective(anchor=1.1, anchored_pose_prior=0.4, bending_prior=5.0, shape_prior=2.0, hips=1.0),
    "published": Objective(),
}


@dataclass(frozen=True)
class Anchor:
    """Pose and betas that a fit is held to, and how uncertain each number of them is (standard deviations).

    `noise_px` is what the start's residual says of how far keypoints can be trusted (`noise_px`, below).
    """

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    pose_sigma_rad: Float[Tensor, "B 72"]
    betas_sigma: Float[Tensor, "B 10"]
    noise_px: Float[Tensor, " B"]

    def precision(self, objective: Objective) -> Float[Tensor, "B 82"]:
        """Weight of each squared difference, px²: (anchor × noise / σ)²."""
        sigma = torch.cat([self.pose_sigma_rad, self.betas_sigma], 1)
        return (objective.anchor * self.noise_px[:, None] / sigma) ** 2


def geman_mcclure(residual: Tensor, sigma: float) -> Tensor:
    """σ² r² / (σ² + r²): quadratic near zero, saturating at σ² for outliers."""
    squared = residual * residual
    return sigma**2 * squared / (sigma**2 + squared)


def body_weights(keypoints_px: Float[Tensor, "*b 49 3"], hips: float = 0.0) -> Float[Tensor, "*b 49"]:
    """Weight of each keypoint in the body term: its confidence; hips' and OpenPose's neck's times `hips`. A new tensor."""
    weights = keypoints_px[..., 2].clone()
    weights[..., list(JOINTS.ignored_in_body_term)] *= hips
    return weights


def reprojection_loss(
    objective: Objective,
    keypoints_m: Float[Tensor, "B 49 3"],
    camera_m: Float[Tensor, "B 3"],
    observations: Observations,
) -> Float[Tensor, " B"]:
    """The loss that the fit store keeps: mean over the 49 joints (and the views) of confidence² × robust squared error, px².

    Hips and OpenPose's neck never count here, so that losses of all objectives compare.
    """
    return _reprojection(objective, 0.0, keypoints_m, camera_m, observations).mean((1, 2))


def _reprojection(
    objective: Objective, hips: float, keypoints_m: Tensor, camera_m: Tensor, observations: Observations
) -> Float[Tensor, "B V 49"]:
    pixels = observations.views.project(keypoints_m + camera_m[:, None])
    residual = pixels - observations.keypoints_px[..., :2]
    weights = body_weights(observations.keypoints_px, hips)
    return weights**2 * geman_mcclure(residual, objective.sigma_px).sum(-1)


def joints3d_cost(keypoints_m: Float[Tensor, "B 49 3"], joints3d_m: Float[Tensor, "B 24 4"]) -> Float[Tensor, " B"]:
    """Squared distances (m²) to 3D joints, weighted by confidence squared, both sets about their weighted centres."""
    weight = joints3d_m[..., 3:] ** 2
    away = keypoints_m[:, JOINTS.superset] - joints3d_m[..., :3]
    centre = (weight * away).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1e-12)
    return (weight * (away - centre) ** 2).sum((1, 2))


def noise_px(
    keypoints_m: Float[Tensor, "B 49 3"], camera_m: Float[Tensor, "B 3"], observations: Observations
) -> Float[Tensor, " B"]:
    """Return how noisy keypoints are assumed to be, given the start's body: 3 px, or more where they disagree.

    The residual r is the root mean square distance to the keypoints, weighted by confidence; one far off counts as 50 px. It
    holds the start's own error too, so that a small one says nothing; beyond 3 px the noise is 3 (r / 3)^1.5, since the
    start, made from the same keypoints, follows their noise half of the way (found by measurement: docs/fitting.md).
    """
    pixels = observations.views.project(keypoints_m + camera_m[:, None])
    squared = ((pixels - observations.keypoints_px[..., :2]) ** 2).sum(-1).clamp_max(_FAR_PX**2)
    weight = body_weights(observations.keypoints_px)
    mean = (weight * squared).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-6)
    residual = torch.nan_to_num(mean, nan=_FAR_PX**2).sqrt()
    return _USUAL_PX * (residual.clamp_min(_USUAL_PX) / _USUAL_PX) ** 1.5


def pose_prior_weight(objective: Objective, anchor: Anchor | None, like: Tensor) -> Float[Tensor, " B"]:
    """The pose prior's weight (px²) of each sample: the published one where no anchor holds it."""
    published = torch.full_like(like, objective.pose_prior**2)
    if anchor is None:
        return published
    held = torch.isfinite(anchor.pose_sigma_rad).any(1)
    return torch.where(held, (objective.anchored_pose_prior * anchor.noise_px) ** 2, published)


def bending_cost(body_pose: Float[Tensor, "B 69"]) -> Float[Tensor, " B"]:
    """Σ exp(±θ)² over elbows and knees: grows steeply when a hinge bends the wrong way."""
    sign = torch.tensor(BENDING_SIGN, dtype=body_pose.dtype, device=body_pose.device)
    return torch.exp(2 * sign * body_pose[:, list(BENDING_INDEX)]).sum(-1)


def prior_cost(
    prior: PosePrior,
    objective: Objective,
    pose_aa: Float[Tensor, "B 72"],
    betas: Float[Tensor, "B 10"],
    anchor: Anchor | None = None,
) -> Float[Tensor, " B"]:
    """All terms that look neither at the image nor at the start."""
    body_pose = pose_aa[:, 3:]
    return (
        pose_prior_weight(objective, anchor, betas[:, 0]) * prior(body_pose)
        + objective.bending_prior**2 * bending_cost(body_pose)
        + objective.shape_prior**2 * (betas * betas).sum(-1)
    )


def anchor_cost(
    objective: Objective, anchor: Anchor, pose_aa: Float[Tensor, "B 72"], betas: Float[Tensor, "B 10"]
) -> Float[Tensor, " B"]:
    """Σ (anchor × difference / σ)² over angles and betas."""
    away = torch.cat([pose_aa - anchor.pose_aa, betas - anchor.betas], 1)
    return (anchor.precision(objective) * away * away).sum(1)


def total_cost(
    body: CompactBody,
    prior: PosePrior,
    objective: Objective,
    pose_aa: Float[Tensor, "B 72"],
    betas: Float[Tensor, "B 10"],
    camera_m: Float[Tensor, "B 3"],
    observations: Observations,
    anchor: Anchor | None = None,
) -> Float[Tensor, " B"]:
    """The whole objective: summed (not averaged) reprojection, 3D joints, priors, and the anchor if there is one."""
    keypoints = body.keypoints(body(pose_aa, betas))
    total = _reprojection(objective, objective.hips, keypoints, camera_m, observations).sum((1, 2))
    if observations.joints3d_m is not None:
        total = total + objective.joints3d**2 * joints3d_cost(keypoints, observations.joints3d_m)
    total = total + prior_cost(prior, objective, pose_aa, betas, anchor)
    return total if anchor is None else total + anchor_cost(objective, anchor, pose_aa, betas)
