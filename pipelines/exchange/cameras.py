"""Conversions between other programs' cameras and this one's: a translation in the camera of the sample's crop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spin.camera import CROP_PX
from spin.crop import crop_camera

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int

    from store.annotations.table import Annotations
    from store.exchange import StaticFits

_HALF_PX = CROP_PX / 2
_SAME = 1e-4  # two cameras are one if focal length and centre agree to this share of the focal length


@dataclass(frozen=True)
class Cameras:
    """Each sample's body translation in metres, where it is known; one row per sample of the data set."""

    translation_m: Float32[np.ndarray, "n 3"]
    known: Bool[np.ndarray, " n"]

    def take(self, rows: Int[np.ndarray, " k"]) -> Cameras:
        return Cameras(self.translation_m[rows], self.known[rows])


def cameras_of(
    found: StaticFits, rows: Int[np.ndarray, " k"], samples: Int[np.ndarray, " k"], annotations: Annotations
) -> Cameras:
    """Return the positions of the samples' bodies that the rows of a file give."""
    translation = np.zeros((len(annotations), 3))
    known = np.zeros(len(annotations), bool)
    some = annotations.take(samples)
    with np.errstate(all="ignore"):
        if found.weak_camera is not None and found.keys is not None:
            boxes = (found.keys.center_px[rows], found.keys.scale[rows])
            translation[samples] = from_weak(found.weak_camera[rows], *boxes, some)
            known[samples] = found.weak_camera[rows, 0] > 0
        elif found.translation_m is not None and found.camera_matrix is not None:
            translation[samples] = found.translation_m[rows]
            ours, theirs = image_cameras(some), found.camera_matrix[rows]
            known[samples] = (np.abs(theirs - ours).max((1, 2)) <= _SAME * ours[:, 0, 0]) & (translation[samples, 2] > 0)
        out = translation.astype(np.float32)
    known &= np.isfinite(out).all(1)
    out[~known] = 0
    return Cameras(out, known)


def to_weak(camera_m: Float32[np.ndarray, "k 3"], people: Annotations) -> Float64[np.ndarray, "k 3"]:
    """Return EFT's [s, tx, ty] of the crop, which projects the body's origin to the same pixel; perspective is lost."""
    focal, principal = _crops(people)
    t = camera_m.astype(np.float64)
    px_per_m = focal / t[:, 2]
    shift = t[:, :2] * px_per_m[:, None] + principal - _HALF_PX
    return np.concatenate([px_per_m[:, None], shift], 1) / _HALF_PX


def from_weak(
    weak: Float64[np.ndarray, "k 3"],
    center_px: Float64[np.ndarray, "k 2"],
    scale: Float64[np.ndarray, " k"],
    people: Annotations,
) -> Float64[np.ndarray, "k 3"]:
    """Return the translation in each sample's crop, given a weak camera of another box.

    For the same box it is the inverse of `to_weak`.
    """
    focal, principal = _crops(people)
    ours = people.scale.astype(np.float64)
    zoom = scale / ours
    moved = (center_px - people.center_px) * (CROP_PX / (200.0 * ours))[:, None]
    px_per_m = _HALF_PX * weak[:, 0] * zoom
    shift = _HALF_PX * weak[:, 1:] * zoom[:, None] + moved + _HALF_PX - principal
    return np.concatenate([shift / px_per_m[:, None], (focal / px_per_m)[:, None]], 1)


def image_cameras(people: Annotations) -> Float64[np.ndarray, "k 3 3"]:
    """Return the whole image's pinhole camera K (3, 3), px, that sees what each sample's crop camera sees."""
    focal, principal = _crops(people)
    px = (200.0 * people.scale.astype(np.float64)) / CROP_PX
    out = np.tile(np.eye(3), (len(people), 1, 1))
    out[:, 0, 0] = out[:, 1, 1] = focal * px
    out[:, :2, 2] = people.center_px + (principal - _HALF_PX) * px[:, None]
    return out


def _crops(people: Annotations) -> tuple[np.ndarray, np.ndarray]:
    a = people
    focal, principal = crop_camera(a.center_px, a.scale, a.focal_px, a.principal_px, a.has_camera)
    return focal.astype(np.float64), principal.astype(np.float64)
