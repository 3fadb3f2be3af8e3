"""Leeds Sports Pose in its original resolution: the first 1,000 images, which the field trains on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.readers.base import Option, Person, ReaderOptions, Rejected
from pipelines.readers.lsp.joints_mat import Sample, read_joints, read_samples, samples_in_parts

ABOUT = "Leeds Sports Pose, original resolution: 1,000 training images (Johnson and Everingham, 2010)"
OBTAIN = "sam.johnson.io/research/lsp.html: lsp_dataset_original.zip, free to download; for research"
VERSION = 1
OPTIONS: tuple[Option, ...] = ()
SPLITS = ("train",)
TREE = """\
ROOT/
  joints.mat                              MATLAB 5: 'joints' (3, 14, 2000), x, y and a flag; the first 1,000 are read
  images/im0001.jpg … im1000.jpg
  openpose/lsp/im0001_keypoints.json      optional: OpenPose BODY_25 detections, one file an image
"""
FIRST, LAST = 0, 1000


def parts(root: Path, options: ReaderOptions) -> Iterator[list[Sample]]:
    """Return lists of samples. Raise StageError if joints.mat is missing or isn't one."""
    joints = read_joints(root / "joints.mat", "lsp-orig")
    return samples_in_parts(samples(joints, FIRST, LAST))


def read(root: Path, part: list[Sample], options: ReaderOptions) -> Iterator[Person | Rejected]:
    """Yield the person of each image."""
    return read_samples(root, part, options, "lsp")


def samples(joints: np.ndarray, first: int, last: int) -> Iterator[Sample]:
    """Rows `first` to `last` - 1 with their images. The flag, 1 where a joint is hidden, is left alone: all joints are
    annotated, hidden ones by guess, and the published scripts trust them alike."""
    for row in range(first, min(last, len(joints))):
        yield Sample(
            image=f"images/im{row + 1:04d}.jpg",
            source=f"joints.mat {row + 1}",
            joints_px=joints[row, :, :2],
            annotated=np.ones(14, bool),
        )
