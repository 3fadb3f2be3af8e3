"""COCO person keypoints (2014 layout). People with too few body joints are set aside, as published: all twelve by default."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.failures import StageError
from pipelines.readers.base import NO_OPENPOSE, Person, ReaderOptions, Refused, Truth
from pipelines.readers.openpose import match_people, read_detections
from spin.crop import box_to_center_scale
from spin.joints import JOINTS

ABOUT = "COCO 2014 person keypoints, or any data set in its format (cocodataset.org)"
SPLITS = ("train2014", "val2014", "train2017", "val2017")
TREE = """\
ROOT/
  annotations/person_keypoints_SPLIT.json   SPLIT: train2014 (default), val2014, train2017, val2017
  SPLIT/*.jpg
  openpose/SPLIT/NAME_keypoints.json        optional: OpenPose BODY_25 detections, one file an image
  truth/SPLIT.npz                           optional: true bodies, as `spin-pipe synth` writes them
"""
_FIRST_BODY_JOINT = 5  # COCO's first five keypoints are of the face


def read(root: Path, options: ReaderOptions) -> Iterator[Person | Refused]:
    """Every annotated person, in the file's order. StageError if the annotation file is missing or not COCO's."""
    path = root / "annotations" / f"person_keypoints_{options.split}.json"
    images, by_image = _load(path)
    openpose = options.openpose or root / "openpose" / options.split
    truths = _load_truth(root / "truth" / f"{options.split}.npz")
    for image_id, people in by_image.items():
        image = f"{options.split}/{images[image_id]}"
        readable: list[tuple[dict[str, Any], np.ndarray]] = []
        for annotation in people:
            outcome = _keypoints(annotation, options.min_body_joints)
            if isinstance(outcome, str):
                yield Refused(_name(annotation), image, outcome)
            else:
                readable.append((annotation, outcome))
        if readable:
            yield from _people(image, readable, openpose, truths)


def _people(
    image: str, readable: list[tuple[dict[str, Any], np.ndarray]], openpose: Path, truths: dict[int, Truth]
) -> Iterator[Person]:
    boxes = [box_to_center_scale(np.asarray(a["bbox"], float)) for a, _ in readable]
    part = np.zeros((len(readable), 24, 3), np.float32)
    for row, (_, keypoints) in enumerate(readable):
        part[row, [k - JOINTS.superset.start for k in JOINTS.coco]] = keypoints
    detected = [NO_OPENPOSE] * len(readable)
    reasons = ["no OpenPose file"] * len(readable)
    file = openpose / f"{Path(image).stem}_keypoints.json"
    if file.is_file():
        try:
            matches = match_people(part, np.array([200 * s for _, s in boxes]), read_detections(file))
            detected, reasons = [m.keypoints_px for m in matches], [m.reason for m in matches]
        except StageError as error:
            # The annotation itself is good: the person stays, and says why it has no detection.
            reasons = [str(error)] * len(readable)
    for row, (annotation, _) in enumerate(readable):
        yield Person(
            image=image,
            center_px=boxes[row][0],
            scale=boxes[row][1],
            keypoints_px=np.concatenate([detected[row], part[row]]),
            source=_name(annotation),
            openpose_match=reasons[row],
            truth=truths.get(annotation.get("id", -1)),
        )


def _keypoints(annotation: dict[str, Any], min_body_joints: int) -> np.ndarray | str:
    """COCO's 17 keypoints with visibility as 0 or 1, or why they can't be used."""
    try:
        keypoints = np.asarray(annotation["keypoints"], np.float32).reshape(17, 3).copy()
        box = np.asarray(annotation["bbox"], np.float64).reshape(4)
    except KeyError as missing:
        return f"has no {missing}"
    except (ValueError, TypeError):
        return "'keypoints' is not 17 × 3 numbers, or 'bbox' not 4"
    if annotation.get("iscrowd"):
        return "is a crowd, not a person"
    if not np.isfinite(keypoints).all():
        return "a keypoint is not a number"
    if not (np.isfinite(box).all() and max(box[2:]) > 0):
        return f"box {box.tolist()} has no area"
    keypoints[:, 2] = keypoints[:, 2] > 0
    keypoints[keypoints[:, 2] == 0, :2] = 0
    seen = int(keypoints[_FIRST_BODY_JOINT:, 2].sum())
    if seen < min_body_joints:
        return f"{seen} of 12 body joints annotated, {min_body_joints} asked for (--min-body-joints)"
    return keypoints


def _name(annotation: dict[str, Any]) -> str:
    return f"annotation {annotation.get('id', '?')}"


def _load(path: Path) -> tuple[dict[int, str], dict[int, list[dict[str, Any]]]]:
    """File name of each image, and the annotations of each, in order of first appearance."""
    if not path.is_file():
        raise StageError(
            f"{path}: no such file; `spin-pipe preprocess coco --help` shows the layout expected"
        )
    try:
        content = json.loads(path.read_text())
        images = {int(i["id"]): str(i["file_name"]) for i in content["images"]}
        by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            by_image[int(annotation["image_id"])].append(annotation)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(f"{path}: not a COCO keypoints file ({type(error).__name__}: {error})") from error
    unknown = [i for i in by_image if i not in images]
    if unknown:
        raise StageError(f"{path}: annotations name image {unknown[0]}, which 'images' does not list")
    return images, by_image


def _load_truth(path: Path) -> dict[int, Truth]:
    """True bodies by annotation id, of the people whose truth is given."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as z:
            ids, given, pose, betas, s, joints17 = (
                z[k] for k in ("annotation_id", "given", "pose", "betas", "S", "joints17_m")
            )
    except (OSError, ValueError, KeyError) as error:
        raise StageError(f"{path}: not a truth file ({error})") from error
    return {int(ids[i]): Truth(pose[i], betas[i], s[i], joints17[i]) for i in np.flatnonzero(given)}
