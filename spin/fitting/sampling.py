"""People to train on: bodies in sampled poses, seen from anywhere, with keypoints as annotators and detectors give them.

The lifter is trained on these, and the scorer of fits is calibrated on them: true bodies are known, and keypoints are noisy,
partly missing, sometimes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.camera import CROP_PX, FOCAL_PX, project
from spin.fitting.observations import Views
from spin.joints import JOINTS
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle, mirror_pose

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.prior import PosePrior

# Which of the 49 keypoints a data set has, and how often people are drawn with each set.
KEYPOINT_SETS: dict[str, tuple[float, tuple[int, ...]]] = {
    "all": (0.25, tuple(range(JOINTS.count))),
    "coco": (0.45, JOINTS.coco),
    "openpose": (0.15, tuple(range(25))),
    "lsp": (0.15, JOINTS.lsp),
}
_PARTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "toe", "heel", "eye", "ear")
_LEGS, _ARMS = ("knee", "ankle", "toe", "heel"), ("elbow", "wrist")
_FACE = ("eye", "ear", "nose", "jaw", "head")
MIN_VISIBLE = 6
WILD_SHARE = 0.1
_POOL, _TIMES_USED = 16_384, 4


@dataclass(frozen=True)
class People:
    """True bodies, their points, and exact projections (px of the crop)."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    global_rotations: Float[Tensor, "B 24 3 3"]
    camera_m: Float[Tensor, "B 3"]
    points_m: Float[Tensor, "B 44 3"]
    pixels: Float[Tensor, "B 49 2"]


class PoseSource:
    """Body poses: samples of the prior, and, if there are any, given poses with noise, whole or of two people put together."""

    def __init__(self, prior: PosePrior, poses: Float[np.ndarray, "N 69"] | None = None) -> None:
        self.means = torch.from_numpy(prior.means_np).float()
        self.factors = torch.from_numpy(np.linalg.cholesky(prior.covars_np)).float()
        self.weights = torch.from_numpy(prior.weights_np / prior.weights_np.sum()).float()
        self.poses = None if poses is None or not len(poses) else torch.from_numpy(np.asarray(poses, np.float32))

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "B 69"]:
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, 69, 1, generator=generator)
        drawn = self.means[component] + (self.factors[component] @ noise)[..., 0]
        if self.poses is None:
            return drawn
        first, second = (self.poses[torch.randint(len(self.poses), (count,), generator=generator)] for _ in range(2))
        upper = torch.zeros(23, dtype=torch.bool)
        upper[[2, 5, 8, *range(11, 23)]] = True  # spine and everything above it
        mixed = torch.where(upper.repeat_interleave(3), first, second)
        given = torch.where(torch.rand(count, 1, generator=generator) < 0.25, mixed, first)
        given = given + 0.05 * torch.randn(count, 69, generator=generator)
        flip = torch.rand(count, 1, generator=generator) < 0.5
        mirrored = mirror_pose(torch.cat([torch.zeros(count, 3), given], 1))[:, 3:]
        given = torch.where(flip, mirrored, given)
        return torch.where(torch.rand(count, 1, generator=generator) < 0.3, drawn, given)


def look_at(
    body: CompactBody,
    body_pose: Float[Tensor, "B 69"],
    betas: Float[Tensor, "B 10"],
    generator: torch.Generator,
    *,
    wild_share: float = WILD_SHARE,
) -> People:
    """Bodies turned to any side, the camera up to some 20° above or below; a share of them in any orientation."""
    count = len(body_pose)

    def normal(spread_deg: float) -> Tensor:
        return np.deg2rad(spread_deg) * torch.randn(count, generator=generator)

    wild = torch.rand(count, generator=generator) < wild_share
    zero = torch.zeros(count)
    yaw = 2 * np.pi * torch.rand(count, generator=generator)
    pitch = np.pi + torch.where(wild, normal(60.0), normal(10.0))
    roll = torch.where(wild, normal(60.0), normal(6.0))
    turns = (torch.stack(angles, -1) for angles in ((zero, zero, roll), (pitch, zero, zero), (zero, yaw, zero)))
    about_z, about_x, about_y = (axis_angle_to_matrix(t.double()) for t in turns)
    root = matrix_to_axis_angle(about_z @ about_x @ about_y).float()
    pose = torch.cat([root, body_pose], 1)
    turned = body.global_rotations(axis_angle_to_matrix(pose.reshape(-1, 24, 3)))
    points = body.from_global_rotations(turned, betas)
    keypoints = body.keypoints(points)
    low, high = keypoints.amin(1), keypoints.amax(1)
    centre = (low + high) / 2
    span = 0.55 + 0.4 * torch.rand(count, generator=generator)  # of the crop that the person fills
    depth = FOCAL_PX * (high - low)[:, :2].amax(1) / (span * CROP_PX)
    camera = torch.stack([-centre[:, 0], -centre[:, 1], depth], 1)
    return People(pose, betas, turned, camera, points, project(keypoints, camera))


def orbit(people: People, count: int, focal_px: float = 1500.0) -> Views:
    """Cameras all round each person, the first where the person was seen from, all as far away as fills the crop alike.

    The fit's frame is the first camera's of `people`, whose `camera_m` puts the body there.
    """
    batch = len(people.pose_aa)
    turn = torch.zeros(count, 3)
    turn[:, 1] = 2 * np.pi * torch.arange(count) / count
    rotation = axis_angle_to_matrix(turn).expand(batch, count, 3, 3)
    centre = people.points_m.mean(1) + people.camera_m
    translation = -(rotation @ centre[:, None, :, None])[..., 0]
    translation[..., 2] += people.camera_m[:, None, 2] * focal_px / FOCAL_PX
    return Views(
        rotation,
        translation,
        torch.full((batch, count), focal_px),
        torch.full((batch, count, 2), CROP_PX / 2),
    )


def draw_people(
    body: CompactBody,
    source: PoseSource,
    count: int,
    generator: torch.Generator,
    *,
    wild_share: float = WILD_SHARE,
) -> People:
    betas = torch.randn(count, 10, generator=generator).clamp(-3.0, 3.0)
    return look_at(body, source.draw(count, generator), betas, generator, wild_share=wild_share)


class PeoplePool:
    """Batches of people, drawn many at a time and each used a few times: posing costs more than a network's step.

    What detectors make of them is drawn anew every time.
    """

    def __init__(self, body: CompactBody, source: PoseSource, generator: torch.Generator) -> None:
        self.body, self.source, self.generator = body, source, generator

    def batches(self, size: int) -> Iterator[People]:
        while True:
            people = draw_people(self.body, self.source, _POOL, self.generator)
            for _ in range(_TIMES_USED):
                order = torch.randperm(_POOL, generator=self.generator)
                for rows in order[: _POOL - _POOL % size].split(size):
                    yield People(*(getattr(people, f.name)[rows] for f in fields(People)))


def detect(pixels: Float[Tensor, "B 49 2"], generator: torch.Generator) -> Float[Tensor, "B 49 3"]:
    """Keypoints as data sets have them: one of their sets, noise up to 6 px, some missing, a few wrong, sides confused."""
    count = len(pixels)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    shares = torch.tensor([share for share, _ in KEYPOINT_SETS.values()])
    masks = torch.zeros(len(KEYPOINT_SETS), JOINTS.count, dtype=torch.bool)
    for i, (_, joints) in enumerate(KEYPOINT_SETS.values()):
        masks[i, list(joints)] = True
    visible = masks[torch.multinomial(shares, count, replacement=True, generator=generator)]
    visible = _drop(visible, rand)

    sigma = 6.0 * rand(count, 1, 1) ** 1.5
    sigma = torch.where(rand(count, JOINTS.count, 1) < 0.01, 5 * sigma + 5, sigma)
    noisy = _confuse_sides(pixels, rand) + sigma * torch.randn(count, JOINTS.count, 2, generator=generator)
    # Annotators' hips are not the model's: off by a few pixels, the same way for both.
    hips = [j for j, name in enumerate(JOINTS.names) if name.endswith("hip")]
    bias = 3.0 * torch.randn(count, 1, 2, generator=generator) * (rand(count, 1, 1) < 0.4)
    noisy[:, hips] += bias
    confidence = torch.where(rand(count, 1) < 0.7, torch.ones(count, JOINTS.count), 0.3 + 0.7 * rand(count, JOINTS.count))
    return torch.cat([noisy * visible[..., None], (confidence * visible)[..., None]], -1)


def _named(parts: tuple[str, ...], side: str = "") -> list[int]:
    return [j for j, name in enumerate(JOINTS.names) if side in name and any(name.endswith(part) for part in parts)]


def _drop(visible: Tensor, rand: Callable[..., Tensor]) -> Tensor:
    """Some joints at random, and now and then a whole part: legs, an arm, the face."""
    count = len(visible)
    rate = 0.35 * rand(count, 1) * (rand(count, 1) < 0.5)
    kept = visible & (rand(count, JOINTS.count) >= rate)
    for share, joints in (
        (0.06, _named(_LEGS)),
        (0.03, _named(("ankle", "toe", "heel"))),
        (0.04, _named(_ARMS, "left")),
        (0.04, _named(_ARMS, "right")),
        (0.08, _named(_FACE)),
    ):
        gone = torch.zeros(JOINTS.count, dtype=torch.bool)
        gone[joints] = True
        kept = kept & ~(gone & (rand(count, 1) < share))
    return torch.where(kept.sum(1, keepdim=True) >= MIN_VISIBLE, kept, visible)


def _confuse_sides(pixels: Tensor, rand: Callable[..., Tensor]) -> Tensor:
    """Left and right exchanged, as detectors do: an arm or leg pair now and then."""
    out = pixels.clone()
    swapped = pixels[:, list(JOINTS.mirror)]
    for parts in (_ARMS, _LEGS):
        joints = _named(parts)
        confused = rand(len(pixels), 1, 1) < 0.02
        out[:, joints] = torch.where(confused, swapped[:, joints], out[:, joints])
    return out
