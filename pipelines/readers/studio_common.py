"""What the data sets recorded in a studio share: 17 joints, their truth, boxes and detections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import NO_OPENPOSE, Truth
from pipelines.readers.openpose import match_people, read_detections
from spin.joints import JOINTS

if TYPE_CHECKING:
    from jaxtyping import Float

_SUPERSET_OF_17 = np.array(JOINTS.h36m) - JOINTS.superset.start
_FARTHEST_PX = 1e6  # no image is larger
_FARTHEST_M = 1e3  # nor a studio


def annotated_17(keypoints_px: Float[np.ndarray, "17 2"] | None) -> Float[np.ndarray, "24 3"]:
    """Return Human3.6M's 17 joints in an image as superset keypoints, each seen; nothing is seen of a person without."""
    out = np.zeros((24, 3), np.float32)
    if keypoints_px is not None:
        out[_SUPERSET_OF_17, :2], out[_SUPERSET_OF_17, 2] = keypoints_px, 1
    return out


def truth_17(joints17_m: Float[np.ndarray, "17 3"], **body: Any) -> Truth:
    """Return joints in the camera's axes as truth, relative to the first of them, the pelvis.

    `body`: further fields of Truth.
    """
    relative = joints17_m - joints17_m[0]
    joints = np.zeros((24, 4), np.float32)
    joints[_SUPERSET_OF_17, :3], joints[_SUPERSET_OF_17, 3] = relative, 1
    return Truth(joints3d_m=joints, joints17_m=relative.astype(np.float32), **body)


def joints_problem(joints17_m: np.ndarray, keypoints_px: np.ndarray | None = None) -> str:
    """Return why joints of a frame can't be used, or ''."""
    if not (np.abs(joints17_m) < _FARTHEST_M).all():
        return "a 3D joint is not a number of millimetres"
    if keypoints_px is not None and not (np.abs(keypoints_px) < _FARTHEST_PX).all():
        return "a keypoint is not a number of pixels"
    return ""


def around(points_px: Float[np.ndarray, "K 2"], margin: float) -> tuple[Float[np.ndarray, "2"], float]:
    """Return centre (px) and scale (side / 200 px) of the square around points, enlarged by `margin`."""
    low, high = points_px.min(0), points_px.max(0)
    return ((low + high) / 2).astype(np.float32), float(margin * (high - low).max() / 200)


def detection_of(
    folder: Path, image: str, annotated: Float[np.ndarray, "24 3"], side_px: float
) -> tuple[Float[np.ndarray, "25 3"], str]:
    """Return OpenPose's detection of the one person of an image, FOLDER/IMAGE_keypoints.json; and why there is none."""
    file = folder / f"{image.removesuffix('.jpg')}_keypoints.json"
    if not file.is_file():
        return NO_OPENPOSE, "no OpenPose file"
    try:
        match = match_people(annotated[None], np.array([side_px]), read_detections(file))[0]
    except StageError as error:  # the annotation itself is good
        return NO_OPENPOSE, str(error)
    return match.keypoints_px, match.reason
