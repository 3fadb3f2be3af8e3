"""Trains a lifter on people of the prior: minutes on two cores, no images, no licensed data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from spin.errors import TrainingError
from spin.evaluation.metrics import pa_mpjpe_mm
from spin.fitting.lifter import (
    _BETAS,
    _LOG_ERROR,
    _LOG_SIGMA_BETAS,
    _LOG_SIGMA_POSE,
    _ROTATIONS,
    Lifter,
    LifterInfo,
    features,
    merge_places,
)
from spin.fitting.sampling import PeoplePool, PoseSource, detect
from spin.joints import LSP_POINTS
from spin.rotations import matrix_to_axis_angle, rot6d_to_matrix

if TYPE_CHECKING:
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.sampling import People

BATCH = 256
LEARNING_RATE = 1.5e-3
WARM_UP = 300
AVERAGE = 0.999  # of the weights over the last thousand steps
WIDTH, BLOCKS = 512, 3


def train_lifter(
    body: CompactBody,
    source: PoseSource,
    info: LifterInfo,
    *,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> Lifter:
    """`info.steps` steps; the same seed gives the same lifter. `progress(step, figures)` is called every 100 steps.

    TrainingError if the loss stops being a number.
    """
    torch.manual_seed(info.seed)
    generator = torch.Generator().manual_seed(info.seed)
    lifter = Lifter(info)
    average = copy.deepcopy(lifter)
    optimiser = torch.optim.AdamW(lifter.parameters(), lr=LEARNING_RATE, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            torch.optim.lr_scheduler.LinearLR(optimiser, 0.01, total_iters=WARM_UP),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(info.steps - WARM_UP, 1), 1e-6),
        ],
        [WARM_UP],
    )
    batches = PeoplePool(body, source, generator).batches(BATCH)
    for step in range(info.steps):
        with torch.no_grad():
            people = next(batches)
            seen = features(merge_places(detect(people.pixels, generator)))
        loss, figures = _loss(body, lifter(seen), people, with_error=step % 8 == 0)
        if not torch.isfinite(loss):
            raise TrainingError(f"lifter, step {step}: the loss is not a number; lower the learning rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lifter.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        _follow(average, lifter, min(AVERAGE, step / (step + 10)))
        if progress is not None and step % 100 == 0:
            progress(step, {name: float(value) for name, value in figures.items()})
    return average.eval()


def _follow(average: Lifter, lifter: Lifter, keep: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(lifter.parameters()), 1 - keep)


def _loss(body: CompactBody, raw: Tensor, people: People, *, with_error: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Rotations, points about the pelvis, betas; and how likely the errors are under the sigmas that are claimed.

    Claims are judged on errors as they are (detached): being honest must not make the answer worse.
    """
    turned = rot6d_to_matrix(raw[:, _ROTATIONS].reshape(-1, 24, 6))
    betas = raw[:, _BETAS]
    points = body.from_global_rotations(turned, betas)
    points = points - points[:, :1]
    true_points = people.points_m - people.points_m[:, :1]
    distance = (points - true_points).norm(dim=-1)
    turn = ((turned - people.global_rotations) ** 2).mean()
    shape = ((betas - people.betas) ** 2).mean()
    loss = turn + 6.0 * distance.mean() + 0.01 * shape

    with torch.no_grad():
        local, true_local = body.local_rotations(turned), body.local_rotations(people.global_rotations)
        away = matrix_to_axis_angle(local.transpose(-1, -2) @ true_local).flatten(1)
        away_betas = betas - people.betas
    log_sigma = raw[:, _LOG_SIGMA_POSE].clamp(-5.0, 2.0)
    likelihood = (0.5 * (away * (-log_sigma).exp()) ** 2 + log_sigma).mean()
    log_sigma_betas = raw[:, _LOG_SIGMA_BETAS].clamp(-5.0, 2.0)
    likelihood = likelihood + (0.5 * (away_betas * (-log_sigma_betas).exp()) ** 2 + log_sigma_betas).mean()
    figures = {"loss": loss.detach(), "points_mm": 1000 * distance.mean().detach()}
    if with_error:
        # Laplace: the claim tends to the mean error, not to the mean of its square.
        found, true = (p[:, list(LSP_POINTS)].detach().numpy() for p in (points, true_points))
        error_mm = torch.from_numpy(pa_mpjpe_mm(found, true)).to(raw.dtype)
        log_error = raw[:, _LOG_ERROR].clamp(0.0, 7.0)
        likelihood = likelihood + (error_mm * (-log_error).exp() + log_error).mean() / 4
        figures["pa_mpjpe_mm"] = error_mm.mean()
    return loss + 0.02 * likelihood, figures
