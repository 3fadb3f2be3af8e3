"""Annotations as a fitter wants them: keypoints in the crop, the crop's camera, 3D joints, rows that show one pose together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.crop import crop_camera, keypoints_to_crop
from spin.fitting.observations import Observations, Views

if TYPE_CHECKING:
    from jaxtyping import Int

    from store.annotations.table import Annotations


def groups_of(annotations: Annotations, *, ignore_3d: bool = False) -> list[Int[np.ndarray, " v"]]:
    """Rows that are fitted together: the views of one pose, or a row alone; in the order of their first rows.

    `ignore_3d`: each row alone, as several views show depth.
    """
    if ignore_3d:
        return [np.array([row]) for row in range(len(annotations))]
    together: dict[str, list[int]] = {}
    for row, pose_id in enumerate(annotations.pose_id):
        together.setdefault(pose_id or f"\0{row}", []).append(row)
    return [np.array(rows) for rows in together.values()]


def crops_of(annotations: Annotations) -> Views:
    """The camera of each row's crop, as one view: the image's own where it is known, else SPIN's."""
    a = annotations
    focal, principal = crop_camera(a.center_px, a.scale, a.focal_px, a.principal_px, a.has_camera)
    count = len(a)
    return Views(
        torch.eye(3).expand(count, 1, 3, 3),
        torch.zeros(count, 1, 3),
        torch.from_numpy(focal)[:, None],
        torch.from_numpy(principal)[:, None],
    )


def observations_of(annotations: Annotations, rows: Int[np.ndarray, "n v"], *, ignore_3d: bool = False) -> Observations:
    """Observations of groups of v rows each. A group of one is fitted in its camera's frame, several in the world's."""
    a = annotations
    count, views = rows.shape
    flat = rows.ravel()
    crops = crops_of(a)
    keypoints = keypoints_to_crop(a.keypoints_px[flat], a.center_px[flat], a.scale[flat])
    focal, principal = crops.focal_px[flat], crops.principal_px[flat]
    rotation, translation = np.eye(3, dtype=np.float32)[None], np.zeros((1, 3), np.float32)
    if views > 1:
        rotation, translation = a.view_rotation[flat], a.view_translation_m[flat]
    placed = Views(
        torch.from_numpy(np.broadcast_to(rotation, (count * views, 3, 3)).reshape(count, views, 3, 3).copy()),
        torch.from_numpy(np.broadcast_to(translation, (count * views, 3)).reshape(count, views, 3).copy()),
        focal.reshape(count, views),
        principal.reshape(count, views, 2),
    )
    joints = None if ignore_3d else _joints3d(a, rows, placed)
    return Observations(torch.from_numpy(keypoints).reshape(count, views, 49, 3), placed, joints)


def _joints3d(a: Annotations, rows: Int[np.ndarray, "n v"], views: Views) -> torch.Tensor | None:
    """The 3D joints of the first row of each group that knows them, in the axes of the fit."""
    known = a.has_joints3d[rows]
    if not known.any():
        return None
    first = known.argmax(1)
    order = np.arange(len(rows))
    joints = torch.from_numpy(a.joints3d_m[rows[order, first]] * known.any(1)[:, None, None])
    turned = joints[..., :3] @ views.rotation[order, first]  # camera axes back to the fit's: Rᵀ x
    return torch.cat([turned, joints[..., 3:]], -1)
