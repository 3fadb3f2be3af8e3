"""The test set of MPI-INF-3DHP: six people, two of them outdoors; 3D joints of the data set's universal skeleton."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.errors import StageError
from pipelines.readers.base import NO_OPENPOSE, Person, Rejected
from pipelines.readers.formats.cdf_matlab import of_mat73, open_mat73
from pipelines.readers.mpi_inf_3dhp.files import inside
from pipelines.readers.studio_common import (
    annotated_17,
    around,
    joints_problem,
    truth_17,
)
from spin.crop import BOX_MARGIN

FOLDER = "mpi_inf_3dhp_test_set"
_SUBJECTS = range(1, 7)
# Human3.6M's 17 among the test set's 17.
OF_SKELETON = (14, 11, 12, 13, 8, 9, 10, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4)


@dataclass(frozen=True)
class Part:
    """The recording of one subject, TS1 to TS6."""

    subject: int

    @property
    def folder(self) -> str:
        return f"{FOLDER}/TS{self.subject}"


def parts(root: Path) -> list[Part]:
    """Return each recording. Raise StageError if there is none."""
    found = [Part(subject) for subject in _SUBJECTS]
    if not any((root / part.folder / "annot_data.mat").is_file() for part in found):
        raise StageError(
            f"{root / FOLDER}: no TS1/annot_data.mat, nor that of another subject; "
            "`spin-pipe preprocess mpi-inf-3dhp-valid --help` shows the layout expected"
        )
    return found


def read(root: Path, part: Part) -> Iterator[Person | Rejected]:
    """Yield the frames that the data set itself calls valid, as published.

    What is wrong with the file rejects the recording.
    """
    try:
        keypoints_px, joints_mm, valid = _annotation(root / part.folder / "annot_data.mat")
    except StageError as error:
        yield Rejected(part.folder, "", str(error))
        return
    for frame in np.flatnonzero(valid):
        image = f"{part.folder}/imageSequence/img_{frame + 1:06d}.jpg"
        source = f"TS{part.subject} frame {frame + 1}"
        yield _person(root, image, source, keypoints_px[frame], joints_mm[frame] / 1000)


def _person(root: Path, image: str, source: str, keypoints_px: np.ndarray, joints_m: np.ndarray) -> Person | Rejected:
    problem = joints_problem(joints_m, keypoints_px)
    if problem:
        return Rejected(source, image, problem)
    center, scale = around(keypoints_px, BOX_MARGIN)
    size = _size_px(root / image)
    # A picture without a size is reported where pictures are checked.
    outside = 17 - int(inside(keypoints_px, size).sum()) if size else 0
    if outside or scale <= 0:
        why = f"{outside} of 17 joints are outside the picture" if outside else "its keypoints span no box"
        return Rejected(source, image, why)
    return Person(
        image=image,
        center_px=center,
        scale=scale,
        keypoints_px=np.concatenate([NO_OPENPOSE, annotated_17(keypoints_px)]),
        source=source,
        openpose_match="no OpenPose file",
        truth=truth_17(joints_m),
    )


def _size_px(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # a damaged header can make Pillow raise nearly anything
        return None


def _annotation(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return keypoints (T, 17, 2) px, joints (T, 17, 3) mm in the camera's axes, and which frames are valid (T)."""
    with open_mat73(path) as file:
        arrays = {}
        for name in ("annot2", "univ_annot3", "valid_frame"):
            variable = of_mat73(path, file, name)
            try:
                arrays[name] = np.asarray(variable, np.float64)
            except Exception as error:  # a damaged file can raise nearly anything
                raise StageError(f"{path}: {name!r} can't be read ({type(error).__name__})") from error
    valid = arrays["valid_frame"].ravel() != 0
    for name, dimensions in (("annot2", 2), ("univ_annot3", 3)):
        if arrays[name].shape != (len(valid), 1, 17, dimensions):
            raise StageError(f"{path}: {name!r} has shape {arrays[name].shape}, expected ({len(valid)}, 1, 17, {dimensions})")
    return arrays["annot2"][:, 0, OF_SKELETON], arrays["univ_annot3"][:, 0, OF_SKELETON], valid
