"""The published multi-view fits of MPI-INF-3DHP, and which frames they belong to.

`mpi-inf-3dhp_mview_fits.npz` holds pose, shape and has_smpl, a row for each row of the published `mpi_inf_3dhp_train.npz`, and
says nothing else. Which frame a row is, is known

1. from the names in that file, if it is in the data folder's dataset_extras/, where the published download puts it; or else
2. by counting as the published script does: through sequences, cameras and frames, people all of whose joints lie in the
   picture are counted, and the 1st, 11th, 21st, … are its rows. That holds if the script saw the frames in order, and if all
   of the data set is there, so the counts must agree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.mpi_inf_3dhp.files import (
    SEQUENCES,
    SIZE_PX,
    VIDEOS,
    Sequence,
    inside,
    read_calibration,
    read_joints,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

FITS = Path("static_fits") / "mpi-inf-3dhp_mview_fits.npz"
ROWS = Path("dataset_extras") / "mpi_inf_3dhp_train.npz"
STRIDE = 10
_IMAGE = re.compile(r"S(\d)/Seq(\d)/imageFrames/video_(\d{1,2})/frame_(\d{6})\.jpg")


@dataclass(frozen=True)
class Rows:
    """Rows of the published data set: camera and frame (from 0) of each, and its body, where one is known."""

    video: Int[np.ndarray, " n"]
    frame: Int[np.ndarray, " n"]
    pose_aa: Float[np.ndarray, "n 72"]
    betas: Float[np.ndarray, "n 10"]
    known: Bool[np.ndarray, " n"]


def published_rows(root: Path, fits: Path, names: Path) -> dict[Sequence, Rows]:
    """Return the published rows of each sequence. Raise StageError if fits and rows don't belong together."""
    pose, betas, known = _read_fits(fits)
    places = _named(names) if names.is_file() else _counted(root)
    if len(places) != len(pose):
        source = f"{names} has" if names.is_file() else f"counting through {root} finds"
        raise StageError(
            f"{fits}: {len(pose)} fits, but {source} {len(places)} rows, so it isn't known whose they are; "
            f"put the published {ROWS.name} into {names.parent}, or give --without-fits"
        )
    subject, number, video, frame = places.T
    out = {}
    for sequence in SEQUENCES:
        rows = np.flatnonzero((subject == sequence.subject) & (number == sequence.number))
        out[sequence] = Rows(video[rows], frame[rows], pose[rows], betas[rows], known[rows])
    return out


def _read_fits(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            pose, betas = (np.asarray(content[key], np.float32) for key in ("pose", "shape"))
            known = np.asarray(content["has_smpl"]).astype(bool)
    except Exception as error:  # damaged archives make numpy raise nearly anything
        raise StageError(f"{path}: not a file of fits with pose, shape and has_smpl ({error})") from error
    count = len(pose) if pose.ndim else 0
    if pose.shape != (count, 72) or betas.shape != (count, 10) or known.shape != (count,):
        raise StageError(
            f"{path}: shapes {pose.shape}, {betas.shape} and {known.shape} of pose, shape and has_smpl, "
            "expected (N, 72), (N, 10) and (N)"
        )
    return pose, betas, known & np.isfinite(pose).all(1) & np.isfinite(betas).all(1)


def _named(path: Path) -> Int[np.ndarray, "n 4"]:
    """Return subject, sequence, camera and frame (from 0) of the published rows, by their names."""
    try:
        with np.load(path, allow_pickle=False) as content:
            names = [str(name) for name in np.asarray(content["imgname"])]
    except Exception as error:  # damaged archives make numpy raise nearly anything
        raise StageError(f"{path}: not a data set with imgname ({error})") from error
    found = [_IMAGE.fullmatch(name) for name in names]
    if not all(found):
        raise StageError(f"{path}: {names[found.index(None)]!r:.80} is not a picture of MPI-INF-3DHP's")
    places = np.array([match.groups() for match in found if match], np.int64).reshape(-1, 4)
    return places - [0, 0, 0, 1]


def _counted(root: Path) -> Int[np.ndarray, "n 4"]:
    """Return the same, by counting."""
    out: list[tuple[int, int, int, int]] = []
    counted = 0
    for sequence in SEQUENCES:
        folder = root / sequence.folder
        if not (folder / "annot.mat").is_file():
            continue
        try:
            (keypoints,) = read_joints(folder / "annot.mat", "annot2")
        except StageError as error:
            raise StageError(
                f"{error}; without it the published fits can't be assigned: put the published {ROWS.name} "
                f"into dataset_extras/ of the data folder, or give --without-fits"
            ) from error
        sizes = _sizes(folder / "camera.calibration")
        for video in VIDEOS:
            usable = np.flatnonzero(inside(keypoints[video], sizes[video]).all(1))
            kept = usable[-counted % STRIDE :: STRIDE]
            counted += len(usable)
            out += [(sequence.subject, sequence.number, video, int(frame)) for frame in kept]
    return np.array(out, np.int64).reshape(-1, 4)


def _sizes(calibration: Path) -> dict[int, tuple[int, int]]:
    try:
        return {video: camera.size_px for video, camera in read_calibration(calibration).items()}
    except StageError:  # reported where its people are read
        return dict.fromkeys(VIDEOS, SIZE_PX)
