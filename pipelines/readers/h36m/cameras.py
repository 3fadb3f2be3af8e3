"""Human3.6M's four cameras, from the metadata.xml of its software: what they see with, and where they stood.

The element <w0> holds 300 numbers: for each camera and each of 11 subjects three Euler angles (rad, R = Rx Ry Rz) and the
camera's place (mm), p_camera = R (p_world - place); then for each camera the focal lengths, the principal point (px) and five
coefficients of distortion, which move a point by a few pixels at the picture's edge and are left out here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import Camera, View

if TYPE_CHECKING:
    from jaxtyping import Float

CAMERAS = ("54138969", "55011271", "58860488", "60457274")
_SUBJECTS, _PLACEMENT, _OPTICS = 11, 6, 9
_NUMBERS = len(CAMERAS) * (_SUBJECTS * _PLACEMENT + _OPTICS)
_LARGEST = 16 * 2**20  # bytes; the file has some hundred thousand


@dataclass(frozen=True)
class Calibration:
    """The numbers of <w0>."""

    numbers: Float[np.ndarray, "300"]

    def camera(self, name: str) -> Camera:
        first = len(CAMERAS) * _SUBJECTS * _PLACEMENT + CAMERAS.index(name) * _OPTICS
        focal_x, focal_y, *principal = self.numbers[first : first + 4]
        return Camera(float(focal_x + focal_y) / 2, np.array(principal, np.float32))

    def view(self, subject: int, name: str, pose_id: str) -> View:
        first = _PLACEMENT * (CAMERAS.index(name) * _SUBJECTS + subject - 1)
        angles, place_mm = np.split(self.numbers[first : first + _PLACEMENT], 2)
        rotation = euler_matrix(angles)
        return View(rotation.astype(np.float32), (-rotation @ place_mm / 1000).astype(np.float32), pose_id=pose_id)


def euler_matrix(angles: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Return Rx Ry Rz of three angles in radians."""
    x, y, z = (cv2.Rodrigues(axis)[0] for axis in np.diag(angles))
    return x @ y @ z


def read_calibration(path: Path) -> Calibration | None:
    """Return the calibration, or None if the file isn't there. Raise StageError if it is another."""
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8", errors="replace") as handle:
            found = re.search(r"<w0>\s*\[([^\]<]*)\]", handle.read(_LARGEST))
        numbers = np.array(found[1].split() if found else [], np.float64)
    except (OSError, ValueError) as error:
        raise StageError(f"{path}: not Human3.6M's metadata ({error}); remove it or replace it") from error
    optics = numbers[-len(CAMERAS) * _OPTICS :].reshape(-1, _OPTICS) if len(numbers) == _NUMBERS else None
    if optics is None or not np.isfinite(numbers).all() or (optics[:, :2] <= 0).any():
        raise StageError(
            f"{path}: expected {_NUMBERS} numbers of cameras in its element w0, found {len(numbers)}"
            f"{' that are none of cameras' if optics is not None else ''}; remove the file or replace it"
        )
    return Calibration(numbers)
