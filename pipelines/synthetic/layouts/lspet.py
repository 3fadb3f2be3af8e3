"""HR-LSPET: joints.mat and PNG images, of which some numbers are missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipelines.synthetic.coco_world import write_detections
from pipelines.synthetic.layouts.stills import at_most, leeds_joints, subjects, write_joints
from pipelines.synthetic.layouts.truth import TruePerson, write_truth

if TYPE_CHECKING:
    from spin.world import World

ABOUT = "HR-LSPET: joints.mat (MATLAB 5), images, OpenPose detections"
LIMIT = 9000
_LEFT_OUT = 10  # every tenth number has no image and no row, as in the data set one in seventeen


def write(out: Path, world: World, people: int, seed: int) -> None:
    """Write files as the data set: one person an image; joints outside the image are at (0, 0); the flag is 1 if seen."""
    at_most(people, LIMIT, "lspet")
    (out / "openpose" / "hrlspet").mkdir(parents=True)
    joints, truth = [], []
    for row, (index, picture, person) in enumerate(subjects(world, people, seed)):
        stem = f"im{1 + row + row // (_LEFT_OUT - 1):05d}"
        (out / f"{stem}.png").write_bytes(cv2.imencode(".png", picture.image[..., ::-1])[1].tobytes())
        write_detections(out / "openpose" / "hrlspet", stem, picture, seed, index)
        joints.append(leeds_joints(person, seen=1, hidden=0))
        truth.append(TruePerson(f"{stem}.png", 0, person))
    write_joints(out / "joints.mat", np.stack(joints).transpose(1, 2, 0))
    write_truth(out, truth)
