"""Which keypoints of a person can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spin.joints import JOINTS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from spin.rendering import Pinhole, Scene

# A joint is inside the body: it counts as seen if what hides it is no farther before it than this (m).
_REACH_M = {
    "nose": 0.04, "eye": 0.04, "ear": 0.04, "jaw": 0.1, "head": 0.13, "top of head": 0.1, "neck": 0.13,
    "thorax": 0.16, "shoulder": 0.13, "elbow": 0.08, "wrist": 0.07, "hip": 0.17, "knee": 0.11, "ankle": 0.09,
    "toe": 0.06, "heel": 0.07, "spine": 0.2, "pelvis": 0.2,
}  # fmt: skip


def _reach_m(name: str) -> float:
    """Return how far inside the body a keypoint is, by the last words of its name."""
    return next(_REACH_M[key] for key in sorted(_REACH_M, key=len, reverse=True) if name.endswith(key))


_REACH_OF_KEYPOINT = np.array([_reach_m(name) for name in JOINTS.names])


def keypoint_visibility(
    scene: Scene,
    camera: Pinhole,
    person: int,
    keypoints_cam_m: Float[np.ndarray, "49 3"],
    occluder: Bool[np.ndarray, "H W"],
) -> Int[np.ndarray, " 49"]:
    """COCO's flag of each keypoint: 0 outside the image, 1 hidden by anybody or the occluder, 2 seen."""
    pixels = camera.project(keypoints_cam_m)
    size = np.array([camera.width, camera.height])
    inside: np.ndarray = np.all((pixels >= 0) & (pixels < size), axis=-1)
    hits = scene.trace(np.zeros(3), camera.directions(pixels))
    before = keypoints_cam_m[:, 2] - hits.depth_m
    reach = np.where(hits.mesh == person, _REACH_OF_KEYPOINT, 0)
    column, row = np.where(inside[:, None], pixels, 0).astype(int).T
    hidden = (before > reach) | occluder[row, column]
    return np.where(inside, np.where(hidden, 1, 2), 0)
