"""What the recorded data sets share: 17 joints, formats of MATLAB and NASA's CDF, and videos.

The packages that read these formats are imported where they are used: most data sets need none of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import NO_OPENPOSE, Truth
from pipelines.readers.formats.isolated import read_arrays
from pipelines.readers.openpose import match_people, read_detections
from spin.joints import JOINTS

if TYPE_CHECKING:
    from h5py import Dataset, File
    from jaxtyping import Float

_SUPERSET_OF_17 = np.array(JOINTS.h36m) - JOINTS.superset.start
_FARTHEST_PX = 1e6  # no image is larger
_FARTHEST_M = 1e3  # nor a studio


def annotated_17(keypoints_px: Float[np.ndarray, "17 2"] | None) -> Float[np.ndarray, "24 3"]:
    """Human3.6M's 17 joints in an image as superset keypoints, each seen; nothing is seen of a person without."""
    out = np.zeros((24, 3), np.float32)
    if keypoints_px is not None:
        out[_SUPERSET_OF_17, :2], out[_SUPERSET_OF_17, 2] = keypoints_px, 1
    return out


def truth_17(joints17_m: Float[np.ndarray, "17 3"], **body: Any) -> Truth:
    """Joints in the camera's axes as truth, relative to the first of them, the pelvis. `body`: further fields of Truth."""
    relative = joints17_m - joints17_m[0]
    joints = np.zeros((24, 4), np.float32)
    joints[_SUPERSET_OF_17, :3], joints[_SUPERSET_OF_17, 3] = relative, 1
    return Truth(joints3d_m=joints, joints17_m=relative.astype(np.float32), **body)


def joints_problem(joints17_m: np.ndarray, keypoints_px: np.ndarray | None = None) -> str:
    """Why joints of a frame can't be used, or ''."""
    if not (np.abs(joints17_m) < _FARTHEST_M).all():
        return "a 3D joint is not a number of millimetres"
    if keypoints_px is not None and not (np.abs(keypoints_px) < _FARTHEST_PX).all():
        return "a keypoint is not a number of pixels"
    return ""


def around(points_px: Float[np.ndarray, "K 2"], margin: float) -> tuple[Float[np.ndarray, "2"], float]:
    """Centre (px) and scale (side / 200 px) of the square around points, enlarged by `margin`."""
    low, high = points_px.min(0), points_px.max(0)
    return ((low + high) / 2).astype(np.float32), float(margin * (high - low).max() / 200)


def detection_of(
    folder: Path, image: str, annotated: Float[np.ndarray, "24 3"], side_px: float
) -> tuple[Float[np.ndarray, "25 3"], str]:
    """OpenPose's detection of the one person of an image, FOLDER/IMAGE_keypoints.json; and why there is none."""
    file = folder / f"{image.removesuffix('.jpg')}_keypoints.json"
    if not file.is_file():
        return NO_OPENPOSE, "no OpenPose file"
    try:
        match = match_people(annotated[None], np.array([side_px]), read_detections(file))[0]
    except StageError as error:  # the annotation itself is good
        return NO_OPENPOSE, str(error)
    return match.keypoints_px, match.reason


# A damaged file can make its reader raise nearly anything, and all of it means the same.


def read_cdf(path: Path, variable: str) -> np.ndarray:
    """A variable of a CDF file. StageError, naming the file, if there is none."""
    expected = f"a CDF file with a variable {variable!r} of numbers"
    return read_arrays("cdf", path, (variable,), expected)[0][0]


def read_mat5(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Cell columns (cells, 1), each cell an array, of a MATLAB file of version 5 to 7. StageError if one is missing."""
    expected = f"a MATLAB file (version 7 or older) with {', '.join(names)}"
    out = {}
    for name, arrays in zip(names, read_arrays("mat5", path, names, expected)):
        out[name] = np.empty((len(arrays), 1), object)
        for cell, array in enumerate(arrays):
            out[name][cell, 0] = array
    return out


def open_mat73(path: Path) -> File:
    """A MATLAB file of version 7.3, which is HDF5, to be closed. StageError, naming the file, if it is none."""
    import h5py

    _must_exist(path)
    try:
        return h5py.File(path, "r")
    except Exception as error:
        raise _foreign(path, "a MATLAB 7.3 file", error) from error


def of_mat73(path: Path, file: File, name: str) -> Dataset:
    """A variable of such a file; its dimensions are MATLAB's, reversed. StageError, naming the file, if it has none."""
    import h5py

    try:
        found = file[name]
    except Exception as error:
        raise _foreign(path, f"a file with {name!r}", error) from error
    if not isinstance(found, h5py.Dataset):
        raise StageError(f"{path}: {name!r} is no array")
    return found


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise StageError(f"{path}: no such file")


def _foreign(path: Path, expected: str, error: Exception) -> StageError:
    reason = " ".join(str(error).split())[:200]
    return StageError(f"{path}: not {expected} ({type(error).__name__}: {reason})")


def extract_frames(video: Path, wanted: Mapping[int, Path]) -> str:
    """Writes frames of a video, by their number from 0, as JPEG files; those that exist stay. Why it could not, or ''.

    Frames that nobody wants are passed over without being made into pictures.
    """
    left = {number: path for number, path in wanted.items() if not path.exists()}
    if not left:
        return ""
    if not video.is_file():
        return f"{video}: no such video"
    capture = cv2.VideoCapture(str(video))
    try:
        for number in range(max(left) + 1):
            if not capture.grab():
                return f"{video}: ends after {number} frames, {len(left)} wanted frames are missing"
            if number in left:
                _write_frame(capture, left.pop(number))
    except (OSError, cv2.error) as error:
        return f"{video}: its frames can't be written ({error})"
    finally:
        capture.release()
    return ""


def _write_frame(capture: cv2.VideoCapture, path: Path) -> None:
    read, picture = capture.retrieve()
    if not read:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all, so that an extraction that was interrupted goes on where it stopped. It need not be durable.
    unfinished = path.with_name(f".tmp-{path.name}")
    unfinished.write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    os.replace(unfinished, path)
