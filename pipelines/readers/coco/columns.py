"""COCO's person annotations as arrays, many at a time: which can be used, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.readers.boxes import CORNERS, SMALLEST_SHARE, are_corners, extents
from pipelines.readers.formats.openpose_file import SMALLEST_PX
from spin.crop import BOX_MARGIN
from spin.joints import JOINTS

if TYPE_CHECKING:
    from jaxtyping import Float

_FIRST_BODY_JOINT = 5  # COCO's first five keypoints are of the face
_FARTHEST_PX = 1e6  # no image is larger


@dataclass(frozen=True)
class Table:
    """A row an annotation. `problems` is why one can't be used, '' if it can; then the rest of its row is good.

    Visibility becomes confidence 0 or 1; OpenPose's half of the keypoints is zero.
    """

    keypoints_px: Float[np.ndarray, "N 49 3"]
    center_px: Float[np.ndarray, "N 2"]
    scale: Float[np.ndarray, " N"]
    problems: list[str]


def table_of(annotations: list[dict[str, Any]], min_body_joints: int) -> Table:
    given, boxes, problems = numbers_of(annotations)
    seen = given[..., 2] > 0
    pixels = (np.abs(given) < _FARTHEST_PX).all((1, 2))
    longest = boxes[:, 2:].max(1)
    boxed = (np.abs(boxes) < _FARTHEST_PX).all(1) & (longest >= SMALLEST_PX) & (boxes[:, 2:].min(1) > 0)
    body = seen[:, _FIRST_BODY_JOINT:].sum(1)
    with np.errstate(invalid="ignore"):  # of keypoints that are rejected
        low, high = extents(given[..., :2], seen)
        lost = (high - low).max(1) < SMALLEST_SHARE * longest
        corners = are_corners(boxes, low, high)
    crowd = np.array([bool(a.get("iscrowd")) for a in annotations], bool)
    for row in np.flatnonzero(crowd | ~pixels | ~boxed | (body < min_body_joints) | lost | corners):
        if problems[row]:
            continue
        if crowd[row]:
            problems[row] = "is a crowd, not a person"
        elif not pixels[row]:
            problems[row] = "a keypoint is not a number of pixels"
        elif not boxed[row]:
            problems[row] = (
                f"box {annotations[row]['bbox']} has no area, is smaller than {SMALLEST_PX:g} px, or is not in pixels"
            )
        elif body[row] < min_body_joints:
            problems[row] = f"{body[row]} of 12 body joints annotated, {min_body_joints} asked for (--min-body-joints)"
        elif corners[row]:
            problems[row] = CORNERS
        else:
            problems[row] = "its box is over fifty times as large as its keypoints span"
    keypoints = np.zeros((len(annotations), JOINTS.count, 3), np.float32)
    given[..., 2] = 1
    usable = np.array([not p for p in problems], bool)
    keypoints[:, list(JOINTS.coco)] = np.where((seen & usable[:, None])[..., None], given, 0)
    boxes[~usable] = 0
    return Table(
        keypoints_px=keypoints,
        center_px=(boxes[:, :2] + boxes[:, 2:] / 2).astype(np.float32),
        scale=BOX_MARGIN * boxes[:, 2:].max(1) / 200,
        problems=problems,
    )


def numbers_of(annotations: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return keypoints (n, 17, 3) and boxes (n, 4), and which annotations have none."""
    count = len(annotations)
    try:
        keypoints = np.array([a["keypoints"] for a in annotations], np.float64).reshape(count, 17, 3)
        boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(count, 4)
        return keypoints, boxes, [""] * count
    except KeyError as missing:
        problem = f"has no {missing}"
    except (ValueError, TypeError, OverflowError):
        problem = "'keypoints' is not 17 × 3 numbers, or 'bbox' not 4"
    if count == 1:
        return np.zeros((1, 17, 3)), np.zeros((1, 4)), [problem]
    # One bad annotation among many spoils them all: halves find it.
    halves = [numbers_of(annotations[: count // 2]), numbers_of(annotations[count // 2 :])]
    (k1, b1, p1), (k2, b2, p2) = halves
    return np.concatenate([k1, k2]), np.concatenate([b1, b2]), p1 + p2
