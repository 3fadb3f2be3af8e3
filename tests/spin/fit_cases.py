"""Observations, starts and comparisons that several tests of fitting share; the people are those of `fit_problems`."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from spin.body import CompactBody
from spin.fitting.objective import Anchor
from spin.fitting.observations import Observations, Views
from spin.fitting.starts import Start
from spin.joints import JOINTS
from spin.rotations import axis_angle_to_matrix
from tests.spin.fit_problems import Problem

T = TypeVar("T")


def doubled(thing: T) -> T:
    """A dataclass of tensors in float64, where rounding has no room to grow along the way."""
    if isinstance(thing, torch.Tensor):
        return thing.double() if thing.is_floating_point() else thing  # type: ignore[return-value]
    if not is_dataclass(thing):
        return thing
    return type(thing)(*(doubled(getattr(thing, f.name)) for f in fields(thing)))


def joints3d(problem: Problem) -> torch.Tensor:
    """The 24 true joints (B, 24, 4), all of them known."""
    joints = problem.points_m[:, JOINTS.superset]
    return torch.cat([joints, torch.ones_like(joints[..., :1])], -1)


def surround(problem: Problem, count: int, joints: tuple[int, ...] = JOINTS.coco, noise_px: float = 0.0) -> Observations:
    """Cameras all round each person, tilted, the first turned too, each of another focal length and principal point."""
    batch = len(problem.pose)
    turn, tilt = torch.zeros(2, count, 3)
    turn[:, 1] = 0.4 + 2 * np.pi * torch.arange(count) / count
    tilt[:, 0] = 0.3 * torch.cos(2.0 * torch.arange(count))
    rotation = (axis_angle_to_matrix(tilt) @ axis_angle_to_matrix(turn)).expand(batch, count, 3, 3)
    centre = problem.points_m.mean(1) + problem.camera
    translation = -(rotation @ centre[:, None, :, None])[..., 0]
    focal = (1500.0 * (1 + 0.1 * torch.arange(count))).expand(batch, count)
    translation[..., 2] += problem.camera[:, None, 2] * focal / 5000
    principal = 112 + 5.0 * torch.arange(count)[:, None].expand(batch, count, 2)
    views = Views(rotation, translation, focal, principal)
    pixels = views.project(problem.points_m + problem.camera[:, None])
    keypoints = torch.zeros(batch, count, 49, 3)
    chosen = list(joints)
    noise = torch.randn(batch, count, len(chosen), 2, generator=torch.Generator().manual_seed(1))
    keypoints[:, :, chosen, :2] = pixels[:, :, chosen] + noise_px * noise
    keypoints[:, :, chosen, 2] = 1
    return Observations(keypoints, views)


def anchored(start: Start, seed: int = 5) -> Start:
    """The start, held to a body near it with uncertainties of all sizes."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator).to(like)

    pose, betas = start.pose_aa, start.betas
    anchor = Anchor(
        pose + draw(pose, -0.1, 0.1), betas + draw(betas, -0.5, 0.5), draw(pose, 0.05, 1.0), draw(betas, 0.3, 1.5),
        draw(betas[:, 0], 1.0, 6.0),
    )  # fmt: skip
    return Start(pose, betas, start.camera_m, "lifter", anchor)


def tensors_of(*things: Any) -> list[torch.Tensor]:
    """All tensors in dataclasses of tensors, in order."""
    found: list[torch.Tensor] = []
    for thing in things:
        if isinstance(thing, torch.Tensor):
            found.append(thing)
        elif is_dataclass(thing):
            found += tensors_of(*(getattr(thing, f.name) for f in fields(thing)))
    return found


def same_bits(first: Any, second: Any, rows: Any = slice(None)) -> bool:
    """Whether two dataclasses of tensors are equal bit for bit, NaN included; `rows` of the second."""
    pairs = zip(tensors_of(first), tensors_of(second), strict=True)
    return all(a.numpy().tobytes() == b[rows].contiguous().numpy().tobytes() for a, b in pairs)


def distance_mm(body: CompactBody, fit: Any, problem: Problem) -> torch.Tensor:
    """Mean distance (B,) of a fit's keypoints from the true ones where the camera sees them: nothing is aligned."""
    found = body.keypoints(body(fit.pose_aa, fit.betas)) + fit.camera_m[:, None]
    return 1000 * (found - problem.points_m - problem.camera[:, None]).norm(dim=-1).mean(1)
