"""Where a body of known pose and shape stands: the translation that best meets the keypoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spin.fitting.levenberg_marquardt import NEAREST_M
from spin.fitting.objective import body_weights, geman_mcclure

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from spin.fitting.objective import Objective
    from spin.fitting.observations import Observations

_ITERATIONS = 15
_DAMPING, _LESS, _MORE = 1e-3, 0.3, 5.0


def place_body(
    keypoints_m: Float[Tensor, "B 49 3"],
    camera_m: Float[Tensor, "B 3"],
    observations: Observations,
    objective: Objective,
) -> Float[Tensor, "B 3"]:
    """The translation, from `camera_m` on, that minimises the objective's reprojection term: damped Gauss-Newton.

    No other term sees the translation. A step is only taken where it lowers the cost, so the answer is never worse.
    """
    weights = body_weights(observations.keypoints_px, objective.hips)
    focal = observations.views.focal_px[:, :, None]
    rotation = observations.views.rotation
    camera, damping = camera_m.clone(), torch.full_like(camera_m[:, 0], _DAMPING)
    cost = _cost(keypoints_m, camera, observations, objective, weights)
    for _ in range(_ITERATIONS):
        placed = observations.views.place(keypoints_m + camera[:, None])
        residual = observations.views.project(keypoints_m + camera[:, None]) - observations.keypoints_px[..., :2]
        depth = placed[..., 2].clamp_min(NEAREST_M)
        # d pixel / d placed, then back to the fit's axes: the rows of R are the camera's axes there.
        across = focal / depth
        away = -across[..., None] * placed[..., :2] / depth[..., None]
        local = torch.cat([torch.diag_embed(torch.stack([across, across], -1)), away[..., None]], -1)
        slope = (local @ rotation[:, :, None]).flatten(1, 3)
        sigma2 = objective.sigma_px**2
        robust = (weights[..., None] * sigma2 / (sigma2 + residual**2)).flatten(1)
        weighed = robust[..., None] * slope
        normal = weighed.transpose(1, 2) @ weighed
        gradient = (weighed * (robust * residual.flatten(1))[..., None]).sum(1)
        diagonal = torch.diagonal(normal, dim1=1, dim2=2)
        damped = normal + torch.diag_embed(damping[:, None] * diagonal + 1e-6)
        step, _ = torch.linalg.solve_ex(damped, gradient)
        trial = camera - step
        trial_cost = _cost(keypoints_m, trial, observations, objective, weights)
        better = trial_cost < cost
        camera = torch.where(better[:, None], trial, camera)
        cost = torch.where(better, trial_cost, cost)
        damping = torch.where(better, damping * _LESS, damping * _MORE).clamp(1e-9, 1e9)
    return camera


def _cost(
    keypoints_m: Tensor, camera_m: Tensor, observations: Observations, objective: Objective, weights: Tensor
) -> Float[Tensor, " B"]:
    """The reprojection term; infinite where a seen point is not in front of its camera."""
    moved = keypoints_m + camera_m[:, None]
    residual = observations.views.project(moved) - observations.keypoints_px[..., :2]
    robust = weights**2 * geman_mcclure(residual, objective.sigma_px).sum(-1)
    seen = weights > 0
    behind = (observations.views.place(moved)[..., 2] < NEAREST_M) & seen
    total = torch.where(seen, robust, 0.0).sum((1, 2))
    return torch.where(behind.any(2).any(1), torch.inf, total)
