"""Fits in the data set's row order: SPIN's static fits, its final fits, and the multi-view fits of MPI-INF-3DHP."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from store.errors import ExchangeError
from store.exchange import io
from store.fits.records import Fits, Source

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int64

ROW_FORMATS = "<dataset>_fits.npy (n, 82: pose, then betas) or an .npz with pose, betas and valid_fit"
NO_BODY = "no body in the file"


@dataclass(frozen=True)
class SampleKeys:
    """Which samples the rows of a file belong to, where they don't follow the data set's order: image and box.

    image: as the file names it; center_px, in the original image; scale: box side / 200 px; annotation: COCO's id, or 0.
    """

    image: list[str]
    center_px: Float64[np.ndarray, "n 2"]
    scale: Float64[np.ndarray, "n"]
    annotation: Int64[np.ndarray, "n"]


@dataclass(frozen=True)
class StaticFits:
    """Bodies of n rows of a file of another program. No row has a score yet.

    pose: (n, 72) axis-angle, rad; rotations: (n, 24, 3, 3) instead of it, where that is what the format holds. betas:
    (n, 10). valid: (n,) where there is a body; `problems` has the reason for the other rows. keys: None if rows follow the data
    set's order. body: whose pose and betas these are, as a fingerprint, or '' if the file names none. The camera, where the
    format has one: weak_camera [s, tx, ty] of the row's box, or translation_m with the camera_matrix of the image.
    """

    pose: Float32[np.ndarray, "n 72"]
    betas: Float32[np.ndarray, "n 10"]
    valid: Bool[np.ndarray, "n"]
    problems: dict[int, str] = field(default_factory=dict)
    keys: SampleKeys | None = None
    body: str = ""
    rotations: Float64[np.ndarray, "n 24 3 3"] | None = None
    weak_camera: Float64[np.ndarray, "n 3"] | None = None
    translation_m: Float32[np.ndarray, "n 3"] | None = None
    camera_matrix: Float64[np.ndarray, "n 3 3"] | None = None

    def __len__(self) -> int:
        return len(self.pose)


def export_final_fits(path: str | Path, fits: Fits, valid: Bool[np.ndarray, "n"], *, body: str = "") -> None:
    """Write SPIN's final fits: .npz with pose (n, 72), betas (n, 10) and valid_fit (n,), in sample order; atomic.

    ExchangeError if `valid` does not fit or the path does not end in .npz.
    """
    valid = np.asarray(valid)
    if valid.dtype != np.bool_ or valid.shape != (len(fits),):
        raise ExchangeError(
            f"{path}: valid must be bool of shape ({len(fits)},), found {valid.dtype.name} of shape {valid.shape}"
        )
    arrays = {"pose": fits.pose, "betas": fits.betas, "valid_fit": valid}
    io.write_npz(Path(path), arrays | _named(body))


def export_static_fits(path: str | Path, fits: Fits) -> None:
    """Write <dataset>_fits.npy, float32 (n, 82): pose, then betas. A sample without a fit is a row of zeros."""
    there = (fits.source != Source.NONE)[:, None]
    io.write_npy(Path(path), np.where(there, np.concatenate([fits.pose, fits.betas], 1), np.float32(0)))


def export_mview_fits(path: str | Path, fits: Fits, valid: Bool[np.ndarray, "n"], *, body: str = "") -> None:
    """Write pose (n, 72), shape (n, 10), has_smpl (n,), as mpi-inf-3dhp_mview_fits.npz has them."""
    arrays = {"pose": fits.pose, "shape": fits.betas, "has_smpl": valid.astype(np.uint8)}
    io.write_npz(Path(path), arrays | _named(body))


def _named(body: str) -> dict[str, np.ndarray]:
    return {io.BODY_KEY: np.array(body)} if body else {}


def import_static_fits(path: str | Path, samples: int) -> StaticFits:
    """Read published fits of `samples` samples: <dataset>_fits.npy (n, 82: pose, then betas) or final fits (.npz).

    A row that is all zeros or not finite has no body. Raises ExchangeError; nothing in the file is executed.
    """
    path = Path(path)
    io.require_file(path, "fits")
    found = read_final(path) if path.suffix == ".npz" else read_static(path)
    require_rows(path, found, samples)
    return found


def require_rows(path: Path, found: StaticFits, samples: int) -> None:
    """Raise ExchangeError unless a file in row order has a row for each sample."""
    if found.keys is None and len(found) != samples:
        raise ExchangeError(
            f"{path}: the data set has {samples} samples, expected pose ({samples}, 72), betas ({samples}, 10) in "
            f"its row order, found {len(found)} rows"
        )


def read_static(path: Path) -> StaticFits:
    """Return the bodies of <dataset>_fits.npy."""
    expected = f"an .npy array (n, 82): {ROW_FORMATS}"
    rows = io.read_array(path, expected)
    if rows.ndim != 2 or rows.shape[1] != 82:
        raise ExchangeError(f"{path}: expected {expected}, found shape {rows.shape}")
    rows = io.numbers(path, "the array", rows, rows.shape)
    return bodies(rows[:, :72], rows[:, 72:])


def read_final(path: Path) -> StaticFits:
    """Return the bodies of final fits."""
    names = ("pose", "betas", "valid_fit")
    arrays = io.read_arrays(path, (*names, io.BODY_KEY), ROW_FORMATS)
    if not set(names) <= set(arrays):
        raise io.missing_keys(path, ROW_FORMATS, io.array_names(path, ROW_FORMATS))
    pose, betas = pose_and_betas(path, arrays, "pose", "betas")
    there = io.flags(path, "valid_fit", arrays["valid_fit"], len(pose))
    return bodies(pose, betas, there, why_not="valid_fit is not set", body=io.body_named(path, arrays))


def read_mview(path: Path) -> StaticFits:
    """Return the bodies of pose, shape and has_smpl; of SPIN's data set files also which samples they are."""
    expected = "an .npz with pose (n, 72), shape (n, 10) and, where not all rows have a body, has_smpl (n,)"
    wanted = ("pose", "shape", "has_smpl", "imgname", "center", "scale", io.BODY_KEY)
    arrays = io.read_arrays(path, wanted, expected)
    if not {"pose", "shape"} <= set(arrays):
        raise io.missing_keys(path, expected, arrays)
    pose, betas = pose_and_betas(path, arrays, "pose", "shape")
    there = np.ones(len(pose), bool)
    if "has_smpl" in arrays:
        there = io.flags(path, "has_smpl", arrays["has_smpl"], len(pose))
    return bodies(
        pose, betas, there, why_not="has_smpl is not set", keys=keys_of(path, arrays, len(pose)),
        body=io.body_named(path, arrays),
    )  # fmt: skip


def pose_and_betas(path: Path, arrays: dict[str, np.ndarray], pose: str, betas: str) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays with equal numbers of rows, (n, 72) and (n, 10), float32."""
    count = len(arrays[pose]) if arrays[pose].ndim else 0
    width = arrays[pose].shape[1] if arrays[pose].ndim == 2 else 0
    if width > 72:
        raise ExchangeError(f"{path}: {pose} has {width} angles a row, as SMPL-X or SMPL-H have; expected SMPL's 72")
    return (
        io.numbers(path, pose, arrays[pose], (count, 72)),
        io.numbers(path, betas, arrays[betas], (count, 10)),
    )


def keys_of(path: Path, arrays: dict[str, np.ndarray], count: int, *, scale_px: float = 1.0) -> SampleKeys | None:
    """Return image and box of each row, where a file has them. `scale_px`: the divisor of its scales."""
    if not {"imgname", "center", "scale"} <= set(arrays):
        return None
    scale = arrays["scale"]
    if scale.ndim > 1 and len(scale) == count:  # 4D-Humans: width and height
        scale = io.numbers(path, "scale", scale, scale.shape, "<f8").reshape(count, -1).max(axis=1, initial=0)
    return SampleKeys(
        io.texts(path, "imgname", arrays["imgname"], count),
        io.numbers(path, "center", arrays["center"], (count, 2), "<f8"),
        io.numbers(path, "scale", scale, (count,), "<f8") / scale_px,
        np.zeros(count, np.int64),
    )


def read_keys(path: Path) -> SampleKeys:
    """Return image and box of each row of SPIN's data set .npz. Raise ExchangeError if it has none."""
    expected = "SPIN's data set .npz with imgname (n,), center (n, 2) and scale (n,)"
    arrays = io.read_arrays(path, ("imgname", "center", "scale"), expected)
    names = arrays.get("imgname", np.empty(0))
    keys = keys_of(path, arrays, len(names) if names.ndim else 0)
    if keys is None:
        raise io.missing_keys(path, expected, io.array_names(path, expected))
    return keys


def bodies(
    pose: np.ndarray, betas: np.ndarray, there: np.ndarray | None = None, *, why_not: str = NO_BODY,
    keys: SampleKeys | None = None, body: str = "", rotations: np.ndarray | None = None,
    weak_camera: np.ndarray | None = None, translation_m: np.ndarray | None = None,
    camera_matrix: np.ndarray | None = None,
) -> StaticFits:  # fmt: skip
    """Return the rows, and a reason for each that has no body. `there`: where the file marks a body."""
    problems: dict[int, str] = {}
    with np.errstate(invalid="ignore"):
        numbers = np.concatenate([pose, betas], 1)
        finite = np.isfinite(numbers).all(1)
        if rotations is not None:
            finite &= np.isfinite(rotations).all((1, 2, 3))
        empty = ~numbers.any(1) if rotations is None else np.zeros(len(pose), bool)
    if keys is not None:
        placed = np.isfinite(keys.center_px).all(1) & np.isfinite(keys.scale) & (keys.scale > 0)
        problems |= dict.fromkeys(np.flatnonzero(~placed).tolist(), "its box has no area, or is not a number")
    problems |= dict.fromkeys(np.flatnonzero(~finite).tolist(), "its body is not a number")
    problems |= dict.fromkeys(np.flatnonzero(empty).tolist(), NO_BODY)
    if there is not None:
        problems |= dict.fromkeys(np.flatnonzero(~there).tolist(), why_not)
    valid = np.ones(len(pose), bool)
    valid[list(problems)] = False
    return StaticFits(
        pose, betas, valid, dict(sorted(problems.items())), keys, body, rotations, weak_camera, translation_m,
        camera_matrix,
    )  # fmt: skip
