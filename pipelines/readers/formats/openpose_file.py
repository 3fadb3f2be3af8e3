"""OpenPose's JSON files: the people of one file as BODY_25's joints. The demo and every reader use this one.

OpenPose writes pixels and confidences of 0 to 1. It has options for other numbers, and other models have as many joints;
such a file would be read without an error and mean something else, so that it is recognised here and rejected with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.formats.json_file import load_json
from spin.joints import OPENPOSE_NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float

    Joints = Float[np.ndarray, "25 3"]

# The order of OpenPose's older body model (POSE_COCO_BODY_PARTS): COCO's 17 and the neck.
COCO_18 = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye",
    "right ear", "left ear",
)  # fmt: skip
# The order of its experimental model of as many joints as BODY_25.
BODY_25B = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle", "upper neck", "top of head", "left big toe", "left small toe", "left heel", "right big toe",
    "right small toe", "right heel",
)  # fmt: skip
KEYS = ("pose_keypoints_2d", "pose_keypoints")  # the second: of files of before 2018
NO_BODY = "has no body: OpenPose found a face or hands alone"
MOST_CONFIDENT = 2.0  # OpenPose's own confidences end a little above 1, flags of visibility at 2
SMALLEST_PX = 4.0  # a smaller person can't be seen; coordinates scaled to 0..1 or -1..1 span less
_ORDERS = {3 * len(order): [OPENPOSE_NAMES.index(name) for name in order] for order in (OPENPOSE_NAMES, COCO_18)}
_OTHER_MODELS = {45: "its MPI model's", 57: "BODY_19's", 69: "BODY_23's", 405: "BODY_135's"}
_LARGEST = float(np.finfo(np.float32).max)
_SCALED = 2.0  # a file without a coordinate beyond this holds no pixels
_REMEDY = "run OpenPose with --model_pose BODY_25, its default"


def read_openpose(path: Path) -> list[Joints | str]:
    """Return each person of a file in its order: joints, not seen where the confidence is 0; or why it can't be used.

    Raise StageError, naming the file, if none of it can be used. A missing file is a FileNotFoundError (or NotADirectoryError).
    """
    try:
        people = load_json(path)["people"]
        if not isinstance(people, list):
            raise TypeError("'people' is not a list")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise StageError(f"{path}: not an OpenPose file ({type(error).__name__}: {error})") from error
    out = [_joints(person) for person in people]
    bodies = [joints for joints in out if not isinstance(joints, str)]
    problem = _problem(bodies)
    if problem:
        raise StageError(f"{path}: {problem}")
    for joints in bodies:
        joints[:, 2] = joints[:, 2].clip(0, 1)
    return out


def confidence_problem(confidences: np.ndarray) -> str:
    """Return why confidences are none of 0 to 1, nor flags of visibility; '' if they may be."""
    highest = float(confidences.max(initial=0.0))
    if highest <= MOST_CONFIDENT:
        return ""
    return f"confidences up to {highest:.4g}, expected 0 to 1; divide confidences of 0 to 100 by 100"


def _joints(person: Any) -> Joints | str:
    """Return a person's joints as the file has them, or why there are none."""
    if not isinstance(person, dict):
        return "is not a person"
    key = next((key for key in KEYS if key in person), KEYS[0])
    flat = person.get(key)
    if flat == []:
        return NO_BODY
    if not isinstance(flat, list) or len(flat) not in _ORDERS:
        found = f"{len(flat)} numbers" if isinstance(flat, list) else "no list"
        whose = f", {_OTHER_MODELS[len(flat)]}" if isinstance(flat, list) and len(flat) in _OTHER_MODELS else ""
        return f"'{key}' has {found}{whose}; expected 75 (BODY_25) or 54 (COCO): {_REMEDY}"
    try:
        given = np.array(flat, np.float64)
    except (ValueError, TypeError, OverflowError):
        given = np.zeros((0, 0))
    if given.ndim != 1:
        return f"'{key}' holds something that is not a number"
    given = given.reshape(-1, 3)
    # A joint that is not a number, of float32, was not seen.
    given[~(np.abs(given) <= _LARGEST).all(1) | ~(given[:, 2] > 0)] = 0
    out = np.zeros((len(OPENPOSE_NAMES), 3))
    out[_ORDERS[len(flat)]] = given
    return out


def _problem(people: Sequence[Joints]) -> str:
    """Return what is wrong with all people of a file, and how to write it; '' if nothing is."""
    if not people:
        return ""
    joints = np.stack(people)
    seen = joints[joints[..., 2] > 0]
    if not len(seen):
        return ""
    if np.abs(seen[:, :2]).max() <= _SCALED:
        return (
            f"coordinates from {seen[:, :2].min():.2g} to {seen[:, :2].max():.2g}, expected pixels of the image; "
            "run OpenPose with --keypoint_scale 0, its default"
        )
    problem = confidence_problem(seen[:, 2])
    if not problem and is_body_25b(joints):
        problem = f"joints in BODY_25B's order, expected BODY_25's; {_REMEDY}"
    return problem


# ---- BODY_25B -----------------------------------------------------------------------------------------------------------

# Joints, the joint that each is next to, and how far the two are apart in most people, cm.
_NEXT_25 = (
    ("neck", "nose", 22), ("shoulder", "neck", 17), ("elbow", "shoulder", 27), ("wrist", "elbow", 25), ("mid hip", "neck", 50),
    ("hip", "mid hip", 10), ("knee", "hip", 40), ("ankle", "knee", 40), ("eye", "nose", 4), ("ear", "eye", 9),
    ("heel", "ankle", 8), ("big toe", "ankle", 18),
)  # fmt: skip
_NEXT_25B = (
    ("eye", "nose", 4), ("ear", "eye", 9), ("shoulder", "upper neck", 17), ("elbow", "shoulder", 27), ("wrist", "elbow", 25),
    ("hip", "shoulder", 48), ("knee", "hip", 40), ("ankle", "knee", 40), ("upper neck", "nose", 22),
    ("top of head", "nose", 20), ("heel", "ankle", 8), ("big toe", "ankle", 18),
)  # fmt: skip
_ENOUGH = 6  # distances
# Of drawn people with most joints seen, 94 to 99 of 100 are beyond this ratio in BODY_25B's order, 1 of 1,000 in BODY_25's.
_WORSE = 1.4


def is_body_25b(joints: Float[np.ndarray, "P 25 3"]) -> bool:
    """Whether people look like BODY_25B's: in that order, distances between neighbouring joints are those of a body.

    Both models have 25 joints, and a file does not name its model. The second joint, for example, is the neck or an eye.
    """
    misfits = np.array([_misfits(joints, OPENPOSE_NAMES, _NEXT_25), _misfits(joints, BODY_25B, _NEXT_25B)])
    known = np.isfinite(misfits).all(0)
    usual, other = misfits[:, known].sum(1)
    return bool(usual > _WORSE * other) and bool(known.any())


def _misfits(
    joints: Float[np.ndarray, "P 25 3"], order: Sequence[str], neighbours: Sequence[tuple[str, str, int]]
) -> Float[np.ndarray, " P"]:
    """Return by what share distances differ from those of a body of each person's size; NaN where too few are seen."""
    pairs, lengths = [], []
    for name, other, cm in neighbours:
        sides = ("",) if name in order else ("left ", "right ")
        for side in sides:
            pairs.append((order.index(side + name), order.index(other if other in order else side + other)))
            lengths.append(float(cm))
    a, b = np.array(pairs).T
    apart = np.linalg.norm(joints[:, a, :2] - joints[:, b, :2], axis=-1)
    both = (joints[:, a, 2] > 0) & (joints[:, b, 2] > 0)
    usual = np.where(both, lengths, 0.0).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        px_per_cm = np.where(both, apart, 0.0).sum(1) / usual
        differ = np.abs(apart / px_per_cm[:, None] - lengths)
        share = np.where(both, differ, 0.0).sum(1) / usual
    return np.where(both.sum(1) >= _ENOUGH, share, np.nan)
