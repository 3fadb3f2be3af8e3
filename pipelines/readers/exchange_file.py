"""Annotations that another program wrote: SPIN's data set .npz, or 4D-Humans'. Read by `spin-pipe import-annotations`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import SMPL, Note, Option, Person, ReaderOptions, Rejected, Truth
from spin.joints import JOINTS
from store.annotations.schema import GENDERS
from store.errors import ExchangeError
from store.exchange import SampleRows, read_samples_file

ABOUT = "Annotations that SPIN's or 4D-Humans' preprocessing wrote, as .npz"
OBTAIN = "whoever preprocessed the data set"
VERSION = 1
SPLITS = ("all",)
TREE = """\
ROOT/
  images, where the file's imgname says, relative to ROOT
"""
OPTIONS: tuple[Option, ...] = (
    Option("file", "file", "The .npz file."),
    Option("body", "text", "Whose bodies the file holds, if it doesn't say.", SMPL),
)
_ROWS_A_PART = 2000


def parts(root: Path, options: ReaderOptions) -> list[tuple[int, int]]:
    """Return ranges of rows. Raise StageError if the file is of no known format or has no rows."""
    count = len(_rows(options))
    if not count:
        raise StageError(f"{options.extra['file']}: has no rows")
    return [(first, min(first + _ROWS_A_PART, count)) for first in range(0, count, _ROWS_A_PART)]


def read(root: Path, part: tuple[int, int], options: ReaderOptions) -> Iterator[Person | Rejected | Note]:
    """Yield all people in those rows."""
    rows = _rows(options)
    if rows.poses_alone and part[0] == 0:
        yield Note("poses without betas, which are no bodies and not used", rows.poses_alone)
    body = rows.body or str(options.extra["body"])
    body = SMPL if body.startswith(SMPL) else body
    for row in range(*part):
        source = f"{Path(options.extra['file']).name}: row {row}"
        problem = _problem(rows, row)
        image = _relative(rows.image[row], root)
        if problem or not image:
            yield Rejected(source, rows.image[row], problem or "its image is not a path below the root")
        else:
            yield _person(rows, row, source, image, body)


def _person(rows: SampleRows, row: int, source: str, image: str, body: str) -> Person:
    keypoints = rows.keypoints_px[row]
    joints = None
    if rows.joints3d_m is not None and rows.joints3d_m[row, :, 3].any():
        joints = rows.joints3d_m[row]
    known = bool(rows.has_smpl[row]) and rows.pose is not None and rows.betas is not None
    truth = None
    if known or joints is not None:
        pose, betas = (rows.pose[row], rows.betas[row]) if known else (None, None)  # type: ignore[index]
        truth = Truth(pose, betas, body, joints)
    return Person(
        image=image,
        center_px=rows.center_px[row],
        scale=float(rows.scale[row]),
        keypoints_px=keypoints,
        source=source,
        openpose_match="" if keypoints[JOINTS.openpose, 2].any() else "none in the file",
        truth=truth,
        gender=rows.gender[row],
        mask=rows.mask[row],
        part=rows.part[row],
    )


def _problem(rows: SampleRows, row: int) -> str:
    box = np.array([*rows.center_px[row], rows.scale[row]])
    if not np.isfinite(box).all() or box[2] <= 0:
        return "its box has no area, or is not a number"
    keypoints = rows.keypoints_px[row]
    if not np.isfinite(keypoints).all():
        return "a keypoint is not a number"
    if keypoints[:, 2].min() < 0 or keypoints[:, 2].max() > 1:
        return "a keypoint's confidence is outside 0..1"
    if rows.gender[row] not in GENDERS:
        return f"gender is {rows.gender[row][:20]!r}, expected m, f, n or nothing"
    joints = rows.joints3d_m[row, :, 3] if rows.joints3d_m is not None else np.zeros(1)
    if not ((joints >= 0) & (joints <= 1)).all():
        return "a confidence of S is outside 0..1"
    return ""


def _relative(image: str, root: Path) -> str:
    """Return the image below the root, with forward slashes; '' if it is elsewhere."""
    path = PurePosixPath(image.replace("\\", "/"))
    if path.is_absolute():
        try:
            path = path.relative_to(PurePosixPath(root.resolve().as_posix()))
        except ValueError:
            return ""
    return "" if ".." in path.parts or not path.parts or "\0" in image else path.as_posix()


def _rows(options: ReaderOptions) -> SampleRows:
    file = Path(options.extra["file"])
    try:
        changed = file.stat().st_mtime_ns
    except OSError:
        changed = 0
    return _read(file, changed)


@lru_cache(maxsize=1)
def _read(file: Path, changed: int) -> SampleRows:
    """Read the file once a process, not once a part."""
    try:
        return read_samples_file(file)
    except ExchangeError as error:
        raise StageError(str(error)) from error
