"""Batched Levenberg-Marquardt on the published objective: pose, shape and camera together, exact derivatives.

Each residual of the robust term enters with weight w = c σ² / (σ² + r²): the gradient of c² σ² r² / (σ² + r²) is then
2 w² r, exactly, and w² JᵀJ a positive curvature for it. The pose prior is taken at its active component, the bending
prior as the residual exp(±θ). Every sample has its own damping; a step that doesn't lower the objective is not taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spin.camera import CROP_PX, FOCAL_PX
from spin.fitting.objective import BENDING_INDEX, BENDING_SIGN, body_weights, total_cost
from spin.joints import KEYPOINT_TO_MODEL

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.objective import Objective
    from spin.fitting.prior import PosePrior
    from spin.fitting.starts import Start

POSE, BETAS, CAMERA = slice(0, 72), slice(72, 82), slice(82, 85)
_PARAMETERS = 85
_DAMPING_START, _DAMPING_LESS, _DAMPING_MORE = 1e-3, 0.3, 5.0
_DAMPING_RANGE = (1e-7, 1e7)


@dataclass(frozen=True)
class Solution:
    """Where a solver ended."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    camera_m: Float[Tensor, "B 3"]
    cost: Float[Tensor, " B"]


def solve(
    body: CompactBody,
    prior: PosePrior,
    objective: Objective,
    start: Start,
    keypoints_crop_px: Float[Tensor, "B 49 3"],
    *,
    iterations: int,
) -> Solution:
    """Minimises `total_cost`. The result never costs more than the start; inputs are not changed."""
    with torch.no_grad():
        system = _System(body, prior, objective, keypoints_crop_px)
        x = torch.cat([start.pose_aa, start.betas, start.camera_m], 1)
        cost = system.cost(x)
        damping = torch.full_like(cost, _DAMPING_START)
        for _ in range(iterations):
            curvature, gradient = system.linearise(x)
            diagonal = curvature.diagonal(dim1=1, dim2=2)
            damped = curvature + torch.diag_embed(damping[:, None] * diagonal + 1e-4)
            factor, failed = torch.linalg.cholesky_ex(damped)
            trial = x - torch.cholesky_solve(gradient[..., None], factor)[..., 0]
            trial_cost = system.cost(trial)
            # A comparison with NaN is false, so a sample that went wrong stays where it was.
            better = (trial_cost < cost) & (failed == 0) & (trial[:, 84] > 0)
            x = torch.where(better[:, None], trial, x)
            cost = torch.where(better, trial_cost, cost)
            damping = torch.where(better, damping * _DAMPING_LESS, damping * _DAMPING_MORE).clamp(
                *_DAMPING_RANGE
            )
        return Solution(x[:, POSE].contiguous(), x[:, BETAS].contiguous(), x[:, CAMERA].contiguous(), cost)


class _System:
    """The objective of one batch, linearised on request. Only model points that some sample sees are computed."""

    def __init__(
        self, body: CompactBody, prior: PosePrior, objective: Objective, keypoints_crop_px: Tensor
    ) -> None:
        self.body, self.prior, self.objective = body, prior, objective
        self.keypoints = keypoints_crop_px
        self.weights = body_weights(keypoints_crop_px)
        seen = (self.weights > 0).any(0).nonzero()[:, 0].tolist()
        self.seen = seen or [0]
        self.select = sorted({KEYPOINT_TO_MODEL[k] for k in self.seen})
        # [p, k] = 1 where keypoint k is model point p: sums what several keypoints say of one point.
        member = torch.zeros(
            len(self.select), len(self.seen), dtype=self.weights.dtype, device=self.weights.device
        )
        for column, keypoint in enumerate(self.seen):
            member[self.select.index(KEYPOINT_TO_MODEL[keypoint]), column] = 1
        self.member = member

    def cost(self, x: Tensor) -> Tensor:
        return total_cost(
            self.body, self.prior, self.objective, x[:, POSE], x[:, BETAS], x[:, CAMERA], self.keypoints
        )

    def linearise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Half the objective's (approximate, positive) curvature (B, 85, 85) and half its gradient (B, 85)."""
        model = self.body.points_and_jacobian(x[:, POSE], x[:, BETAS], self.select)
        p = model.points_m + x[:, None, CAMERA]
        inverse_z = 1 / p[..., 2:]
        pixels = FOCAL_PX * p[..., :2] * inverse_z + CROP_PX / 2
        # d(pixel) = f / z (dX - (X / z) dZ)
        slope, lean = FOCAL_PX * inverse_z[..., None], (p[..., :2] * inverse_z)[..., None]
        by_body = torch.cat([model.by_pose, model.by_betas], -1)
        jacobian_body = slope * (by_body[:, :, :2] - lean * by_body[:, :, 2:])
        eye = torch.eye(2, dtype=x.dtype, device=x.device).expand(*p.shape[:2], 2, 2)
        jacobian = torch.cat([jacobian_body, slope * torch.cat([eye, -lean], -1)], -1)  # (B, P, 2, 85)

        weight_sum, pull = self._robust_pull(pixels)
        scaled = (jacobian * weight_sum.sqrt()[..., None]).flatten(1, 2)
        curvature = scaled.transpose(1, 2) @ scaled
        gradient = (jacobian * pull[..., None]).sum((1, 2))
        self._add_priors(x, curvature, gradient)
        return curvature, gradient

    def _robust_pull(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Σ w² and Σ w² r over the keypoints of each model point, both (B, P, 2)."""
        point = torch.tensor(
            [self.select.index(KEYPOINT_TO_MODEL[k]) for k in self.seen], device=pixels.device
        )
        residual = pixels[:, point] - self.keypoints[:, self.seen, :2]
        sigma2 = self.objective.sigma_px**2
        w2 = (self.weights[:, self.seen, None] * sigma2 / (sigma2 + residual * residual)) ** 2
        return self.member @ w2, self.member @ (w2 * residual)

    def _add_priors(self, x: Tensor, curvature: Tensor, gradient: Tensor) -> None:
        o, body_pose = self.objective, x[:, 3:72]
        component = self.prior.cost_and_component(body_pose)[1]
        precision = self.prior.precision[component]
        away = body_pose - self.prior.means[component]
        curvature[:, 3:72, 3:72] += 0.5 * o.pose_prior**2 * precision
        gradient[:, 3:72] += 0.5 * o.pose_prior**2 * (precision @ away[..., None])[..., 0]

        sign = torch.tensor(BENDING_SIGN, dtype=x.dtype, device=x.device)
        squared = o.bending_prior**2 * torch.exp(2 * sign * body_pose[:, list(BENDING_INDEX)])
        hinge = torch.tensor(BENDING_INDEX, device=x.device) + 3
        curvature[:, hinge, hinge] += squared
        gradient[:, hinge] += squared * sign

        shape = torch.arange(72, 82, device=x.device)
        curvature[:, shape, shape] += o.shape_prior**2
        gradient[:, BETAS] += o.shape_prior**2 * x[:, BETAS]
