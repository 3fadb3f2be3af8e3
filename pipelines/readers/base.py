"""What a reader yields, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float


@dataclass(frozen=True)
class Truth:
    """What is truly known of a person's body, in the camera's frame; metres and radians."""

    pose_aa: Float[np.ndarray, "72"]
    betas: Float[np.ndarray, "10"]
    joints3d_m: Float[np.ndarray, "24 4"]  # SPIN's S: superset joints and confidence
    joints17_m: Float[np.ndarray, "17 3"]  # Human3.6M's
    body: str  # fingerprint of the body that pose and betas belong to


@dataclass(frozen=True)
class Person:
    """One person of a data set. Keypoints in pixels of the image, confidences in [0, 1]."""

    image: str  # relative to the root, forward slashes
    center_px: Float[np.ndarray, "2"]
    scale: float
    keypoints_px: Float[np.ndarray, "49 3"]
    source: str  # how the data set itself names this person
    openpose_match: str = ""  # why no OpenPose detection belongs to it, or ''
    truth: Truth | None = None


@dataclass(frozen=True)
class Refused:
    """A person that can't be used, and why. Counted and listed, never dropped in silence."""

    source: str
    image: str
    reason: str


@dataclass(frozen=True)
class ReaderOptions:
    split: str
    min_body_joints: int
    openpose: Path | None = None


# Confidence of OpenPose's detections that are not there.
NO_OPENPOSE = np.zeros((25, 3), np.float32)
