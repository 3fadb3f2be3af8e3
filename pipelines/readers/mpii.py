"""MPII Human Pose: the training people of train.h5, the annotation file that the published scripts come with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import Option, Person, ReaderOptions, Rejected
from pipelines.readers.formats.image_names import name_problem
from pipelines.readers.openpose import detections_folder, match_image
from spin.joints import JOINTS, SUPERSET_NAMES

ABOUT = "MPII Human Pose, training people (Andriluka et al., 2014)"
OBTAIN = (
    "human-pose.mpi-inf.mpg.de: mpii_human_pose_v1.tar.gz, free to download; for research. train.h5 is that of "
    "pose-hg-train's first release, and part of SPIN's data archive (`spin-pipe fetch-data`)"
)
VERSION = 2
OPTIONS: tuple[Option, ...] = (
    Option(
        "annotations",
        "file",
        "The annotation file, if it is not ROOT/train.h5 or train.h5 in the data folder.",
    ),
)
SPLITS = ("train",)
TREE = """\
ROOT/
  images/000003072.jpg …
  train.h5                              HDF5: imgname (N), center (N, 2), scale (N), part (N, 16, 2); here, in the data
                                        folder, or --annotations FILE
  openpose/mpii/000003072_keypoints.json  optional: OpenPose BODY_25 detections, one file an image
"""
MPII_NAMES = (
    "right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle", "pelvis", "thorax", "neck",
    "top of head", "right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist",
)  # fmt: skip
"""MPII's 16 joints, in its order, by the superset's names (pose-hg-train)."""
MPII_KEYPOINTS = tuple(JOINTS.superset.start + SUPERSET_NAMES.index(name) for name in MPII_NAMES)
_LIMBS = [i for i, name in enumerate(MPII_NAMES) if name.split(" ")[0] in ("left", "right")]
_IMAGES_A_PART = 250
_FARTHEST_PX = 1e6  # no image is larger
_MOST_PEOPLE = 1_000_000  # a damaged file may claim any number


@dataclass(frozen=True)
class Row:
    number: int
    center_px: np.ndarray
    scale: float
    joints_px: np.ndarray  # (16, 2)


Part = list[tuple[str, list[Row]]]


def parts(root: Path, options: ReaderOptions) -> Iterator[Part]:
    """Return lists of images with their people's rows. Raise StageError if the annotation file is missing or isn't one."""
    path = _annotations(root, options)
    table = _load(path)
    by_image: dict[str, list[Row]] = defaultdict(list)
    for number in range(len(table["imgname"])):
        row = Row(number, table["center"][number], float(table["scale"][number]), table["part"][number])
        by_image[_text(table["imgname"][number])].append(row)
    images = list(by_image.items())
    return (images[first : first + _IMAGES_A_PART] for first in range(0, len(images), _IMAGES_A_PART))


def read(root: Path, part: Part, options: ReaderOptions) -> Iterator[Person | Rejected]:
    """Yield all people annotated, image by image."""
    openpose = detections_folder(root, options, "mpii")
    for name, rows in part:
        problem = name_problem(name)
        image = name if problem else f"images/{name}"
        usable = []
        for row in rows:
            reason = problem or _problem(row, options.min_body_joints)
            if reason:
                yield Rejected(_source(row), image, reason)
            else:
                usable.append(row)
        if usable:
            yield from _people(image, usable, openpose)


def _people(image: str, rows: list[Row], openpose: Path | None) -> Iterator[Person]:
    keypoints = np.zeros((len(rows), JOINTS.count, 3), np.float32)
    for place, row in enumerate(rows):
        seen = _annotated(row)
        keypoints[place, MPII_KEYPOINTS, :2] = np.where(seen[:, None], row.joints_px, 0)
        keypoints[place, MPII_KEYPOINTS, 2] = seen
    matches = match_image(openpose, image, keypoints[:, JOINTS.superset], np.array([200 * row.scale for row in rows]))
    for place, (row, match) in enumerate(zip(rows, matches)):
        keypoints[place, JOINTS.openpose] = match.keypoints_px
        yield Person(
            image=image,
            center_px=row.center_px.astype(np.float32),
            scale=row.scale,
            keypoints_px=keypoints[place],
            source=_source(row),
            openpose_match=match.reason,
            row=row.number,
        )


def _source(row: Row) -> str:
    return f"train.h5 row {row.number}"


def _annotated(row: Row) -> np.ndarray:
    """A joint that is not annotated is at (0, 0), and all are at (-1, -1) of a person without any; MPII counts from 1.

    The flag `visible` is 0 also of hidden joints, which were annotated all the same: as published, they count alike.
    """
    return np.all(row.joints_px > 0, axis=1)


def _problem(row: Row, min_body_joints: int) -> str:
    if not (np.abs(row.joints_px) < _FARTHEST_PX).all():
        return "a joint is not a number of pixels"
    seen = _annotated(row)
    limbs = int(seen[_LIMBS].sum())
    if limbs < min_body_joints:
        return f"{limbs} of 12 body joints annotated, {min_body_joints} asked for (--min-body-joints)"
    if min_body_joints >= len(_LIMBS) and not seen.all():
        # As published: who asks for less than all limbs gets these people too.
        return f"{int(seen.sum())} of 16 joints annotated, all asked for (--min-body-joints 12)"
    if not ((np.abs(row.center_px) < _FARTHEST_PX).all() and 1 / 200 <= row.scale < _FARTHEST_PX / 200):
        return "its box has no area, or is not in pixels"
    return ""


def _annotations(root: Path, options: ReaderOptions) -> Path:
    given = options.extra.get("annotations")
    places = [Path(given)] if given else [root / "train.h5", options.data / "train.h5"]
    for path in places:
        if path.is_file():
            return path
    raise StageError(f"mpii: no {' or '.join(map(str, places))}; `spin-pipe preprocess mpii --help` says where to obtain it")


def _load(path: Path) -> dict[str, Any]:
    """Return the columns that are used, a row a person."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            people = len(file["imgname"])
            shapes = {
                "imgname": (people,),
                "center": (people, 2),
                "scale": (people,),
                "part": (people, 16, 2),
            }
            for key, shape in shapes.items():
                if file[key].shape != shape or not 0 < people <= _MOST_PEOPLE:
                    raise ValueError(f"'{key}' is {file[key].shape}, expected {shape}")
            names = file["imgname"][()]
            return {"imgname": names} | {key: np.asarray(file[key][()], np.float64) for key in ("center", "scale", "part")}
    except Exception as error:  # a damaged file can make h5py raise nearly anything
        text = " ".join(str(error).split())[:200]
        raise StageError(
            f"{path}: not MPII's train.h5 ({type(error).__name__}: {text}); expected imgname, center, scale and part"
        ) from error


def _text(name: Any) -> str:
    """Return an image's name; '' if it isn't text."""
    try:
        return name.decode("utf-8") if isinstance(name, bytes) else str(name) if isinstance(name, str) else ""
    except UnicodeDecodeError:
        return ""
