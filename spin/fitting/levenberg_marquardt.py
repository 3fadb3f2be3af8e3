"""Levenberg-Marquardt on the objective: pose, shape and camera together, exact derivatives.

Each residual of the robust term enters with weight w = c σ² / (σ² + r²): the gradient of c² σ² r² / (σ² + r²) is then
2 w² r, exactly, and w² JᵀJ a positive curvature for it. The pose prior is taken at its active component, the bending
prior as the residual exp(±θ). Every sample has its own damping; a step that doesn't lower the objective is not taken.

Betas stay within ±BETA_LIMIT: a step that would take some beyond is solved again with those pinned to the limit (an active
set: Nocedal and Wright, Numerical Optimization, 16.7). Where no beta meets its limit, steps are those of the free problem.

`solve` runs as machine code on the CPU (`spin.fitting.compiled`); `solve_batched` is the same in torch: for a GPU, and to read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from spin.fitting.objective import BENDING_INDEX, BENDING_SIGN, BETA_LIMIT, body_weights, pose_prior_weight, total_cost
from spin.joints import JOINTS, KEYPOINT_TO_MODEL

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.objective import Objective
    from spin.fitting.observations import Observations
    from spin.fitting.prior import PosePrior
    from spin.fitting.starts import Start

POSE, BETAS, CAMERA = slice(0, 72), slice(72, 82), slice(82, 85)
_PARAMETERS = 85
DAMPING_START, DAMPING_LESS, DAMPING_MORE = 1e-3, 0.3, 5.0
DAMPING_RANGE = (1e-7, 1e7)
RIDGE = 1e-4  # on the diagonal, so that a parameter without any observations stays where it is
NEAREST_M = 0.05  # a seen point closer to a camera than this, or behind it, makes a cost infinite


@dataclass(frozen=True)
class Solution:
    """Where a solver ended, after how many iterations, and whether it would have gone on."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    camera_m: Float[Tensor, "B 3"]
    cost: Float[Tensor, " B"]
    iterations: Int[Tensor, " B"]
    converged: Bool[Tensor, " B"]

    @classmethod
    def of(cls, x: Float[Tensor, "B 85"], cost: Tensor, iterations: Tensor, converged: Tensor) -> Solution:
        pose, betas, camera = (x[:, part].contiguous() for part in (POSE, BETAS, CAMERA))
        return cls(pose, betas, camera, cost, iterations, converged)

    def take(self, rows: Tensor) -> Solution:
        return Solution(*(getattr(self, f.name)[rows] for f in fields(self)))


def parameters(start: Start) -> Float[Tensor, "B 85"]:
    """Return a start as one row of parameters for each sample, with betas within the limit."""
    return torch.cat([start.pose_aa, start.betas.clamp(-BETA_LIMIT, BETA_LIMIT), start.camera_m], 1)


def solve_batched(
    body: CompactBody,
    prior: PosePrior,
    objective: Objective,
    start: Start,
    observations: Observations,
    *,
    iterations: int,
    tolerance: float,
) -> Solution:
    """Minimise `total_cost` for all samples in step, on any device. The result never costs more than the start.

    A sample has converged when a step gains less than `tolerance` of its cost, or none however short gains anything; it
    stays where it is from then on. Inputs are not changed.
    """
    with torch.no_grad():
        system = _System(body, prior, objective, start, observations)
        x = parameters(start)
        cost = system.cost(x)
        damping = torch.full_like(cost, DAMPING_START)
        converged = ~torch.isfinite(cost)  # no step leads down from infinity
        used = torch.zeros_like(cost, dtype=torch.int64)
        for _ in range(iterations):
            if bool(converged.all()):
                break
            used += ~converged
            curvature, gradient = system.linearise(x)
            diagonal = curvature.diagonal(dim1=1, dim2=2)
            damped = curvature + torch.diag_embed(damping[:, None] * diagonal + RIDGE)
            trial, failed = _after_step(x, damped, gradient)
            trial_cost = system.cost(trial)
            # A comparison with NaN is false, so a sample that went wrong keeps its parameters.
            better = (trial_cost < cost) & (failed == 0) & ~converged
            settled = better & (cost - trial_cost <= tolerance * trial_cost)
            x = torch.where(better[:, None], trial, x)
            cost = torch.where(better, trial_cost, cost)
            damping = torch.where(better, damping * DAMPING_LESS, damping * DAMPING_MORE)
            converged = converged | settled | (damping > DAMPING_RANGE[1])
            damping = damping.clamp(*DAMPING_RANGE)
        return Solution.of(x, cost, used, converged & torch.isfinite(cost))


def _after_step(x: Tensor, damped: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a step leads that takes no beta beyond its limit, and where there is no such step (not 0)."""
    betas, slope = x[:, BETAS], gradient[:, BETAS]
    pinned = ((betas >= BETA_LIMIT) & (slope < 0)) | ((betas <= -BETA_LIMIT) & (slope > 0))
    target = betas
    while True:
        trial, failed = _pinned_step(x, damped, gradient, pinned, target)
        beyond = (trial[:, BETAS].abs() > BETA_LIMIT) & ~pinned
        if not bool(beyond.any()):
            return trial, failed
        pinned, target = pinned | beyond, torch.where(beyond, trial[:, BETAS].sign() * BETA_LIMIT, target)


def _pinned_step(x: Tensor, damped: Tensor, gradient: Tensor, pinned: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the step leads that takes pinned betas to their target, and all else to the model's least value then."""
    if bool(pinned.any()):
        step, held = torch.zeros_like(gradient), torch.zeros_like(gradient, dtype=torch.bool)
        step[:, BETAS], held[:, BETAS] = torch.where(pinned, x[:, BETAS] - target, 0.0), pinned
        free = (~held).to(x)
        gradient = (gradient - (damped @ step[..., None])[..., 0]) * free + step
        damped = damped * free[:, :, None] * free[:, None] + torch.diag_embed(held.to(x))
    factor, failed = torch.linalg.cholesky_ex(damped)
    trial = x - torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    trial[:, BETAS] = torch.where(pinned, target, trial[:, BETAS])
    return trial, failed


class _System:
    """The objective of one batch, linearised on request. Only model points that some sample sees are computed."""

    def __init__(
        self,
        body: CompactBody,
        prior: PosePrior,
        objective: Objective,
        start: Start,
        observations: Observations,
    ) -> None:
        self.body, self.prior, self.objective, self.observations = body, prior, objective, observations
        self.anchor = start.anchor
        self.weights = body_weights(observations.keypoints_px, objective.hips)  # (B, V, 49)
        self.seen = (self.weights > 0).any(0).any(0).nonzero()[:, 0].tolist()
        known: list[int] = []
        if observations.joints3d_m is not None:
            known = (observations.joints3d_m[..., 3] > 0).any(0).nonzero()[:, 0].tolist()
        self.known = known
        named = self.seen + [JOINTS.superset.start + j for j in known]
        self.select = sorted({KEYPOINT_TO_MODEL[k] for k in named}) or [0]
        # [p, k] = 1 where keypoint k is model point p: sums over the keypoints of one point.
        self.member = self._membership(self.seen)

    def _membership(self, keypoints: list[int]) -> Tensor:
        member = torch.zeros(len(self.select), len(keypoints), dtype=self.weights.dtype, device=self.weights.device)
        for column, keypoint in enumerate(keypoints):
            member[self.select.index(KEYPOINT_TO_MODEL[keypoint]), column] = 1
        return member

    def cost(self, x: Tensor) -> Tensor:
        pose, betas, camera = x[:, POSE], x[:, BETAS], x[:, CAMERA]
        total = total_cost(self.body, self.prior, self.objective, pose, betas, camera, self.observations, self.anchor)
        keypoints = self.body.keypoints(self.body(pose, betas)) + camera[:, None]
        near = (self.observations.views.place(keypoints)[..., 2] < NEAREST_M) & (self.weights > 0)
        return torch.where(near.flatten(1).any(1), torch.inf, total)

    def linearise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Half the objective's (approximate, positive) curvature (B, 85, 85) and half its gradient (B, 85)."""
        model = self.body.points_and_jacobian(x[:, POSE], x[:, BETAS], self.select)
        by_body = torch.cat([model.by_pose, model.by_betas], -1)  # (B, P, 3, 82)
        curvature = x.new_zeros(len(x), _PARAMETERS, _PARAMETERS)
        gradient = x.new_zeros(len(x), _PARAMETERS)
        if self.seen:
            eye = torch.eye(3, dtype=x.dtype, device=x.device).expand(*model.points_m.shape, 3)
            by_all = torch.cat([by_body, eye], -1)
            for view in range(self.weights.shape[1]):
                self._add_view(view, model.points_m + x[:, None, CAMERA], by_all, curvature, gradient)
        if self.known:
            self._add_joints3d(model.points_m, by_body, curvature, gradient)
        self._add_priors(x, curvature, gradient)
        return curvature, gradient

    def _add_view(self, view: int, points_m: Tensor, by_all: Tensor, curvature: Tensor, gradient: Tensor) -> None:
        views = self.observations.views
        rotation = views.rotation[:, view]
        p = points_m @ rotation.transpose(-1, -2) + views.translation_m[:, view, None]
        inverse_z = 1 / p[..., 2:]
        focal = views.focal_px[:, view, None, None]
        pixels = focal * p[..., :2] * inverse_z + views.principal_px[:, view, None]
        # d(pixel) = f / z (dX - (X / z) dZ), in the view's axes
        moved = rotation[:, None] @ by_all
        slope, lean = (focal * inverse_z)[..., None], (p[..., :2] * inverse_z)[..., None]
        jacobian = slope * (moved[:, :, :2] - lean * moved[:, :, 2:])  # (B, P, 2, 85)
        weight_sum, pull = self._robust_pull(view, pixels)
        scaled = (jacobian * weight_sum.sqrt()[..., None]).flatten(1, 2)
        curvature += scaled.transpose(1, 2) @ scaled
        gradient += (jacobian * pull[..., None]).sum((1, 2))

    def _robust_pull(self, view: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Σ w² and Σ w² r over the keypoints of each model point, both (B, P, 2)."""
        point = [self.select.index(KEYPOINT_TO_MODEL[k]) for k in self.seen]
        residual = pixels[:, point] - self.observations.keypoints_px[:, view, self.seen, :2]
        sigma2 = self.objective.sigma_px**2
        w2 = (self.weights[:, view, self.seen, None] * sigma2 / (sigma2 + residual * residual)) ** 2
        return self.member @ w2, self.member @ (w2 * residual)

    def _add_joints3d(self, points_m: Tensor, by_body: Tensor, curvature: Tensor, gradient: Tensor) -> None:
        assert self.observations.joints3d_m is not None
        joints = self.observations.joints3d_m[:, self.known]
        point = [self.select.index(KEYPOINT_TO_MODEL[JOINTS.superset.start + j]) for j in self.known]
        weight = self.objective.joints3d**2 * joints[..., 3:] ** 2
        share = weight / weight.sum(1, keepdim=True).clamp_min(1e-12)
        away = points_m[:, point] - joints[..., :3]
        away = away - (share * away).sum(1, keepdim=True)
        jacobian = by_body[:, point]
        # Moving all joints together costs nothing: the mean movement is taken out of each.
        jacobian = jacobian - (share[..., None] * jacobian).sum(1, keepdim=True)
        scaled = (jacobian * weight[..., None].sqrt()).flatten(1, 2)
        curvature[:, :82, :82] += scaled.transpose(1, 2) @ scaled
        gradient[:, :82] += (jacobian * (weight * away)[..., None]).sum((1, 2))

    def _add_priors(self, x: Tensor, curvature: Tensor, gradient: Tensor) -> None:
        o, body_pose = self.objective, x[:, 3:72]
        half = 0.5 * pose_prior_weight(o, self.anchor, x[:, 0])
        component = self.prior.cost_and_component(body_pose)[1]
        precision = self.prior.precision[component]
        away = body_pose - self.prior.means[component]
        curvature[:, 3:72, 3:72] += half[:, None, None] * precision
        gradient[:, 3:72] += half[:, None] * (precision @ away[..., None])[..., 0]

        sign = torch.tensor(BENDING_SIGN, dtype=x.dtype, device=x.device)
        squared = o.bending_prior**2 * torch.exp(2 * sign * body_pose[:, list(BENDING_INDEX)])
        hinge = torch.tensor(BENDING_INDEX, device=x.device) + 3
        curvature[:, hinge, hinge] += squared
        gradient[:, hinge] += squared * sign

        shape = torch.arange(72, 82, device=x.device)
        curvature[:, shape, shape] += o.shape_prior**2
        gradient[:, BETAS] += o.shape_prior**2 * x[:, BETAS]
        if self.anchor is not None:
            pull = self.anchor.precision(o)
            held = torch.arange(82, device=x.device)
            curvature[:, held, held] += pull
            gradient[:, :82] += pull * (x[:, :82] - torch.cat([self.anchor.pose_aa, self.anchor.betas], 1))
