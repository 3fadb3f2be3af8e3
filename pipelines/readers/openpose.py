"""OpenPose's JSON files, and which detection belongs to which annotated person."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.failures import StageError
from spin.joints import JOINTS

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float

# Joints that both OpenPose and the annotations name, as (OpenPose index, superset index).
_SHARED = np.array(JOINTS.named_twice) - [JOINTS.openpose.start, JOINTS.superset.start]
MIN_SHARED = 3
# A detection whose joints are, in the median, further than this share of the person's box side is someone else. The
# median lets a detection with one swapped or missing limb still match.
MAX_DISTANCE = 0.1


@dataclass(frozen=True)
class Match:
    """The detection of one person (zeros if there is none) and the reason there is none."""

    keypoints_px: Float[np.ndarray, "25 3"]
    reason: str


def read_detections(path: Path) -> Float[np.ndarray, "D 25 3"]:
    """All people of one BODY_25 file. StageError, naming the file, if it is not one."""
    try:
        people = json.loads(path.read_text())["people"]
        out = np.array([p["pose_keypoints_2d"] for p in people], np.float32).reshape(len(people), 25, 3)
    except (
        OSError,
        UnicodeDecodeError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise StageError(f"{path}: not an OpenPose BODY_25 file ({type(error).__name__}: {error})") from error
    # A joint that is not a number was not seen.
    out[~np.isfinite(out).all(-1)] = 0
    out[..., 2] = out[..., 2].clip(0, 1)
    return out


def match_people(
    keypoints_px: Float[np.ndarray, "P 24 3"],
    box_side_px: Float[np.ndarray, " P"],
    detections_px: Float[np.ndarray, "D 25 3"],
) -> list[Match]:
    """One detection a person, nearest pairs first, each detection used once."""
    nobody = np.zeros((25, 3), np.float32)
    if not len(detections_px):
        return [Match(nobody, "no detection in the image") for _ in keypoints_px]
    distance = _distances(keypoints_px, box_side_px, detections_px)
    taken: dict[int, int] = {}
    for flat in np.argsort(distance, axis=None, kind="stable"):
        person, detection = divmod(int(flat), len(detections_px))
        if distance[person, detection] > MAX_DISTANCE:
            break
        if person not in taken and detection not in taken.values():
            taken[person] = detection
    return [
        Match(detections_px[taken[p]].copy(), "") if p in taken else Match(nobody, _refusal(distance[p]))
        for p in range(len(keypoints_px))
    ]


def _distances(keypoints: np.ndarray, side: np.ndarray, detections: np.ndarray) -> np.ndarray:
    """Median distance over shared visible joints, in box sides (P, D); infinite with fewer than MIN_SHARED."""
    ours, theirs = keypoints[:, None, _SHARED[:, 1]], detections[None, :, _SHARED[:, 0]]
    both = (ours[..., 2] > 0) & (theirs[..., 2] > 0)
    gap = np.where(both, np.linalg.norm(ours[..., :2] - theirs[..., :2], axis=-1), np.nan)
    enough = both.sum(-1) >= MIN_SHARED
    gap = np.where(enough[..., None], gap, np.inf)
    return np.nanmedian(gap, axis=-1) / side[:, None]


def _refusal(distances: np.ndarray) -> str:
    nearest = float(distances.min())
    if not np.isfinite(nearest):
        return f"no detection shares {MIN_SHARED} visible joints"
    if nearest <= MAX_DISTANCE:
        return "the nearest detection belongs to a nearer person"
    return f"nearest detection is {nearest:.2f} box sides away, allowed {MAX_DISTANCE}"
