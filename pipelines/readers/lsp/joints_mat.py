"""What the Leeds Sports Pose data sets have in common: joints.mat, 14 joints in the superset's order, a box around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import Person, ReaderOptions, Rejected
from pipelines.readers.formats.cdf_matlab import read_mat5_array
from pipelines.readers.openpose import detections_folder, match_image
from spin.crop import box_to_center_scale
from spin.joints import JOINTS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

SAMPLES_A_PART = 250
_JOINTS = 14
_LIMB_JOINTS = 12  # the first twelve: legs and arms; then neck and top of the head
_FARTHEST_PX = 1e6  # no image is larger
_LARGEST_BYTES = 256 << 20


@dataclass(frozen=True)
class Sample:
    """An image and its row of joints.mat: x and y of the 14 joints, and whether each was annotated."""

    image: str
    source: str
    joints_px: Float[np.ndarray, "14 2"]
    annotated: Bool[np.ndarray, " 14"]


def read_joints(path: Path, name: str) -> Float[np.ndarray, "N 14 3"]:
    """Return x, y and flag of all people. LSP has (3, 14, N), its extended set (14, 3, N); both are recognised.

    Raise StageError if there is no such file, or it isn't one.
    """
    if not path.is_file():
        raise StageError(f"{path}: no such file; `spin-pipe preprocess {name} --help` shows the layout expected")
    if path.stat().st_size > _LARGEST_BYTES:
        raise StageError(f"{path}: not a MATLAB 5 file with 'joints' (it is far larger than the data set's)")
    joints = read_mat5_array(path, "joints")
    if joints.ndim == 2:
        joints = joints[..., None]  # one person: MATLAB drops the last axis
    if joints.ndim != 3 or sorted(joints.shape[:2]) != [3, _JOINTS]:
        raise StageError(f"{path}: 'joints' is {joints.shape}; expected numbers, (3, 14, N) or (14, 3, N)")
    order = (2, 1, 0) if joints.shape[0] == 3 else (2, 0, 1)
    return joints.transpose(order)


def samples_in_parts(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    every = list(samples)
    for first in range(0, len(every), SAMPLES_A_PART):
        yield every[first : first + SAMPLES_A_PART]


def read_samples(
    root: Path, samples: list[Sample], options: ReaderOptions, *openpose_names: str
) -> Iterator[Person | Rejected]:
    """Yield a person for each sample. All annotated joints have confidence 1, hidden ones too, as published.

    The box is published: the square around the joints, enlarged by 1.2. Pixels are the file's own, sub-pixel and all.
    """
    openpose = detections_folder(root, options, *openpose_names)
    for sample in samples:
        problem = _problem(sample, options.min_body_joints)
        if problem:
            yield Rejected(sample.source, sample.image, problem)
            continue
        seen = sample.joints_px[sample.annotated]
        low, high = seen.min(0), seen.max(0)
        center, scale = box_to_center_scale(np.concatenate([low, high - low]))
        keypoints = np.zeros((JOINTS.count, 3), np.float32)
        keypoints[np.array(JOINTS.lsp)[sample.annotated]] = np.c_[seen, np.ones(len(seen))]
        match = match_image(openpose, sample.image, keypoints[JOINTS.superset][None], np.array([200 * scale]))[0]
        keypoints[JOINTS.openpose] = match.keypoints_px
        yield Person(
            image=sample.image,
            center_px=center,
            scale=scale,
            keypoints_px=keypoints,
            source=sample.source,
            openpose_match=match.reason,
        )


def _problem(sample: Sample, min_body_joints: int) -> str:
    seen = sample.joints_px[sample.annotated]
    if not (np.abs(seen) < _FARTHEST_PX).all():
        return "a joint is not a number of pixels"
    limbs = int(sample.annotated[:_LIMB_JOINTS].sum())
    if limbs < min_body_joints:
        return f"{limbs} of 12 body joints annotated, {min_body_joints} asked for (--min-body-joints)"
    if len(seen) < 2 or np.ptp(seen, axis=0).max() < 1:
        return "its joints span no pixel: there is no box around them"
    return ""
