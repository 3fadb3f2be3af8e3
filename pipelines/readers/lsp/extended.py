"""The extended training set of Leeds Sports Pose, in high resolution (HR-LSPET)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import Option, Person, ReaderOptions, Rejected
from pipelines.readers.lsp.joints_mat import Sample, read_joints, read_samples, samples_in_parts

ABOUT = "HR-LSPET: Leeds Sports Pose's extended training set in high resolution (Johnson and Everingham, 2011)"
OBTAIN = "datasets.d2.mpi-inf.mpg.de/hr-lspet/hr-lspet.zip, free to download; for research"
VERSION = 2
OPTIONS: tuple[Option, ...] = ()
SPLITS = ("train",)
TREE = """\
ROOT/
  joints.mat                                MATLAB 5: 'joints' (14, 3, N), x, y and a flag, a column an image
  im00001.png …                             up to im10000.png; not every number need be there
  openpose/hrlspet/im00001_keypoints.json   optional: OpenPose BODY_25 detections, one file an image
"""
_NAME = re.compile(r"im(\d{5})\.png")


def parts(root: Path, options: ReaderOptions) -> Iterator[list[Sample]]:
    """Return lists of samples.

    Raise StageError if joints.mat is missing or isn't one, or if images and joints don't belong together.
    """
    joints = read_joints(root / "joints.mat", "lspet")
    rows = _rows(root, len(joints))
    return samples_in_parts(_sample(number, row, joints[row]) for number, row in rows.items())


def read(root: Path, part: list[Sample], options: ReaderOptions) -> Iterator[Person | Rejected]:
    """Yield the person of each image."""
    return read_samples(root, part, options, "hrlspet")


def _rows(root: Path, people: int) -> dict[int, int]:
    """Return the row of joints.mat of each image, by the image's number.

    Not all 10,000 images are in the high-resolution set, and joints.mat has rows for those that are, in order: the
    published script counts files. Where there is a row for every number, the number is the row.
    """
    found = (_NAME.fullmatch(path.name) for path in root.iterdir())
    numbers = sorted(int(match[1]) for match in found if match)
    if not numbers:
        raise StageError(f"{root}: no im00001.png; `spin-pipe preprocess lspet --help` shows the layout expected")
    if len(numbers) == people:
        return {number: row for row, number in enumerate(numbers)}
    if numbers[0] >= 1 and numbers[-1] <= people:
        return {number: number - 1 for number in numbers}
    raise StageError(
        f"{root}: {len(numbers)} images up to im{numbers[-1]:05d}.png, but joints.mat has {people} people, so the joints of an "
        "image can't be found; unpack the archive again"
    )


def _sample(number: int, row: int, joints: np.ndarray) -> Sample:
    """Who was annotated by workers on the web may lack joints: such a one is at (0, 0), or at a negative x or y.

    The published script takes them for joints, and boxes reach to the corner of the image.
    """
    xy = joints[:, :2]
    return Sample(
        image=f"im{number:05d}.png",
        source=f"joints.mat {row + 1}",
        joints_px=xy,
        annotated=xy.max(1) > 0,  # nor is one that is not a number
    )
