"""Leeds Sports Pose's test set, with masks and body parts as UPi-S1h has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipelines.readers.lsp.evaluation import FIRST, UPI_PARTS, UPI_UNDECIDED
from pipelines.synthetic.coco_world import write_detections
from pipelines.synthetic.layouts.stills import at_most, leeds_joints, subjects, write_joints
from pipelines.synthetic.layouts.truth import TruePerson, write_truth
from spin.body import load_body
from spin.rendering import Mesh, Scene

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from spin.body import BodyData
    from spin.world import Picture, World, WorldPerson

ABOUT = "Leeds Sports Pose, test set: joints.mat (MATLAB 5), images, UPi-S1h's masks and body parts, OpenPose detections"
LIMIT = 1000
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def write(out: Path, world: World, people: int, seed: int) -> None:
    """Write files as the data set, whose first 1,000 rows are the training set's: here they are zero and have no images."""
    at_most(people, LIMIT, "lsp")
    body = load_body()
    for folder in ("images", "data/lsp", "openpose/lsp"):
        (out / folder).mkdir(parents=True)
    joints = np.zeros((FIRST + people, 14, 3))
    truth = []
    # Alone in the picture: UPi-S1h's parts are those of one person.
    for row, (index, picture, person) in enumerate(subjects(world, people, seed, most=1, whole=True), FIRST):
        stem = f"im{row + 1:04d}"
        (out / "images" / f"{stem}.jpg").write_bytes(picture.jpeg())
        write_detections(out / "openpose" / "lsp", stem, picture, seed, index)
        _write_png(out / "data" / "lsp" / f"{stem}_segmentation.png", np.where(person.mask, 255, 0))
        _write_png(out / "data" / "lsp" / f"{stem}_part_segmentation.png", part_labels(body, picture, person))
        joints[row] = leeds_joints(person, seen=0, hidden=1)
        truth.append(TruePerson(f"images/{stem}.jpg", 0, person))
    write_joints(out / "joints.mat", joints.transpose(2, 1, 0))
    write_truth(out, truth)


def part_labels(body: BodyData, picture: Picture, person: WorldPerson) -> UInt8[np.ndarray, "H W"]:
    """Return UPi-S1h's label of the surface at each pixel's centre; undecided at the outline."""
    scene = Scene([Mesh(person.vertices_cam_m, np.asarray(body.faces, np.int32))])
    hits = scene.cast(picture.camera)
    label_of_part = np.array([1 + UPI_PARTS.index(name) for name in body.part_names], np.uint8)
    corner = hits.barycentric[hits.any].argmax(1)
    nearest = np.asarray(body.faces)[hits.face[hits.any], corner]
    labels = np.zeros(person.mask.shape, np.uint8)
    labels[hits.any] = label_of_part[body.vertex_part[nearest]]
    inside = cv2.erode(person.mask.astype(np.uint8), _CROSS) > 0
    labels[~inside] = 0
    labels[person.mask & ~inside] = UPI_UNDECIDED
    return labels


def _write_png(path: Path, picture: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", picture.astype(np.uint8))[1].tobytes())
