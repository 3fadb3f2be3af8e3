"""Human3.6M: motion capture in a studio, four cameras. Every fifth frame, as published.

Where it differs from the published script: that one drops the first frame of a test video before it counts, so that each
picture is the one after its pose; here frame n's picture belongs to frame n's pose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import StageError
from pipelines.progress import say
from pipelines.readers.base import Camera, Option, Person, ReaderOptions, Rejected, View
from pipelines.readers.formats.cdf_matlab import of_mat73, open_mat73, read_cdf
from pipelines.readers.formats.video import extract_frames
from pipelines.readers.h36m.cameras import CAMERAS, Calibration, read_calibration
from pipelines.readers.studio_common import (
    annotated_17,
    around,
    detection_of,
    joints_problem,
    truth_17,
)

if TYPE_CHECKING:
    from jaxtyping import Float

ABOUT = "Human3.6M (Ionescu et al., PAMI 2014)"
OBTAIN = (
    "vision.imar.ro/human3.6m, after registration, for research. Of each subject download the videos, the 3D positions "
    "(mono), the 2D positions and the bounding boxes (segments); metadata.xml is part of its Visualisation software. The SMPL "
    "poses (MoSh) that the published system was trained with can't be obtained any more: its 3D joints supervise instead, "
    "and fits use them"
)
SPLITS = ("train", "p1", "p2")
VERSION = 1
OPTIONS = (
    Option("extract_images", "flag", "Write the pictures that are kept from Videos/ to images/; those there stay."),
)  # fmt: skip
TREE = """\
ROOT/                                                    SN: S1 S5 S6 S7 S8 to train on, S9 S11 to measure on
  SN/MyPoseFeatures/D3_Positions_mono/ACTION.CAMERA.cdf  3D joints in the camera's frame
  SN/MyPoseFeatures/D2_Positions/ACTION.CAMERA.cdf       keypoints; without them people have none, and are not fitted
  SN/MySegmentsMat/ground_truth_bb/ACTION.CAMERA.mat     masks that the boxes are taken from
  SN/Videos/ACTION.CAMERA.mp4                            for --extract-images
  images/SN_ACTION.CAMERA_FRAME.jpg                      as S9_Directions_1.54138969_000001.jpg
  metadata.xml                                           optional: the cameras
  openpose/images/NAME_keypoints.json                    optional: OpenPose BODY_25 detections, one file an image
"""

_SUBJECTS = {"train": (1, 5, 6, 7, 8), "p1": (9, 11), "p2": (9, 11)}
_P2_CAMERA = "60457274"
_STRIDE = 5
_MARGIN = 0.9  # of the published box: the data set's are wide
_JOINTS = 32
# Our 17 among the 32 of its skeleton.
OF_SKELETON = (11, 6, 7, 8, 1, 2, 3, 12, 24, 14, 15, 17, 18, 19, 25, 26, 27)
_SEQUENCE = re.compile(rf"(?P<action>.+)\.(?P<camera>{'|'.join(CAMERAS)})\.cdf")


@dataclass(frozen=True)
class Part:
    """One action of one subject, seen by one camera; `missing`, why the subject has none."""

    subject: int
    action: str = ""  # as in file names, with its spaces
    camera: str = ""
    missing: str = ""

    @property
    def name(self) -> str:
        return f"S{self.subject}/{self.action}.{self.camera}"

    def image(self, frame: int) -> str:
        action = self.action.replace(" ", "_")
        return f"images/S{self.subject}_{action}.{self.camera}_{frame + 1:06d}.jpg"


def parts(root: Path, options: ReaderOptions) -> list[Part]:
    """Return each action and camera.

    Raise StageError if no subject of the split is there, no pictures, or metadata.xml is damaged.
    """
    out: list[Part] = []
    without_keypoints = []
    for subject in _SUBJECTS[options.split]:
        features = root / f"S{subject}" / "MyPoseFeatures"
        names = sorted(path.name for path in (features / "D3_Positions_mono").glob("*.cdf"))
        found = [match for match in map(_SEQUENCE.fullmatch, names) if match]
        sequences = [
            Part(subject, match["action"], match["camera"])
            for match in found
            # _ALL is a file of all actions
            if not match["action"].startswith("_ALL") and _asked_for(match["camera"], options.split)
        ]
        out += sequences or [Part(subject, missing="has no MyPoseFeatures/D3_Positions_mono/ACTION.CAMERA.cdf")]
        if sequences and not (features / "D2_Positions").is_dir():
            without_keypoints.append(f"S{subject}")
    hint = "`spin-pipe preprocess h36m --help` shows the layout expected"
    if all(part.missing for part in out):
        subjects = " nor ".join(f"S{part.subject}" for part in out)
        raise StageError(f"{root}: neither {subjects} {out[0].missing}; {hint}")
    if not options.extra.get("extract_images") and not (root / "images").is_dir():
        raise StageError(f"{root / 'images'}: no such folder; --extract-images makes it from the videos; {hint}")
    read_calibration(root / "metadata.xml")  # its damage would reject everyone
    if without_keypoints:
        say(f"h36m: no MyPoseFeatures/D2_Positions of {', '.join(without_keypoints)}: no 2D keypoints of their people")
    return out


def _asked_for(camera: str, split: str) -> bool:
    return split != "p2" or camera == _P2_CAMERA


def read(root: Path, part: Part, options: ReaderOptions) -> Iterator[Person | Rejected]:
    """Yield every fifth frame of an action. What is wrong with one of its files rejects the action."""
    if part.missing:
        yield Rejected(f"S{part.subject}", "", part.missing)
        return
    try:
        yield from _frames(root, part, options)
    except StageError as error:
        yield Rejected(part.name, "", str(error))


def _frames(root: Path, part: Part, options: ReaderOptions) -> Iterator[Person | Rejected]:
    folder, name = root / f"S{part.subject}", f"{part.action}.{part.camera}"
    joints_m = _positions(folder / "MyPoseFeatures" / "D3_Positions_mono" / f"{name}.cdf", 3) / 1000
    keypoints_px = _keypoints(folder / "MyPoseFeatures" / "D2_Positions" / f"{name}.cdf", len(joints_m))
    calibration = read_calibration(root / "metadata.xml")
    openpose = options.openpose or root / "openpose"
    kept = range(0, len(joints_m), _STRIDE)
    if options.extra.get("extract_images"):
        video = folder / "Videos" / f"{name}.mp4"
        problem = extract_frames(video, {frame: root / part.image(frame) for frame in kept})
        if problem:
            yield Rejected(part.name, "", problem)
    box_file = folder / "MySegmentsMat" / "ground_truth_bb" / f"{name}.mat"
    with open_mat73(box_file) as boxes:
        masks = of_mat73(box_file, boxes, "Masks")
        for frame in kept:
            image, source = part.image(frame), f"{part.name} frame {frame + 1}"
            points = None if keypoints_px is None else keypoints_px[frame]
            box = _box(boxes, masks, frame)
            problem = joints_problem(joints_m[frame], points) or (box if isinstance(box, str) else "")
            if problem or isinstance(box, str):
                yield Rejected(source, image, problem)
                continue
            annotated = annotated_17(points)
            detected, why_not = detection_of(openpose, image, annotated, 200 * box[1])
            camera, view = _camera(calibration, part, frame)
            yield Person(
                image=image,
                center_px=box[0],
                scale=box[1],
                keypoints_px=np.concatenate([detected, annotated]),
                source=source,
                openpose_match=why_not,
                truth=truth_17(joints_m[frame]),
                camera=camera,
                view=view,
            )


def _positions(path: Path, dimensions: int) -> Float[np.ndarray, "T 17 D"]:
    """Return the 17 joints of every frame: 'Pose' is (1, T, 32 D), in mm or px."""
    values = read_cdf(path, "Pose")
    width = _JOINTS * dimensions
    if values.ndim not in (2, 3) or values.shape[-1] != width or values[..., 0].size != values.shape[-2]:
        raise StageError(f"{path}: 'Pose' has shape {values.shape}, expected (1, frames, {width})")
    return values.reshape(-1, _JOINTS, dimensions)[:, OF_SKELETON]


def _keypoints(path: Path, frames: int) -> Float[np.ndarray, "T 17 2"] | None:
    """Return keypoints of every frame, None if the data set's 2D positions were not obtained."""
    if not path.parent.is_dir():
        return None
    out = _positions(path, 2)
    if len(out) != frames:
        raise StageError(f"{path}: {len(out)} frames, but {frames} of 3D positions")
    return out


def _box(file: Any, masks: Any, frame: int) -> tuple[np.ndarray, float] | str:
    """Return the published box of a frame, from its mask, or why there is none.

    Masks are read one at a time: all are gigabytes.
    """
    try:
        # MATLAB's columns come first: (width, height)
        mask = np.asarray(file[masks[frame, 0]]) == 1
        across, down = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    except Exception as error:  # a damaged file can raise nearly anything
        return f"its mask can't be read ({type(error).__name__})"
    if not len(across) or not len(down):
        return "its mask is empty"
    corners = np.array([[across[0], down[0]], [across[-1] + 1, down[-1] + 1]], np.float64)
    return around(corners, _MARGIN)


def _camera(calibration: Calibration | None, part: Part, frame: int) -> tuple[Camera | None, View | None]:
    if calibration is None:
        return None, None
    pose_id = f"S{part.subject}/{part.action}/{frame + 1:06d}"
    return calibration.camera(part.camera), calibration.view(part.subject, part.camera, pose_id)
