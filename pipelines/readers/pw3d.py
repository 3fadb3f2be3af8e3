"""3DPW's test sequences: people outdoors, their bodies from inertial sensors and a moving camera.

Beyond what was published, the data set's own detections (OpenPose's COCO-18) become keypoints, so that 3DPW can be fitted,
and its intrinsics the camera.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import Camera, Option, Person, ReaderOptions, Rejected, Truth, body_of
from pipelines.readers.studio_common import around
from spin.body.safe_pickle import read_data_pickle
from spin.crop import BOX_MARGIN
from spin.errors import BodyFileError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

ABOUT = "3DPW, 3D Poses in the Wild (von Marcard et al., ECCV 2018)"
OBTAIN = (
    "virtualhumans.mpi-inf.mpg.de/3DPW, for research, after agreeing to its licence: imageFiles.zip and sequenceFiles.zip. "
    "Its bodies are SMPL's, of both genders"
)
SPLITS = ("test",)
VERSION = 1
OPTIONS: tuple[Option, ...] = ()
TREE = """\
ROOT/
  sequenceFiles/test/SEQUENCE.pkl       bodies, detections and cameras; nothing in them is executed
  imageFiles/SEQUENCE/image_00000.jpg
"""

# OpenPose's COCO-18 as indices of BODY_25, which has a mid hip at 8.
OF_BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
_GENDERS = {"f": "female", "m": "male"}
_FARTHEST_PX = 1e6  # no image is larger
_LARGEST = 1e3  # of an angle in radians or a shape coefficient
_ORTHONORMAL = 1e-3


@dataclass(frozen=True)
class Actor:
    """One person of a sequence, over its T frames."""

    pose_aa: Float[np.ndarray, "T 72"]  # in the world's axes
    betas: Float[np.ndarray, "10"]
    detected_px: Float[np.ndarray, "T 18 3"]
    usable: Bool[np.ndarray, " T"]  # the camera's pose was aligned to this person
    gender: str


def parts(root: Path, options: ReaderOptions) -> list[str]:
    """Return sequences by file name, in the order of names. Raise StageError if there is none."""
    folder = root / "sequenceFiles" / "test"
    files = sorted(path.name for path in folder.glob("*.pkl"))
    if not files:
        raise StageError(f"{folder}: no .pkl files; `spin-pipe preprocess 3dpw --help` shows the layout expected")
    return files


def read(root: Path, part: str, options: ReaderOptions) -> Iterator[Person | Rejected]:
    """Yield all people in a sequence, person by person, as published."""
    file = root / "sequenceFiles" / "test" / part
    try:
        content = read_data_pickle(file)
        name = _sequence_name(file, content)
        rotations = _array(file, "cam_poses", content, (-1, 4, 4))[:, :3, :3]
        camera = _camera(_array(file, "cam_intrinsics", content, (3, 3)))
        actors = [_actor(file, content, number, len(rotations)) for number in range(_actors(file, content))]
    except (BodyFileError, StageError) as error:
        yield Rejected(part, "", str(error))
        return
    body = body_of(root)
    for number, actor in enumerate(actors):
        for frame, rotation in enumerate(rotations):
            source, image = (
                f"{name} person {number} frame {frame}",
                f"imageFiles/{name}/image_{frame:05d}.jpg",
            )
            problem = _problem(actor, frame, rotation)
            if problem:
                yield Rejected(source, image, problem)
            else:
                yield _person(actor, frame, rotation, camera, body, image, source)


def _problem(actor: Actor, frame: int, rotation: np.ndarray) -> str:
    """Return why a person can't be used in a frame, or ''."""
    if not actor.usable[frame]:
        return "the data set marks its camera's pose as not valid (campose_valid)"
    points = actor.detected_px[frame]
    seen = points[:, 2] > 0
    if not np.isfinite(points).all() or not (np.abs(points[seen, :2]) < _FARTHEST_PX).all():
        return "a keypoint is not a number of pixels"
    if seen.sum() < 2 or np.ptp(points[seen, :2], axis=0).max() < 1:
        return f"its {seen.sum()} keypoints span no box"
    if not (np.abs([*actor.pose_aa[frame], *actor.betas]) < _LARGEST).all():
        return "its body is not a number"
    # Entries of a rotation are at most 1; larger ones would overflow in the product.
    if not (np.abs(rotation) <= 1 + _ORTHONORMAL).all() or (np.abs(rotation @ rotation.T - np.eye(3)).max() > _ORTHONORMAL):
        return "its camera's pose is not a rotation"
    return ""


def _person(
    actor: Actor, frame: int, rotation: np.ndarray, camera: Camera | None, body: str, image: str, source: str
) -> Person:
    points = actor.detected_px[frame].copy()
    points[:, 2] = points[:, 2].clip(0, 1)
    points[points[:, 2] == 0] = 0
    center, scale = around(points[points[:, 2] > 0, :2], BOX_MARGIN)
    keypoints = np.zeros((49, 3), np.float32)
    keypoints[list(OF_BODY_25)] = points
    pose = actor.pose_aa[frame].copy()
    # from the world's axes to the camera's
    pose[:3] = cv2.Rodrigues(rotation @ cv2.Rodrigues(pose[:3])[0])[0].ravel()
    return Person(
        image=image,
        center_px=center,
        scale=scale,
        keypoints_px=keypoints,
        source=source,
        truth=Truth(pose.astype(np.float32), actor.betas.astype(np.float32), body),
        gender=actor.gender,
        camera=camera,
    )


def _sequence_name(file: Path, content: dict[str, Any]) -> str:
    name = content.get("sequence")
    if not isinstance(name, str) or not name or set(name) & set("/\\\0\n") or name.startswith("."):
        raise StageError(f"{file}: 'sequence' is not a name of a sequence")
    return name


def _actors(file: Path, content: dict[str, Any]) -> int:
    """Return how many people a sequence has: all lists have an entry each."""
    counts = set()
    for key in ("poses", "betas", "poses2d", "campose_valid", "genders"):
        value = content.get(key)
        if not isinstance(value, list | tuple) and not (isinstance(value, np.ndarray) and value.ndim):
            raise StageError(f"{file}: has no list {key!r}")
        counts.add(len(value))
    if len(counts) != 1:
        raise StageError(f"{file}: its lists have entries of {' or '.join(map(str, sorted(counts)))} people")
    return counts.pop()


def _actor(file: Path, content: dict[str, Any], number: int, frames: int) -> Actor:
    def of(key: str, shape: tuple[int, ...]) -> np.ndarray:
        return _array(file, key, content, shape, number)

    gender = content["genders"][number]
    if not isinstance(gender, str) or gender not in _GENDERS:
        raise StageError(f"{file}: person {number} has gender {gender!r:.40}, expected 'f' or 'm'")
    betas = of("betas", (-1,))
    if len(betas) < 10:
        raise StageError(f"{file}: 'betas' of person {number} are {len(betas)} numbers, expected 10 or more")
    return Actor(
        pose_aa=of("poses", (frames, 72)),
        betas=betas[:10],
        detected_px=of("poses2d", (frames, 3, 18)).transpose(0, 2, 1),
        usable=of("campose_valid", (frames,)) != 0,
        gender=_GENDERS[gender],
    )


def _array(file: Path, key: str, content: dict[str, Any], shape: tuple[int, ...], number: int | None = None) -> np.ndarray:
    """Return numbers under a key, of one person if `number` says whose; -1 in `shape` is any length."""
    of_whom = "" if number is None else f" of person {number}"
    try:
        value = content[key] if number is None else content[key][number]
        array = np.asarray(value, np.float64)
    except Exception as error:  # numbers of any kind may stand there, of objects or of texts
        raise StageError(f"{file}: {key!r}{of_whom} is not an array of numbers ({type(error).__name__})") from error
    fits = array.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, array.shape))
    if not fits:
        expected = ", ".join("any" if n == -1 else str(n) for n in shape)
        raise StageError(f"{file}: {key!r}{of_whom} has shape {array.shape}, expected ({expected})")
    return array


def _camera(intrinsics: Float[np.ndarray, "3 3"]) -> Camera | None:
    """Return the pinhole camera; None if the numbers can't be a camera's: people are usable without."""
    focal, principal = (intrinsics[0, 0] + intrinsics[1, 1]) / 2, intrinsics[:2, 2]
    if not (np.isfinite(intrinsics).all() and 0 < focal < _FARTHEST_PX and (np.abs(principal) < _FARTHEST_PX).all()):
        return None
    return Camera(float(focal), principal.astype(np.float32))
