"""The published solver, for reference: Adam, first on camera and orientation, then on the whole body (SPIN's SMPLify)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from spin.fitting.levenberg_marquardt import Solution
from spin.fitting.objective import BETA_LIMIT, total_cost
from spin.joints import JOINTS

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.objective import Objective
    from spin.fitting.observations import Observations
    from spin.fitting.prior import PosePrior
    from spin.fitting.starts import Start

STEP_SIZE = 1e-2
DEPTH_WEIGHT = 100.0  # holds the depth near its first estimate, per metre


def solve(
    body: CompactBody,
    prior: PosePrior,
    objective: Objective,
    start: Start,
    observations: Observations,
    *,
    iterations: int,
) -> Solution:
    """`iterations` of each stage: it ends by count and tests no convergence. Inputs are not changed.

    Betas are brought back within ±BETA_LIMIT after each step. The published code leaves them, and its training replaces such
    betas by zeros.
    """
    start = replace(start, betas=start.betas.clamp(-BETA_LIMIT, BETA_LIMIT))
    with torch.enable_grad():
        pose, camera = _fit_camera(body, start, observations, iterations)
        pose, betas = pose.requires_grad_(), start.betas.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([pose, betas], lr=STEP_SIZE)
        for _ in range(iterations):
            optimiser.zero_grad()
            total_cost(body, prior, objective, pose, betas, camera, observations, start.anchor).sum().backward()
            optimiser.step()
            with torch.no_grad():
                betas.clamp_(-BETA_LIMIT, BETA_LIMIT)
    with torch.no_grad():
        cost = total_cost(body, prior, objective, pose, betas, camera, observations, start.anchor)
    used = torch.full_like(cost, 2 * iterations, dtype=torch.int64)
    return Solution(pose.detach(), betas.detach(), camera, cost, used, torch.ones_like(used, dtype=torch.bool))


def camera_keypoints(keypoints_px: Float[Tensor, "B V 49 3"]) -> Float[Tensor, "B V 49 3"]:
    """Return the keypoints that stage one fits, each with weight 1, and zeros for all others.

    As published: OpenPose's hips and shoulders if all four are seen, else the annotated ones, with any confidence. The
    published code also pulls at annotated joints that were not seen; here they don't count, and where none is annotated,
    OpenPose's do that are there.
    """
    out = torch.zeros_like(keypoints_px)
    torso = keypoints_px[:, :, list(JOINTS.torso)]
    detected, annotated = (torso[..., 2] > 0).split(4, -1)
    chosen = detected.all(-1, keepdim=True) | ~annotated.any(-1, keepdim=True)
    weight = torch.cat([detected & chosen, annotated & ~chosen], -1)[..., None].to(torso)
    out[:, :, list(JOINTS.torso)] = torch.cat([torso[..., :2] * weight, weight], -1)
    return out


def _fit_camera(body: CompactBody, start: Start, observations: Observations, iterations: int) -> tuple[Tensor, Tensor]:
    """Stage one: orientation and translation, from hips and shoulders."""
    root = start.pose_aa[:, :3].detach().clone().requires_grad_()
    camera = start.camera_m.detach().clone().requires_grad_()
    rest = start.pose_aa[:, 3:].detach()
    torso = list(JOINTS.torso)
    seen = camera_keypoints(observations.keypoints_px)[:, :, torso]
    optimiser = torch.optim.Adam([root, camera], lr=STEP_SIZE)
    for _ in range(iterations):
        points = body.keypoints(body(torch.cat([root, rest], 1), start.betas))[:, torso]
        residual = observations.views.project(points + camera[:, None]) - seen[..., :2]
        depth = DEPTH_WEIGHT**2 * (camera[:, 2] - start.camera_m[:, 2]) ** 2
        optimiser.zero_grad()
        ((seen[..., 2:] * residual**2).sum((1, 2, 3)) + depth).sum().backward()
        optimiser.step()
    return torch.cat([root.detach(), rest], 1), camera.detach()
