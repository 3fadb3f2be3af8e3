"""Leeds Sports Pose, original resolution: joints.mat and images of its training people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.synthetic.coco_world import write_detections
from pipelines.synthetic.layouts.stills import at_most, leeds_joints, subjects, write_joints
from pipelines.synthetic.layouts.truth import TruePerson, write_truth

if TYPE_CHECKING:
    from spin.world import World

ABOUT = "Leeds Sports Pose, original resolution: joints.mat (MATLAB 5), images, OpenPose detections"
LIMIT = 1000


def write(out: Path, world: World, people: int, seed: int) -> None:
    """Write files as the data set: one person an image annotated, all 14 joints; the flag is 1 if hidden."""
    at_most(people, LIMIT, "lsp-orig")
    (out / "images").mkdir()
    (out / "openpose" / "lsp").mkdir(parents=True)
    joints, truth = [], []
    for number, (index, picture, person) in enumerate(subjects(world, people, seed, whole=True), 1):
        stem = f"im{number:04d}"
        (out / "images" / f"{stem}.jpg").write_bytes(picture.jpeg())
        write_detections(out / "openpose" / "lsp", stem, picture, seed, index)
        joints.append(leeds_joints(person, seen=0, hidden=1))
        truth.append(TruePerson(f"images/{stem}.jpg", 0, person))
    write_joints(out / "joints.mat", np.stack(joints).transpose(2, 1, 0))
    write_truth(out, truth)
