"""Files that other code bases of the field read and write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from zipfile import BadZipFile

import numpy as np

from store.annotation_schema import OPENPOSE, SUPERSET
from store.annotations import Annotations
from store.durable import write_named_by_content
from store.errors import ExchangeError
from store.records import Fits

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32


@dataclass(frozen=True)
class StaticFits:
    """Bodies of n samples from another program, in the data set's row order; they have no camera and no score
    yet.

    pose: (n, 72) axis-angle, rad; betas: (n, 10); valid: (n,) where there is a body.
    """

    pose: Float32[np.ndarray, "n 72"]
    betas: Float32[np.ndarray, "n 10"]
    valid: Bool[np.ndarray, "n"]


def export_final_fits(path: str | Path, fits: Fits, valid: Bool[np.ndarray, "n"]) -> None:
    """Write SPIN's final fits: .npz with pose (n, 72), betas (n, 10) and valid_fit (n,), in sample order;
    atomic.

    Raises ExchangeError if `valid` does not fit or the path does not end in .npz.
    """
    valid = np.asarray(valid)
    if valid.dtype != np.bool_ or valid.shape != (len(fits),):
        raise ExchangeError(
            f"{path}: valid must be bool of shape ({len(fits)},), "
            f"found {valid.dtype.name} of shape {valid.shape}"
        )
    _write_npz(Path(path), {"pose": fits.pose, "betas": fits.betas, "valid_fit": valid})


def import_static_fits(path: str | Path, samples: int) -> StaticFits:
    """Read published fits of `samples` samples: <dataset>_fits.npy (n, 82: pose, then betas) or final fits
    (.npz).

    A row that is all zeros or not finite has no body. Raises ExchangeError; nothing in the file is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise ExchangeError(f"{path}: no such file of fits")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            pose, betas, valid = content[:, :72], content[:, 72:], None
        else:
            with content:
                pose, betas, valid = content["pose"], content["betas"], content["valid_fit"]
    except (ValueError, OSError, EOFError, KeyError, IndexError, BadZipFile) as error:
        raise ExchangeError(
            f"{path}: expected an .npy array (n, 82) or an .npz with pose, betas and valid_fit ({error})"
        ) from error
    if pose.shape != (samples, 72) or betas.shape != (samples, 10):
        raise ExchangeError(
            f"{path}: the data set has {samples} samples, expected pose ({samples}, 72), "
            f"betas ({samples}, 10), found {pose.shape} and {betas.shape}"
        )
    pose, betas = pose.astype(np.float32), betas.astype(np.float32)
    rows = np.concatenate([pose, betas], axis=1)
    there = np.isfinite(rows).all(axis=1) & rows.any(axis=1)
    if valid is not None:
        if valid.shape != (samples,):
            raise ExchangeError(f"{path}: expected valid_fit ({samples},), found {valid.shape}")
        there &= valid.astype(bool)
    return StaticFits(pose=pose, betas=betas, valid=there)


def export_spin_dataset(path: str | Path, annotations: Annotations) -> None:
    """Write SPIN's data set .npz: imgname, center, scale, part (n, 24, 3), openpose (n, 25, 3); atomic.

    Where any row knows them, also S (n, 24, 4; unknown rows have confidence 0), pose, shape and has_smpl, and
    gender ('f', 'm', or empty). Raises ExchangeError if the path does not end in .npz.
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
    if any(annotations.gender):
        short = {"female": "f", "male": "m"}
        arrays["gender"] = np.array([short.get(gender, "") for gender in annotations.gender], dtype="U1")
    _write_npz(Path(path), arrays)


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if path.suffix != ".npz":
        raise ExchangeError(f"{path}: the name must end in .npz")

    def fill(handle: BinaryIO) -> str:
        np.savez(handle, **arrays)  # type: ignore[arg-type]
        return path.name

    path.parent.mkdir(parents=True, exist_ok=True)
    write_named_by_content(path.parent, fill)
