"""BEDLAM's .npz of SMPL bodies (Black et al., CVPR 2023): bodies in the camera's frame with the image's pinhole camera.

A point X (m) of the posed body is seen at K (X + trans_cam + cam_ext[:3, 3]): the body's place is the sum of the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from store.annotations.table import Annotations
from store.errors import ExchangeError
from store.exchange import io
from store.exchange.bodies import StaticFits, bodies, keys_of, pose_and_betas
from store.fits.records import Fits

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

EXPECTED = "BEDLAM's .npz with imgname (n,), center (n, 2), scale (n,), pose_cam (n, 72) and shape (n, 10)"


def export_bedlam(
    path: str | Path,
    annotations: Annotations,
    rows: Int64[np.ndarray, "k"],
    fits: Fits,
    camera_matrix: Float64[np.ndarray, "k 3 3"],
    joints_px: Float64[np.ndarray, "k 24 2"],
    *,
    body: str = "",
) -> None:
    """Write the fits of some samples, in their order, with their cameras and projected joints (px of the image).

    There is one camera a row and no world, so that the world's pose and place are the camera's.
    """
    eye = np.broadcast_to(np.eye(4), (len(rows), 4, 4))
    gender = [annotations.gender[row] or "neutral" for row in rows.tolist()]
    arrays = {
        "imgname": np.array([annotations.image[row] for row in rows.tolist()], dtype=np.str_),
        "center": annotations.center_px[rows],
        "scale": annotations.scale[rows],
        "pose_cam": fits.pose,
        "pose_world": fits.pose,
        "shape": fits.betas,
        "trans_cam": fits.camera,
        "trans_world": fits.camera,
        "gtkps": np.concatenate([joints_px, np.ones((*joints_px.shape[:2], 1))], -1),
        "cam_int": camera_matrix,
        "cam_ext": eye,
        "gender": np.array(gender, dtype=np.str_),
    }
    if body:
        arrays[io.BODY_KEY] = np.array(body)
    io.write_npz(Path(path), arrays)


def read_bedlam(path: Path) -> StaticFits:
    """Return bodies of SMPL's 24 joints with the samples they are of; a file of SMPL-X's raises ExchangeError."""
    wanted = (
        "imgname", "center", "scale", "pose_cam", "shape", "trans_cam", "cam_ext", "cam_int", io.BODY_KEY,
    )  # fmt: skip
    arrays = io.read_arrays(path, wanted, EXPECTED)
    if not {"imgname", "center", "scale", "pose_cam", "shape"} <= set(arrays):
        raise io.missing_keys(path, EXPECTED, io.array_names(path, EXPECTED))
    pose, betas = pose_and_betas(path, arrays, "pose_cam", "shape")
    count = len(pose)
    keys = keys_of(path, arrays, count)
    translation = matrix = None
    if {"trans_cam", "cam_int"} <= set(arrays):
        matrix = io.numbers(path, "cam_int", arrays["cam_int"], (count, 3, 3), "<f8")
        place = io.numbers(path, "trans_cam", arrays["trans_cam"], (count, 3), "<f8")
        if "cam_ext" in arrays:
            place = place + io.numbers(path, "cam_ext", arrays["cam_ext"], (count, 4, 4), "<f8")[:, :3, 3]
        with np.errstate(over="ignore", invalid="ignore"):
            translation = place.astype(np.float32)
    if not count:
        raise ExchangeError(f"{path}: expected {EXPECTED}; it has no rows")
    return bodies(
        pose,
        betas,
        keys=keys,
        body=io.body_named(path, arrays),
        translation_m=translation,
        camera_matrix=matrix,
    )
