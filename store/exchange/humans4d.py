"""The .npz that 4D-Humans (HMR 2.0) trains and evaluates on: 44 keypoints, boxes in pixels, bodies with flags.

Its 44 keypoints are OpenPose's 25 and the first 19 of SPIN's superset; the superset's other five, of the face, are the same
places as OpenPose's. Its `scale` is the box's side in px, or its width and height.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from store.annotations.schema import OPENPOSE, SUPERSET
from store.annotations.table import Annotations
from store.exchange import io
from store.exchange.bodies import StaticFits, bodies, keys_of, pose_and_betas
from store.exchange.spin_dataset import SampleRows
from store.fits.records import Fits

if TYPE_CHECKING:
    from jaxtyping import Bool

EXPECTED = "4D-Humans' .npz with imgname (n,), center (n, 2), scale, body_pose (n, 72) and betas (n, 10)"
_EXTRA = 19
# Nose, left eye, right eye, left ear, right ear: in the superset, and in OpenPose's 25.
_FACE_IN_SUPERSET, _FACE_IN_OPENPOSE = (19, 20, 21, 22, 23), (0, 16, 15, 18, 17)
_SIDE_PX = 200.0


def export_humans4d(
    path: str | Path, annotations: Annotations, fits: Fits, valid: Bool[np.ndarray, "n"], *, body: str = ""
) -> None:
    """Write all samples with keypoints, and valid bodies. The face's annotated keypoints fill OpenPose's gaps."""
    openpose, superset = annotations.keypoints_px[:, OPENPOSE].copy(), annotations.keypoints_px[:, SUPERSET]
    face, theirs = superset[:, _FACE_IN_SUPERSET], openpose[:, _FACE_IN_OPENPOSE]
    openpose[:, _FACE_IN_OPENPOSE] = np.where(theirs[..., 2:] > 0, theirs, face)
    arrays = {
        "imgname": np.array(annotations.image, dtype=np.str_),
        "center": annotations.center_px,
        "scale": _SIDE_PX * annotations.scale.astype(np.float64),
        "body_pose": np.where(valid[:, None], fits.pose, np.float32(0)),
        "has_body_pose": valid.astype(np.float32),
        "betas": np.where(valid[:, None], fits.betas, np.float32(0)),
        "has_betas": valid.astype(np.float32),
        "body_keypoints_2d": openpose,
        "extra_keypoints_2d": superset[:, :_EXTRA],
    }
    if annotations.has_joints3d.any():
        of_body = np.zeros((len(annotations), 25, 4), np.float32)
        of_body[:, _FACE_IN_OPENPOSE] = annotations.joints3d_m[:, _FACE_IN_SUPERSET]
        arrays |= {"body_keypoints_3d": of_body, "extra_keypoints_3d": annotations.joints3d_m[:, :_EXTRA]}
    if body:
        arrays[io.BODY_KEY] = np.array(body)
    io.write_npz(Path(path), arrays)


def read_humans4d_bodies(path: Path) -> StaticFits:
    """Return bodies, with the samples they are of. has_body_pose and has_betas may be missing: then every row has one."""
    wanted = (
        "imgname",
        "center",
        "scale",
        "body_pose",
        "betas",
        "has_body_pose",
        "has_betas",
        io.BODY_KEY,
    )
    arrays = io.read_arrays(path, wanted, EXPECTED)
    if not {"body_pose", "betas"} <= set(arrays):
        raise io.missing_keys(path, EXPECTED, arrays)
    pose, betas = pose_and_betas(path, arrays, "body_pose", "betas")
    there = np.ones(len(pose), bool)
    for name in ("has_body_pose", "has_betas"):
        if name in arrays:
            there &= io.flags(path, name, arrays[name], len(pose))
    return bodies(
        pose, betas, there, why_not="has_body_pose or has_betas is not set",
        keys=keys_of(path, arrays, len(pose), scale_px=_SIDE_PX), body=io.body_named(path, arrays),
    )  # fmt: skip


def read_humans4d_samples(path: Path) -> SampleRows:
    """Return the people in a file; keypoints that the format lacks have confidence 0."""
    shapes = {
        "body_keypoints_2d": (25, 3), "extra_keypoints_2d": (_EXTRA, 3),
        "body_keypoints_3d": (25, 4), "extra_keypoints_3d": (_EXTRA, 4),
    }  # fmt: skip
    arrays = io.read_arrays(path, ("imgname", "center", "scale", *shapes), EXPECTED)
    count = len(arrays["imgname"]) if "imgname" in arrays and arrays["imgname"].ndim == 1 else 0
    keys = keys_of(path, arrays, count, scale_px=_SIDE_PX)
    if keys is None:
        raise io.missing_keys(path, EXPECTED, io.array_names(path, EXPECTED))
    known = {
        name: io.numbers(path, name, arrays[name], (count, *shape)) if name in arrays
        else np.zeros((count, *shape), np.float32)
        for name, shape in shapes.items()
    }  # fmt: skip
    keypoints = np.zeros((count, 49, 3), np.float32)
    keypoints[:, OPENPOSE] = known["body_keypoints_2d"]
    keypoints[:, SUPERSET][:, :_EXTRA] = known["extra_keypoints_2d"]
    joints = np.zeros((count, 24, 4), np.float32)
    joints[:, :_EXTRA] = known["extra_keypoints_3d"]
    joints[:, _FACE_IN_SUPERSET] = known["body_keypoints_3d"][:, _FACE_IN_OPENPOSE]
    pose = betas = None
    has_smpl, body = np.zeros(count, bool), ""
    names, alone = io.array_names(path, EXPECTED), 0
    if {"body_pose", "betas"} <= names:
        found = read_humans4d_bodies(path)
        pose, betas, has_smpl, body = found.pose, found.betas, found.valid, found.body
    if "body_pose" in names:
        flags = io.read_arrays(path, ("has_body_pose",), EXPECTED)
        posed = io.flags(path, "has_body_pose", flags["has_body_pose"], count) if flags else np.ones(count, bool)
        alone = int((posed & ~has_smpl).sum())
    nothing = [""] * count
    with np.errstate(over="ignore"):
        center, scale = keys.center_px.astype(np.float32), keys.scale.astype(np.float32)
    return SampleRows(
        keys.image, center, scale, keypoints, joints if joints[..., 3].any() else None, has_smpl, pose, betas,
        nothing, nothing, nothing, body, alone,
    )  # fmt: skip
