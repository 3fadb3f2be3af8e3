"""What makes a fit invalid, in words: of the observations, before anything is fitted, and of the body that came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from spin.fitting.objective import BETA_LIMIT, body_weights
from spin.fitting.starts import MIN_JOINTS, confident_joints

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from spin.fitting.levenberg_marquardt import Solution
    from spin.fitting.observations import Observations

ACCEPT_LOSS = 100.0  # px²: SPIN's smplify_threshold
_LEAST_SPREAD_PX = 1.0

# Kept as small numbers so that they can be tensors and columns; VERDICTS[i] is the text. Never renumbered.
(
    VALID,
    TOO_FEW_JOINTS,
    NOT_FINITE,
    CONFIDENCE_OUT_OF_RANGE,
    JOINTS_COINCIDE,
    OUTSIDE_CROP,
    BEHIND_CAMERA,
    SHAPE_OUT_OF_RANGE,
    LOSS_TOO_HIGH,
    NOT_CONVERGED,
) = range(10)
VERDICTS = (
    "valid",
    f"fewer than {MIN_JOINTS} confident joints",
    "not a number, or beyond all bounds",
    "a confidence outside 0 to 1",
    "all joints in one place",
    "most joints far outside the crop",
    "behind the camera",
    f"a beta beyond ±{BETA_LIMIT:g}",
    f"loss of {ACCEPT_LOSS:g} px² or more",
    "not converged",
)
DOUBTFUL_MM = 100.0  # expected error of a valid fit beyond which it is as likely as not that far off (docs/fitting.md)
DOUBTFUL = f"doubtful: valid, but with an expected error above {DOUBTFUL_MM:g} mm"
# Poor fits are fits all the same, and kept until a better one comes; they are not exported as valid.
KEPT = (VALID, LOSS_TOO_HIGH, NOT_CONVERGED)


def is_doubtful(verdict: Any, expected_error_mm: Any) -> Any:
    """Return where a fit is valid but doubtful, of arrays, tensors or numbers. Doubtful fits are valid ones in all else."""
    return (verdict == VALID) & (expected_error_mm > DOUBTFUL_MM)


def verdict_of_observations(observations: Observations) -> Int[Tensor, " B"]:
    """VALID where there is enough to fit, else the reason. 3D joints make up for keypoints."""
    keypoints = observations.keypoints_px
    safe = observations.without(~observations.finite()).keypoints_px
    weight = body_weights(safe)
    seen = weight > 0
    near = observations.without(~observations.finite()).within_reach()
    joints, within = confident_joints(safe).amax(1), confident_joints(near.keypoints_px).amax(1)
    by_joints3d = torch.zeros_like(joints, dtype=torch.bool)
    if observations.joints3d_m is not None:
        known = (observations.joints3d_m[..., 3] > 0).sum(1)
        by_joints3d = known >= MIN_JOINTS
        joints, within = torch.maximum(joints, known), torch.maximum(within, known)

    total = weight.sum(2).clamp_min(1e-6)[..., None]
    centre = (weight[..., None] * safe[..., :2]).sum(2) / total
    away = torch.where(seen[..., None], (safe[..., :2] - centre[:, :, None]).abs(), 0.0)
    spread = away.amax((1, 2, 3))
    outside = 2 * (observations.beyond_reach() & seen).sum((1, 2)) > seen.sum((1, 2))

    verdict = torch.full((len(keypoints),), VALID, dtype=torch.long, device=keypoints.device)
    verdict[~observations.within_bounds()] = NOT_FINITE
    verdict[within < MIN_JOINTS] = TOO_FEW_JOINTS
    verdict[outside] = OUTSIDE_CROP
    verdict[(spread < _LEAST_SPREAD_PX) & seen.any(2).any(1) & ~by_joints3d] = JOINTS_COINCIDE
    verdict[joints < MIN_JOINTS] = TOO_FEW_JOINTS
    verdict[~observations.confidence_in_range()] = CONFIDENCE_OUT_OF_RANGE
    verdict[~observations.finite()] = NOT_FINITE
    return verdict


def verdict_of_fit(
    observations_verdict: Int[Tensor, " B"],
    solution: Solution,
    loss: Float[Tensor, " B"],
    score: Float[Tensor, " B"],
    depth_m: Float[Tensor, " B"],
) -> Int[Tensor, " B"]:
    """The verdict of a fit: that of its observations, if that is not VALID, else what is wrong with the body.

    `depth_m` is the least depth of the body's root in any view.
    """
    numbers = torch.stack([solution.cost, loss, score], 1)
    body = torch.cat([solution.pose_aa, solution.betas, solution.camera_m], 1)
    verdict = torch.full_like(observations_verdict, VALID)
    verdict[~solution.converged] = NOT_CONVERGED
    verdict[~(loss < ACCEPT_LOSS)] = LOSS_TOO_HIGH
    verdict[(solution.betas.abs() > BETA_LIMIT).any(1)] = SHAPE_OUT_OF_RANGE
    verdict[~torch.isfinite(numbers).all(1)] = NOT_FINITE
    verdict[~(depth_m > 0)] = BEHIND_CAMERA  # which has no finite cost either
    verdict[~torch.isfinite(body).all(1)] = NOT_FINITE
    return torch.where(observations_verdict != VALID, observations_verdict, verdict)
