"""Augmentations, and the way between the augmented frame and the canonical one.

The canonical frame is the sample's unrotated, unflipped, unscaled crop; fits live there. An augmented crop is
turned and scaled while it is cut, then mirrored: a position p, seen from the crop's centre, moves to M R p /
scale. A body follows exactly through turns and mirrors. Scaling moves it in depth, which is exact for its
pelvis; points before and behind it keep a perspective that a real zoom would not give: a fraction of a pixel,
since the camera stands tens of metres away.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.camera import CROP_PX
from spin.joints import JOINTS
from spin.rotations import in_plane, mirror_pose, rotate_in_plane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

    from spin.training.config import AugmentationConfig

ROTATION_SHARE = 0.4  # of the samples are turned at all (published)
_SUPERSET_MIRROR = [i - JOINTS.superset.start for i in JOINTS.mirror[JOINTS.superset]]


@dataclass(frozen=True)
class Augmentations:
    """How each sample of a batch was changed."""

    flip: Bool[Tensor, " B"]
    rotation_deg: Float[Tensor, " B"]  # of the image: p -> R p in y-down pixels
    scale: Float[Tensor, " B"]  # of the box: above 1 the person looks smaller
    channel_gain: Float[Tensor, "B 3"]  # each channel of the image, in [0, 1], is multiplied by its gain

    @classmethod
    def none(cls, count: int) -> Augmentations:
        """Samples left as they are."""
        flip = torch.zeros(count, dtype=torch.bool)
        return cls(flip, torch.zeros(count), torch.ones(count), torch.ones(count, 3))


def sample_augmentations(seed: int, epoch: int, sample_ids: Sequence[str], config: AugmentationConfig) -> Augmentations:
    """Each sample's augmentation, a function of (seed, epoch, its id) alone: no batch or worker matters.

    Distributions as published: for two samples in five a turn from N(0, rotation²) cut at two standard
    deviations; scale from N(1, scale²) cut at one; gains uniform.
    """
    flips, turns, scales, gains = [], [], [], []
    for sample_id in sample_ids:
        digest = hashlib.blake2b(str(sample_id).encode(), digest_size=8).digest()
        rng = np.random.default_rng([seed, epoch, int.from_bytes(digest, "little")])
        flips.append(rng.random() < config.flip)
        gains.append(rng.uniform(1 - config.noise, 1 + config.noise, 3))
        turn = config.rotation_deg * np.clip(rng.standard_normal(), -2, 2)
        scales.append(1 + config.scale * np.clip(rng.standard_normal(), -1, 1))
        turns.append(turn if rng.random() < ROTATION_SHARE else 0.0)
    return Augmentations(
        flip=torch.tensor(flips, dtype=torch.bool),
        rotation_deg=torch.tensor(turns, dtype=torch.float32),
        scale=torch.tensor(scales, dtype=torch.float32),
        channel_gain=torch.tensor(np.array(gains).reshape(-1, 3), dtype=torch.float32),
    )


def reach(config: AugmentationConfig) -> float:
    """Side of the upright square, in sides of the unaugmented box, that holds every box `sample_augmentations` can draw."""
    turn = np.deg2rad(min(2 * config.rotation_deg, 45.0))  # a square is widest when it stands on its corner
    return float((1 + config.scale) * (np.cos(turn) + np.sin(turn)))


def augment_keypoints(keypoints_crop_px: Float[Tensor, "B 49 3"], augmentations: Augmentations) -> Float[Tensor, "B 49 3"]:
    """Keypoints (x, y, confidence) of the canonical crop, in the augmented one; mirrors swap sides."""
    centre = CROP_PX / 2
    turn = in_plane(augmentations.rotation_deg)[:, :2, :2] / augmentations.scale[:, None, None]
    xy = (keypoints_crop_px[..., :2] - centre) @ turn.transpose(1, 2) + centre
    turned = torch.cat([xy, keypoints_crop_px[..., 2:]], -1)
    mirrored = turned[:, list(JOINTS.mirror)]
    mirrored = torch.cat([CROP_PX - mirrored[..., :1], mirrored[..., 1:]], -1)
    return torch.where(augmentations.flip[:, None, None], mirrored, turned)


def augment_joints(joints_m: Float[Tensor, "B 24 4"], augmentations: Augmentations) -> Float[Tensor, "B 24 4"]:
    """3D joints (x, y, z in metres, camera axes; confidence) of the superset, in the augmented frame."""
    xyz = joints_m[..., :3] @ in_plane(augmentations.rotation_deg).transpose(1, 2)
    turned = torch.cat([xyz, joints_m[..., 3:]], -1)
    mirrored = turned[:, _SUPERSET_MIRROR]
    mirrored = torch.cat([-mirrored[..., :1], mirrored[..., 1:]], -1)
    return torch.where(augmentations.flip[:, None, None], mirrored, turned)


def augment_pose(pose_aa: Float[Tensor, "B 72"], augmentations: Augmentations) -> Float[Tensor, "B 72"]:
    """A canonical pose (axis-angle, rad) in the augmented frame. Betas are the same in both."""
    turned = rotate_in_plane(pose_aa, augmentations.rotation_deg)
    return torch.where(augmentations.flip[:, None], mirror_pose(turned), turned)


def to_augmented(
    pose_aa: Float[Tensor, "B 72"],
    camera_m: Float[Tensor, "B 3"],
    pelvis_m: Float[Tensor, "B 3"],
    augmentations: Augmentations,
) -> tuple[Float[Tensor, "B 72"], Float[Tensor, "B 3"]]:
    """A canonical body in the augmented frame: its pose, and its translation (m).

    `pelvis_m` is the root joint before translation (`points_m[:, 0]`): poses turn about it, not the origin.
    """
    at = pelvis_m + camera_m
    at = (in_plane(augmentations.rotation_deg) @ at[..., None])[..., 0]
    at = at * _mirror_sign(augmentations, at)
    at = torch.cat([at[:, :2], at[:, 2:] * augmentations.scale[:, None]], 1)
    return augment_pose(pose_aa, augmentations), at - pelvis_m


def to_canonical(
    pose_aa: Float[Tensor, "B 72"],
    camera_m: Float[Tensor, "B 3"],
    pelvis_m: Float[Tensor, "B 3"],
    augmentations: Augmentations,
) -> tuple[Float[Tensor, "B 72"], Float[Tensor, "B 3"]]:
    """The inverse of `to_augmented`: a body seen in the augmented crop, in the canonical frame."""
    unmirrored = torch.where(augmentations.flip[:, None], mirror_pose(pose_aa), pose_aa)
    at = pelvis_m + camera_m
    at = torch.cat([at[:, :2], at[:, 2:] / augmentations.scale[:, None]], 1)
    at = at * _mirror_sign(augmentations, at)
    at = (in_plane(-augmentations.rotation_deg) @ at[..., None])[..., 0]
    return rotate_in_plane(unmirrored, -augmentations.rotation_deg), at - pelvis_m


def _mirror_sign(augmentations: Augmentations, like: Tensor) -> Float[Tensor, "B 3"]:
    """(-1, 1, 1) for mirrored samples, ones for the others."""
    x = torch.where(augmentations.flip, -1.0, 1.0).to(like.dtype)
    one = torch.ones_like(x)
    return torch.stack([x, one, one], 1)
