"""COCO 2014 person keypoints, training split: as precise as its whole pixels can be, unlike `spin-pipe synth` by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.synthetic.coco_format import coco_annotation, coco_image, document
from pipelines.synthetic.coco_world import TRAIN, WORLD_VERSION, write_detections
from pipelines.synthetic.layouts.truth import TruePerson, write_truth
from store.files.atomic import write_file

if TYPE_CHECKING:
    from spin.world import World

ABOUT = "COCO 2014 person keypoints: JSON, images, OpenPose detections"


def write(out: Path, world: World, people: int, seed: int) -> None:
    """Write files as the data set. `number` of the truth is the annotation's id."""
    for folder in (TRAIN, "annotations", "openpose/coco"):
        (out / folder).mkdir(parents=True)
    images, annotations = [], []
    truth: list[TruePerson] = []
    index = 0
    while len(truth) < people:
        picture = world.picture(seed, index)
        stem = f"COCO_{TRAIN}_{index + 1:012d}"
        (out / TRAIN / f"{stem}.jpg").write_bytes(picture.jpeg())
        write_detections(out / "openpose" / "coco", stem, picture, seed, index)
        images.append(coco_image(picture, index + 1, f"{stem}.jpg"))
        for number, person in enumerate(picture.people):
            annotation = coco_annotation(np.random.default_rng(0), picture, person, index + 1, number, annotator_px=0)
            annotations.append(annotation)
            truth.append(TruePerson(f"{TRAIN}/{stem}.jpg", annotation["id"], person))
        index += 1
    content = document(images, annotations, f"spin-pipe's synthetic people, seed {seed}", WORLD_VERSION)
    path = out / "annotations" / f"person_keypoints_{TRAIN}.json"
    write_file(path, (json.dumps(content) + "\n").encode())
    write_truth(out, truth)
