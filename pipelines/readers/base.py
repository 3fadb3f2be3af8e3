"""What a reader yields, and its options."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

SMPL = "SMPL"
"""`Truth.body` of data sets whose bodies are SMPL's."""


@dataclass(frozen=True)
class Truth:
    """What is truly known of a person's body, in the camera's frame; metres and radians. None where it is not known."""

    pose_aa: Float[np.ndarray, "72"] | None = None
    betas: Float[np.ndarray, "10"] | None = None
    body: str = SMPL  # whose pose and betas these are: SMPL's, or those of the body with this fingerprint
    joints3d_m: Float[np.ndarray, "24 4"] | None = None  # SPIN's S: superset joints and confidence
    joints17_m: Float[np.ndarray, "17 3"] | None = None  # Human3.6M's


@dataclass(frozen=True)
class Camera:
    """The image's own pinhole camera."""

    focal_px: float
    principal_px: Float[np.ndarray, "2"]


@dataclass(frozen=True)
class View:
    """Where a calibrated camera stands: p_camera = rotation p_world + translation_m. Views of one pose share `pose_id`."""

    rotation: Float[np.ndarray, "3 3"]
    translation_m: Float[np.ndarray, "3"]
    pose_id: str = ""


@dataclass(frozen=True)
class Person:
    """One person of a data set. Keypoints in pixels of the image, confidences in [0, 1]."""

    image: str  # relative to the root, forward slashes
    center_px: Float[np.ndarray, "2"]
    scale: float
    keypoints_px: Float[np.ndarray, "49 3"]
    source: str  # how the data set itself names this person: file and row, or the data set's own id
    openpose_match: str = ""  # why no OpenPose detection belongs to it, or ''
    truth: Truth | None = None
    gender: str = ""  # of the body that the truth belongs to: female, male, neutral, or '' if not known
    camera: Camera | None = None
    view: View | None = None  # needs a camera
    mask: str = ""  # picture of the person's true mask, relative to the root
    part: str = ""  # picture of the true body parts, relative to the root
    image_size_px: tuple[float, float] | None = None  # upright, as the source gives it
    row: int = -1  # its place in the source file, whose order samples keep; -1: they are read in that order


@dataclass(frozen=True)
class Rejected:
    """A person that can't be used, and why. Counted and listed, never dropped in silence."""

    source: str
    image: str
    reason: str


@dataclass(frozen=True)
class Note:
    """What is worth knowing of a person or a file, and is no reason to reject it: counted and printed, as "3 <text>"."""

    text: str
    count: int = 1


@dataclass(frozen=True)
class Option:
    """A setting of one reader alone: `spin-pipe preprocess READER --name VALUE`, found in `ReaderOptions.extra`.

    `kind` is "flag", "file", "folder", "text" or "number".
    """

    name: str  # with underscores, as in `extra`
    kind: str
    help: str
    default: Any = None


@dataclass(frozen=True)
class ReaderOptions:
    """`openpose`: a folder of detections that is elsewhere. `data`: the data folder, for files that are kept there."""

    split: str
    min_body_joints: int = 12
    openpose: Path | None = None
    data: Path = Path("data")
    extra: Mapping[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """A module of this package.

    `parts` cuts the work into pieces that are read independently, by several processes: files, sequences, or lists of
    annotations; it may be a generator, and what it yields can be pickled. All people of an image are in one part. `read`
    yields the people of one part. Both raise StageError, naming the file, only if nothing of it can be used.

    Samples are in the order of the source file, as published fits are: a reader that reads image by image numbers its people
    (`Person.row`).
    """

    ABOUT: str  # a line: the data set, and whose it is
    OBTAIN: str  # where it is obtained, and under which terms
    SPLITS: tuple[str, ...]  # the first is the default
    TREE: str  # the folders and files expected
    VERSION: int  # of the reader: raised when it reads the same files differently
    OPTIONS: tuple[Option, ...]

    def parts(self, root: Path, options: ReaderOptions) -> Iterable[Any]: ...

    def read(self, root: Path, part: Any, options: ReaderOptions) -> Iterator[Person | Rejected | Note]: ...


# Confidence of OpenPose's detections that are not there.
NO_OPENPOSE = np.zeros((25, 3), np.float32)


def body_of(root: Path) -> str:
    """Return whose pose and betas a data set's folder holds: SMPL's, unless `spin-pipe synth` made it with another body."""
    try:
        return str(json.loads((root / "synth.json").read_text())["settings"]["body"])
    except (OSError, ValueError, KeyError, TypeError):
        return SMPL
