"""Where a fit begins. One 2D view leaves several 3D explanations; the solver goes down to the nearest, so starts decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.camera import CROP_PX, FOCAL_PX
from spin.fitting.objective import body_weights
from spin.joints import JOINTS
from spin.rotations import upright

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.prior import PosePrior

YAWS_DEG = (0.0, 90.0, 180.0, 270.0)
MIN_JOINTS = 4  # fewer than this many confident joints don't fix a camera and a pose
_CONFIDENT = 0.05


@dataclass(frozen=True)
class Start:
    """Body and camera that a solver starts from."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    camera_m: Float[Tensor, "B 3"]


def confident_joints(keypoints_crop_px: Float[Tensor, "B 49 3"]) -> Float[Tensor, " B"]:
    """How many different places the body term sees with confidence: joints that both halves name count once."""
    seen = body_weights(keypoints_crop_px) > _CONFIDENT
    twice = torch.zeros_like(seen)
    for openpose, superset in JOINTS.named_twice:
        twice[:, superset] = seen[:, openpose] & seen[:, superset]
    return (seen & ~twice).sum(1)


def camera_start(
    points_m: Float[Tensor, "B 49 3"], keypoints_crop_px: Float[Tensor, "B 49 3"]
) -> Float[Tensor, "B 3"]:
    """Translation (m) that puts the body's confident joints where the keypoints are: equal spread, equal centre.

    Unlike a linear solution for the translation, the ratio of spreads stays sensible when the body's pose is still wrong.
    """
    weight = keypoints_crop_px[..., 2:].clamp_min(0)
    total = weight.sum(1).clamp_min(1e-6)

    def centre_and_spread(xy: Tensor) -> tuple[Tensor, Tensor]:
        centre = (xy * weight).sum(1) / total
        return centre, (((xy - centre[:, None]) ** 2 * weight).sum((1, 2)) / total[:, 0]).sqrt()

    body_centre, body_spread = centre_and_spread(points_m[..., :2])
    image_centre, image_spread = centre_and_spread(keypoints_crop_px[..., :2])
    # Points that coincide have no spread: a person as large as the crop is then as good a guess as any.
    px_per_m = torch.where(
        image_spread > 1.0, image_spread / body_spread.clamp_min(1e-3), image_spread.new_tensor(CROP_PX / 2)
    )
    xy = (image_centre - CROP_PX / 2) / px_per_m[:, None] - body_centre
    return torch.cat([xy, (FOCAL_PX / px_per_m)[:, None]], 1)


def mean_pose_starts(
    body: CompactBody,
    prior: PosePrior,
    keypoints_crop_px: Float[Tensor, "B 49 3"],
    yaws_deg: tuple[float, ...] = YAWS_DEG,
) -> list[Start]:
    """The prior's mean pose, upright, once for each yaw."""
    count, dtype, device = len(keypoints_crop_px), keypoints_crop_px.dtype, keypoints_crop_px.device
    body_pose = torch.as_tensor(prior.mean_pose(), dtype=dtype, device=device)
    betas = torch.zeros(count, 10, dtype=dtype, device=device)
    starts = []
    for yaw in yaws_deg:
        root = torch.as_tensor(np.asarray(upright(yaw)), dtype=dtype, device=device)
        pose = torch.cat([root, body_pose]).expand(count, 72).contiguous()
        points = body.keypoints(body(pose[:1], betas[:1])).expand(count, -1, -1)
        starts.append(Start(pose, betas, camera_start(points, keypoints_crop_px)))
    return starts


def start_from(
    body: CompactBody, pose_aa: Float[Tensor, "B 72"], betas: Float[Tensor, "B 10"], keypoints_crop_px: Tensor
) -> Start:
    """A start at a given body, its camera from the keypoints."""
    return Start(pose_aa, betas, camera_start(body.keypoints(body(pose_aa, betas)), keypoints_crop_px))
