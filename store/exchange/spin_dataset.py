"""SPIN's data set .npz: each person's annotations, under the published names. Pixels of the original image, metres."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from store.annotations.schema import OPENPOSE, SUPERSET
from store.annotations.table import Annotations
from store.exchange import io

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32

EXPECTED = "SPIN's data set .npz with imgname (n,), center (n, 2) and scale (n,)"
PUBLISHED_NAMES = {
    "coco": "coco_2014_train.npz",
    "mpii": "mpii_train.npz",
    "lsp-orig": "lsp_dataset_original_train.npz",
    "lspet": "hr-lspet_train.npz",
    "mpi-inf-3dhp": "mpi_inf_3dhp_train.npz",
    "h36m": "h36m_train.npz",
    "3dpw": "3dpw_test.npz",
    "lsp": "lsp_dataset_test.npz",
    "mpi-inf-3dhp-valid": "mpi_inf_3dhp_valid.npz",
    "h36m-p1": "h36m_valid_protocol1.npz",
    "h36m-p2": "h36m_valid_protocol2.npz",
}
"""File names of the published data sets, by the names that the published options give them."""
_KEYS = (
    "imgname", "center", "scale", "part", "openpose", "S", "pose", "shape", "has_smpl", "gender", "maskname", "partname",
    io.BODY_KEY,
)  # fmt: skip
_SHORT = {"female": "f", "male": "m", "neutral": "n", "": ""}
_LONG = {short: long for long, short in _SHORT.items()} | {name: name for name in _SHORT}


@dataclass(frozen=True)
class SampleRows:
    """People of a data set as a file of another program has them; numbers are unchanged, NaN included.

    joints3d_m: None if the file has none. pose and betas: of the body named by `body`, '' if the file doesn't name one; None if
    it has none. Texts are empty where not known; gender is as in the file where it is none that is known.
    """

    image: list[str]
    center_px: Float32[np.ndarray, "n 2"]
    scale: Float32[np.ndarray, "n"]
    keypoints_px: Float32[np.ndarray, "n 49 3"]
    joints3d_m: Float32[np.ndarray, "n 24 4"] | None
    has_smpl: Bool[np.ndarray, "n"]
    pose: Float32[np.ndarray, "n 72"] | None
    betas: Float32[np.ndarray, "n 10"] | None
    gender: list[str]
    mask: list[str]
    part: list[str]
    body: str = ""
    poses_alone: int = 0  # rows with a pose and no betas: no body, and not kept

    def __len__(self) -> int:
        return len(self.image)


def export_spin_dataset(path: str | Path, annotations: Annotations, *, body: str = "") -> None:
    """Write SPIN's data set .npz: imgname, center, scale, part (n, 24, 3), openpose (n, 25, 3); atomic.

    Where any row knows them, also S (n, 24, 4; unknown rows have confidence 0), pose, shape and has_smpl (with `body`, whose
    they are), gender ('f', 'm', 'n' or empty), maskname and partname. ExchangeError if the path does not end in .npz.
    """
    arrays = {
        "imgname": np.array(annotations.image, dtype=np.str_),
        "center": annotations.center_px,
        "scale": annotations.scale,
        "part": annotations.keypoints_px[:, SUPERSET],
        "openpose": annotations.keypoints_px[:, OPENPOSE],
    }
    if annotations.has_joints3d.any():
        arrays["S"] = annotations.joints3d_m
    if annotations.has_smpl.any():
        arrays |= {"pose": annotations.pose, "shape": annotations.betas}
        arrays["has_smpl"] = annotations.has_smpl.astype(np.uint8)
        if body:
            arrays[io.BODY_KEY] = np.array(body)
    if any(annotations.gender):
        arrays["gender"] = np.array([_SHORT[gender] for gender in annotations.gender], dtype="U1")
    for name, column in (("maskname", annotations.mask), ("partname", annotations.part)):
        if any(column):
            arrays[name] = np.array(column, dtype=np.str_)
    io.write_npz(Path(path), arrays)


def lost_in_spin_dataset(annotations: Annotations) -> list[str]:
    """Return the names of what these annotations hold that SPIN's format can't."""
    known = {
        "camera (focal length, principal point)": annotations.has_camera.any(),
        "view (rotation, translation)": annotations.has_view.any(),
        "pose_id": any(annotations.pose_id),
        "Human3.6M's 17 joints": annotations.has_joints17.any(),
        "source": any(annotations.source),
        "openpose_match": any(annotations.openpose_match),
    }
    return [name for name, there in known.items() if there]


def read_spin_dataset(path: Path) -> SampleRows:
    """Only imgname, center and scale must be there. Pose and shape without has_smpl belong to every row, as in SPIN."""
    arrays = io.read_arrays(path, _KEYS, EXPECTED)
    if not {"imgname", "center", "scale"} <= set(arrays):
        raise io.missing_keys(path, EXPECTED, io.array_names(path, EXPECTED))
    count = len(arrays["imgname"]) if arrays["imgname"].ndim == 1 else -1
    images = io.texts(path, "imgname", arrays["imgname"], max(count, 0))
    keypoints = np.zeros((count, 49, 3), np.float32)
    for name, place, joints in (("openpose", OPENPOSE, 25), ("part", SUPERSET, 24)):
        if name in arrays:
            keypoints[:, place] = io.numbers(path, name, arrays[name], (count, joints, 3))
    joints3d = io.numbers(path, "S", arrays["S"], (count, 24, 4)) if "S" in arrays else None
    pose = betas = None
    has_smpl = np.zeros(count, bool)
    if {"pose", "shape"} <= set(arrays):
        pose = io.numbers(path, "pose", arrays["pose"], (count, 72))
        betas = io.numbers(path, "shape", arrays["shape"], (count, 10))
        has_smpl = ~has_smpl
        if "has_smpl" in arrays:
            has_smpl = io.flags(path, "has_smpl", arrays["has_smpl"], count)
    named = {
        name: io.texts(path, name, arrays[name], count) if name in arrays else [""] * count
        for name in ("gender", "maskname", "partname")
    }
    return SampleRows(
        image=images,
        center_px=io.numbers(path, "center", arrays["center"], (count, 2)),
        scale=io.numbers(path, "scale", arrays["scale"], (count,)),
        keypoints_px=keypoints,
        joints3d_m=joints3d,
        has_smpl=has_smpl,
        pose=pose,
        betas=betas,
        gender=[_LONG.get(gender.lower(), gender) for gender in named["gender"]],
        mask=named["maskname"],
        part=named["partname"],
        body=io.body_named(path, arrays),
    )
