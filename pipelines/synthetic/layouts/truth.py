"""What is true of the people of a made-up raw tree, to compare with what a reader finds in it."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spin.joints import JOINTS
from store.files.atomic import write_file

if TYPE_CHECKING:
    from spin.world import WorldPerson


@dataclass(frozen=True)
class TruePerson:
    """A person and where they are to be found: the image as the reader is to name it, and a number within the image."""

    image: str
    number: int
    person: WorldPerson


def write_truth(out: Path, people: list[TruePerson]) -> None:
    """OUT/truth.npz, a row a person.

    image, number; keypoints_px (49, 2) and visibility (49) in the image; pose (72, rad), betas (10); S (24, 4) and
    joints17_m (17, 3), metres, in the camera's axes, relative to the body's pelvis; pelvis_cam_m (3).
    """
    world = [p.person for p in people]
    arrays = {
        "image": np.array([p.image for p in people]),
        "number": np.array([p.number for p in people]),
        "keypoints_px": np.stack([p.keypoints_px for p in world]),
        "visibility": np.stack([p.visibility for p in world]),
        "pose": np.stack([p.pose_aa for p in world]),
        "betas": np.stack([p.betas for p in world]),
        "S": np.stack([np.c_[p.keypoints_cam_m[JOINTS.superset] - p.pelvis_cam_m, np.ones(24)] for p in world]),
        "joints17_m": np.stack([p.joints17_cam_m - p.pelvis_cam_m for p in world]),
        "pelvis_cam_m": np.stack([p.pelvis_cam_m for p in world]),
    }
    handle = BytesIO()
    np.savez(handle, allow_pickle=False, **arrays)
    write_file(out / "truth.npz", handle.getvalue())
