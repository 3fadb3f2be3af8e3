"""Who is in a picture, in what pose, and where they stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.joints import SMPL_NAMES
from spin.rendering import Pinhole
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle

if TYPE_CHECKING:
    from jaxtyping import Float

    from spin.fitting.prior import PosePrior

TILT_DEG = 8.0
BETAS_LIMIT = 2.5
NEAR_M, FAR_M = 3.0, 8.0
# Hinges: (index in the 69 body angles, sign of bending the right way). Knees turn about x, elbows about y.
_HINGES = tuple(
    (3 * (SMPL_NAMES.index(joint) - 1) + axis, sign)
    for joint, axis, sign in (
        ("left knee", 0, 1),
        ("right knee", 0, 1),
        ("left elbow", 1, -1),
        ("right elbow", 1, 1),
    )
)


@dataclass(frozen=True)
class Placement:
    """A camera, and where each person's own frame is in its frame (metres)."""

    camera: Pinhole
    translations_m: Float[np.ndarray, "B 3"]


def wrong_bend_rad(body_pose: Float[np.ndarray, "N 69"]) -> Float[np.ndarray, " N"]:
    """How far the worst knee or elbow is bent backwards; 0 if none is."""
    return np.max([np.maximum(-sign * body_pose[:, i], 0) for i, sign in _HINGES], 0)


def random_bodies(rng: np.random.Generator, prior: PosePrior, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pose (count, 72) and betas (count, 10) of people about upright, at any yaw."""
    poses = []
    for _ in range(count):
        candidates = prior.sample(12, rng)
        # the first that is bent no worse than a straightened joint's noise, or else the least bad
        poses.append(candidates[np.argmin(np.maximum(wrong_bend_rad(candidates), 0.1))])
    yaw, tilt = rng.uniform(0, 2 * np.pi, count), np.pi + np.deg2rad(rng.normal(0, TILT_DEG, count))
    root = _about(0, tilt) @ _about(1, yaw)
    root_aa = matrix_to_axis_angle(root).numpy()
    betas = np.clip(rng.standard_normal((count, 10)), -BETAS_LIMIT, BETAS_LIMIT)
    return np.concatenate([root_aa, np.stack(poses)], 1).astype(np.float32), betas.astype(np.float32)


def _about(axis: int, angle: np.ndarray) -> torch.Tensor:
    vector = torch.zeros(len(angle), 3, dtype=torch.float64)
    vector[:, axis] = torch.from_numpy(angle)
    return axis_angle_to_matrix(vector)


def _size(rng: np.random.Generator, people: int) -> tuple[int, int]:
    """Width and height of an image; pairs get the wider ones."""
    sizes = [(256, 320), (288, 384), (320, 400), (320, 320), (400, 320), (384, 288)]
    return sizes[rng.integers(3 if people > 1 else 0, 6 if people > 1 else 5)]


def place(rng: np.random.Generator, vertices_m: Float[np.ndarray, "B V 3"]) -> Placement:
    """A level camera and people standing before it on one floor, the tallest spanning 50-90 % of the image.

    The focal length is 1.5 to 3 times the longer side, the distance 3 to 8 m; where a crouching person would
    have to come nearer, they span less. One picture in eight cuts its people off.
    """
    width, height = _size(rng, len(vertices_m))
    low, high = vertices_m.min(1), vertices_m.max(1)
    # the tallest sets the scale: a crouching person's neighbour is to fit in too
    extent, middle = (high - low).max(0), (high[0] + low[0]) / 2
    fraction = rng.uniform(0.5, 0.9 if len(vertices_m) == 1 else 0.8)
    metres_per_px = max(extent[1] / (fraction * height), extent[0] / (0.95 * width))
    long_side = max(width, height)
    focal = np.clip(rng.uniform(1.5, 3) * long_side, NEAR_M / metres_per_px, FAR_M / metres_per_px)
    focal = float(np.clip(focal, 1.5 * long_side, 3 * long_side))
    depth = float(np.clip(focal * metres_per_px, NEAR_M, FAR_M))
    camera = Pinhole(focal, (width / 2, height / 2), width, height)

    span = extent[:2] * focal / depth
    slack = np.maximum(np.array([width, height]) - span, 0) / 2
    shift = rng.uniform(-0.9, 0.9, 2) * slack * (1 if len(vertices_m) == 1 else 0.3)
    if rng.random() < 0.125:
        axis = rng.integers(2)
        shift[axis] = rng.choice([-1, 1]) * (slack[axis] + rng.uniform(0.1, 0.35) * span[axis])
    first = np.append(shift * depth / focal, depth) - middle
    translations = [first]
    floor = high[0, 1] + first[1]
    for k in range(1, len(vertices_m)):
        side = rng.choice([-1, 1])
        sideways = side * rng.uniform(0.35, 0.9)
        behind = rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
        # apart in the picture as in the room: half of the way for each
        translations[0] = translations[0] - [sideways / 2, 0, 0]
        x = translations[0][0] + middle[0] + sideways - (low[k, 0] + high[k, 0]) / 2
        z = np.clip(depth + behind, NEAR_M, FAR_M) - (low[k, 2] + high[k, 2]) / 2
        translations.append(np.array([x, floor - high[k, 1], z]))
    return Placement(camera, np.stack(translations))
