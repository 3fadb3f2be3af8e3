"""Which of OpenPose's detections belongs to which annotated person."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.formats.openpose_file import NO_BODY, read_openpose
from spin.joints import JOINTS, OPENPOSE_NAMES, mirrored

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from pipelines.readers.base import ReaderOptions

# Joints that both OpenPose and the annotations name, as (OpenPose index, superset index).
_SHARED = np.array(JOINTS.named_twice) - [JOINTS.openpose.start, JOINTS.superset.start]
_MIRROR = list(mirrored(OPENPOSE_NAMES))
MIN_SHARED = 3
# A detection whose joints are, in the median, further than this share of the person's box side is someone else. The
# median lets a detection with one swapped or missing limb still match.
MAX_DISTANCE = 0.1
NO_FILE = "no OpenPose file"


@dataclass(frozen=True)
class Match:
    """The detection of one person (zeros if there is none) and the reason there is none."""

    keypoints_px: Float[np.ndarray, "25 3"]
    reason: str


def detections_folder(root: Path, options: ReaderOptions, *names: str) -> Path | None:
    """Return where an image's detections are: in a folder of one of these names, or in the given folder itself.

    The published scripts keep one folder for all data sets, with a folder for each (`--openpose`). None if there is none.
    """
    base = options.openpose or root / "openpose"
    folders = [*(base / name for name in names), base]
    return next((folder for folder in folders if folder.is_dir()), None)


def match_image(
    folder: Path | None,
    image: str,
    keypoints_px: Float[np.ndarray, "P 24 3"],
    box_side_px: Float[np.ndarray, " P"],
) -> list[Match]:
    """Return the detections of an image's people. A file that is missing or broken costs the detections, not the people."""
    reason = NO_FILE
    if folder is not None:
        try:
            return match_people(keypoints_px, box_side_px, _read(folder / f"{Path(image).stem}_keypoints.json"))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except StageError as error:
            reason = str(error)
    return [Match(np.zeros((25, 3), np.float32), reason) for _ in keypoints_px]


def read_detections(path: Path) -> Float[np.ndarray, "D 25 3"]:
    """Return all bodies of one file. Raise StageError, naming the file, if it is not one of OpenPose's, or in a wrong form."""
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StageError(f"{path}: no such OpenPose file") from error


def _read(path: Path) -> Float[np.ndarray, "D 25 3"]:
    bodies = []
    for number, person in enumerate(read_openpose(path), 1):
        if not isinstance(person, str):
            bodies.append(person)
        elif person != NO_BODY:
            raise StageError(f"{path}: person {number} {person}")
    return np.array(bodies, np.float32).reshape(len(bodies), 25, 3)


def match_people(
    keypoints_px: Float[np.ndarray, "P 24 3"],
    box_side_px: Float[np.ndarray, " P"],
    detections_px: Float[np.ndarray, "D 25 3"],
) -> list[Match]:
    """One detection a person, each detection used once, such that they explain the annotated joints best.

    The published rule keeps far people and drops near ones (DESIGN.md), and needs all limbs detected. Here a detection may be
    a person's if half of the joints that both see are within MAX_DISTANCE box sides. Among those, the one is chosen that
    has most of the annotated joints, and nearest; of two people in each other's arms, so that both are explained best.
    """
    undetected = np.zeros((25, 3), np.float32)
    if not len(detections_px):
        return [Match(undetected, "no detection in the image") for _ in keypoints_px]
    pairs = _pairs(keypoints_px, box_side_px, detections_px)
    chosen = _assign(pairs)
    turned: np.ndarray = np.zeros(len(chosen), bool)
    if min(chosen) < 0:
        free = [d for d in range(len(detections_px)) if d not in chosen]
        mirrored_pairs = _pairs(keypoints_px, box_side_px, detections_px[free][:, _MIRROR])
        turned = np.any(mirrored_pairs.allowed, axis=1)
    return [
        Match(detections_px[detection].copy(), "")
        if detection >= 0
        else Match(undetected, _rejection(pairs.distance[person], bool(turned[person])))
        for person, detection in enumerate(chosen)
    ]


@dataclass(frozen=True)
class _Pairs:
    """Each person with each detection: the median distance of shared joints, in box sides (infinite with fewer than
    MIN_SHARED), and how badly the annotated joints are explained (0 to 1)."""

    distance: Float[np.ndarray, "P D"]
    cost: Float[np.ndarray, "P D"]

    @property
    def allowed(self) -> Bool[np.ndarray, "P D"]:
        return self.distance <= MAX_DISTANCE


def _pairs(keypoints: np.ndarray, side: np.ndarray, detections: np.ndarray) -> _Pairs:
    ours, theirs = keypoints[:, None, _SHARED[:, 1]], detections[None, :, _SHARED[:, 0]]
    annotated = ours[..., 2] > 0
    both = annotated & (theirs[..., 2] > 0)
    shift = ours[..., :2] - theirs[..., :2]
    gap = np.hypot(shift[..., 0], shift[..., 1]) / side[:, None, None]
    gap[~both] = np.inf
    count = both.sum(-1)
    ordered = np.sort(gap, axis=-1)
    person, detection = np.arange(len(keypoints))[:, None], np.arange(len(detections))
    last = np.maximum(count - 1, 0)
    median = (ordered[person, detection, last // 2] + ordered[person, detection, (last + 1) // 2]) / 2
    # A joint that is missing, or far off, costs as much as the worst that is near.
    unexplained = np.minimum(gap / MAX_DISTANCE, 1).sum(-1, where=annotated)
    return _Pairs(
        distance=np.where(count >= MIN_SHARED, median, np.inf),
        cost=unexplained / np.maximum(annotated.sum(-1), 1),
    )


def _assign(pairs: _Pairs) -> list[int]:
    """Return the detection of each person, or -1: as many as can be, at the least cost."""
    allowed = pairs.allowed
    # Worse than any number of pairs that are allowed.
    cost = np.where(allowed, pairs.cost, 1 + len(allowed))
    best = np.where(allowed.any(1), cost.argmin(1), -1).tolist()
    wanted = [detection for detection in best if detection >= 0]
    if len(set(wanted)) == len(wanted):
        return best  # no one's best is another's: nothing can be better
    from scipy.optimize import linear_sum_assignment

    out = [-1] * len(allowed)
    for person, detection in zip(*linear_sum_assignment(cost)):
        if allowed[person, detection]:
            out[person] = int(detection)
    return out


def _rejection(distances: np.ndarray, swapped: bool) -> str:
    nearest = float(distances.min())
    if not np.isfinite(nearest):
        return f"no detection shares {MIN_SHARED} visible joints"
    if nearest <= MAX_DISTANCE:
        return "the nearest detection belongs to a nearer person"
    if swapped:
        return "the nearest detection has left and right swapped"
    return f"nearest detection is {nearest:.2f} box sides away, allowed {MAX_DISTANCE}"
