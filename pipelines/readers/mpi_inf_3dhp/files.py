"""MPI-INF-3DHP's files: cameras as text, joints of 14 cameras in one MATLAB file a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import Camera, View
from pipelines.readers.formats.cdf_matlab import read_mat5

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

VIDEOS = (0, 1, 2, 4, 5, 6, 7, 8)
"""The cameras used, as published, of fourteen: those at the height of people."""
SIZE_PX = (2048, 2048)
"""Of pictures, where the calibration doesn't say."""
_JOINTS = 28
# Human3.6M's 17 among its 28.
OF_SKELETON = (4, 18, 19, 20, 23, 24, 25, 3, 5, 6, 7, 9, 10, 11, 14, 15, 16)
_ORTHONORMAL = 1e-3


@dataclass(frozen=True)
class Sequence:
    """A recording: subject and number."""

    subject: int
    number: int

    @property
    def folder(self) -> str:
        return f"S{self.subject}/Seq{self.number}"

    def image(self, video: int, frame: int) -> str:
        """Return the picture of a frame, counted from 0."""
        return f"{self.folder}/imageFrames/video_{video}/frame_{frame + 1:06d}.jpg"


SEQUENCES = tuple(Sequence(subject, number) for subject in range(1, 9) for number in (1, 2))


@dataclass(frozen=True)
class CalibratedCamera:
    """A camera, its pictures' width and height, and where it stands."""

    size_px: tuple[int, int]
    camera: Camera
    rotation: Float[np.ndarray, "3 3"]
    translation_m: Float[np.ndarray, "3"]

    def view(self, pose_id: str) -> View:
        return View(self.rotation.astype(np.float32), self.translation_m.astype(np.float32), pose_id)


def read_calibration(path: Path) -> dict[int, CalibratedCamera]:
    """Return cameras by number, from a `camera.calibration` of Skeletool's. Raise StageError if it is another file.

    After a line with the format's name each camera has lines `name N`, `size W H`, `intrinsic` and `extrinsic` (4 × 4, row by
    row; mm).
    """
    blocks: dict[int, dict[str, list[str]]] = {}
    try:
        block: dict[str, list[str]] = {}
        for words in map(str.split, path.read_text(encoding="utf-8", errors="replace").splitlines()):
            if len(words) > 1 and words[0] == "name":
                block = blocks.setdefault(int(words[1]), {})
            elif words:
                block[words[0]] = words[1:]
        cameras = {number: _camera(block) for number, block in blocks.items()}
    except (OSError, ValueError, KeyError, OverflowError) as error:
        raise StageError(f"{path}: not a camera calibration ({type(error).__name__}: {error})") from error
    missing = [video for video in VIDEOS if video not in cameras]
    if missing:
        raise StageError(f"{path}: has no camera {missing[0]}")
    return cameras


def _camera(block: dict[str, list[str]]) -> CalibratedCamera:
    width, height = (int(float(word)) for word in block["size"][:2])
    intrinsic, extrinsic = (np.array([float(word) for word in block[key]]).reshape(4, 4) for key in ("intrinsic", "extrinsic"))
    rotation, focal = extrinsic[:3, :3], (intrinsic[0, 0] + intrinsic[1, 1]) / 2
    off = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if not (np.isfinite(intrinsic).all() and np.isfinite(extrinsic).all() and off < _ORTHONORMAL):
        raise ValueError("a camera's place is not a rotation and translation")
    if not (np.linalg.det(rotation) > 0 and 0 < focal < 1e6 and 0 < width < 1e6 and 0 < height < 1e6):
        raise ValueError("a camera has no focal length or no size")
    camera = Camera(float(focal), intrinsic[:2, 2].astype(np.float32))
    return CalibratedCamera((width, height), camera, rotation, extrinsic[:3, 3] / 1000)


def read_joints(path: Path, *names: str) -> list[dict[int, Float[np.ndarray, "T 17 D"]]]:
    """Return joints by camera of each variable: 'annot2' in px, 'annot3' in mm, in the camera's axes.

    Raise StageError if the file is damaged, or its cameras' frames differ in number between the variables.
    """
    content = read_mat5(path, *names)
    out = [{video: _joints(path, name, content[name], video) for video in VIDEOS} for name in names]
    for video in VIDEOS:
        counts = {len(joints[video]) for joints in out}
        if len(counts) > 1:
            raise StageError(f"{path}: {' and '.join(names)} of camera {video} have {counts} frames")
    return out


def _joints(path: Path, name: str, cells: np.ndarray, video: int) -> Float[np.ndarray, "T 17 D"]:
    """Return joints of each camera, whose cell holds (frames, 28 × 2 or 3)."""
    dimensions = {"annot2": 2, "annot3": 3}[name]
    try:
        array = np.asarray(cells[video, 0], np.float64)
    except (IndexError, TypeError, ValueError) as error:
        raise StageError(f"{path}: {name!r} has no numbers for camera {video} ({error})") from error
    if array.ndim != 2 or array.shape[1] != _JOINTS * dimensions:
        raise StageError(
            f"{path}: {name!r} of camera {video} has shape {array.shape}, expected (frames, {_JOINTS * dimensions})"
        )
    return array.reshape(len(array), _JOINTS, dimensions)[:, OF_SKELETON]


def inside(keypoints_px: Float[np.ndarray, "*t 17 2"], size_px: tuple[int, int]) -> Bool[np.ndarray, "*t 17"]:
    """Return which joints are in the picture; one that is not a number is not."""
    return np.asarray(((keypoints_px >= 0) & (keypoints_px < np.array(size_px))).all(-1))
