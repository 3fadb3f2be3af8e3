"""The crop's camera: a pinhole of 5000 px focal length over a 224 px crop, its centre in the middle (SPIN's constants).

Camera frame: x right, y down, z away, metres. A body's `camera` is the translation that takes the body's own frame there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

FOCAL_PX = 5000.0
CROP_PX = 224
REACH_PX = 224.0
"""Keypoints further outside their crop than this have no weight, in fits and in training: half a body may be out of the
picture, but not a crop away."""


def project(
    points_m: Float[Tensor, "B J 3"],
    camera_m: Float[Tensor, "B 3"],
    *,
    focal_px: float = FOCAL_PX,
    center_px: float = CROP_PX / 2,
) -> Float[Tensor, "B J 2"]:
    """Pixels of points that `camera_m` moves into the camera frame."""
    p = points_m + camera_m[:, None]
    return focal_px * p[..., :2] / p[..., 2:] + center_px


def weak_to_translation(weak: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3"]:
    """Translation (m) of the weak-perspective camera [s, tx, ty] that the network predicts (SPIN, section 3.1).

    A person of s crop half-widths per metre stands at z = 2 f / (224 s).
    """
    s, tx, ty = weak.unbind(-1)
    return torch.stack([tx, ty, 2 * FOCAL_PX / (CROP_PX * s + 1e-9)], -1)
