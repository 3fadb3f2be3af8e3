"""COCO person keypoints (2014 layout). People with too few body joints are set aside, as published: all twelve by default."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pipelines.failures import StageError
from pipelines.readers.base import NO_OPENPOSE, Option, Person, ReaderOptions, Refused, Truth
from pipelines.readers.openpose import match_people, read_detections
from spin.crop import box_to_center_scale
from spin.joints import JOINTS

ABOUT = "COCO 2014 person keypoints, or any data set in its format"
OBTAIN = "cocodataset.org, Download: images and annotations of 2014; annotations CC BY 4.0, photographs under Flickr's terms"
VERSION = 2
OPTIONS: tuple[Option, ...] = ()
SPLITS = ("train2014", "val2014", "train2017", "val2017")
TREE = """\
ROOT/
  annotations/person_keypoints_SPLIT.json   SPLIT: train2014 (default), val2014, train2017, val2017
  SPLIT/*.jpg
  openpose/SPLIT/NAME_keypoints.json        optional: OpenPose BODY_25 detections, one file an image
  truth/SPLIT.npz                           optional: true bodies, as `spin-pipe synth` writes them
"""
_IMAGES_A_PART = 1000
_FIRST_BODY_JOINT = 5  # COCO's first five keypoints are of the face
_FARTHEST_PX = 1e6  # no image is larger
_SMALLEST_SHARE = (
    0.02  # of the box's side, that keypoints span at least: a larger box shows nothing of the person
)


@dataclass(frozen=True)
class Part:
    """Some images with the annotations of their people, and who can't be placed in any image."""

    images: list[tuple[str, list[dict[str, Any]]]]
    refused: tuple[Refused, ...] = ()


def parts(root: Path, options: ReaderOptions) -> list[Part]:
    """Lists of images. StageError if the annotation file is missing or not COCO's."""
    by_image, refused = _by_image(_load(root / "annotations" / f"person_keypoints_{options.split}.json"))
    images = list(by_image.items())
    chunks = [images[i : i + _IMAGES_A_PART] for i in range(0, len(images), _IMAGES_A_PART)]
    return [Part([], tuple(refused)), *map(Part, chunks)] if refused else [*map(Part, chunks)]


def read(root: Path, part: Part, options: ReaderOptions) -> Iterator[Person | Refused]:
    """Every annotated person, image by image."""
    openpose = options.openpose or root / "openpose" / options.split
    truths = _load_truth(root / "truth" / f"{options.split}.npz")
    yield from part.refused
    for file_name, people in part.images:
        image = f"{options.split}/{file_name}"
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
    if os.path.isfile(file):  # unlike Path's, false for a name that no file can have
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
            truth=truths.get(_integer(annotation.get("id"))),
        )


def _keypoints(annotation: dict[str, Any], min_body_joints: int) -> np.ndarray | str:
    """COCO's 17 keypoints with visibility as 0 or 1, or why they can't be used."""
    try:
        keypoints = np.asarray(annotation["keypoints"], np.float64).reshape(17, 3)
        box = np.asarray(annotation["bbox"], np.float64).reshape(4)
    except KeyError as missing:
        return f"has no {missing}"
    except (ValueError, TypeError, OverflowError):
        return "'keypoints' is not 17 × 3 numbers, or 'bbox' not 4"
    if annotation.get("iscrowd"):
        return "is a crowd, not a person"
    if not (np.abs(keypoints) < _FARTHEST_PX).all():
        return "a keypoint is not a number of pixels"
    if not ((np.abs(box) < _FARTHEST_PX).all() and max(box[2:]) >= 1):
        return f"box {annotation['bbox']} has no area, or is not in pixels"
    keypoints[:, 2] = keypoints[:, 2] > 0
    seen = keypoints[:, 2] > 0
    keypoints[~seen, :2] = 0
    body = int(seen[_FIRST_BODY_JOINT:].sum())
    if body < min_body_joints:
        return f"{body} of 12 body joints annotated, {min_body_joints} asked for (--min-body-joints)"
    if seen.any() and np.ptp(keypoints[seen, :2], axis=0).max() < _SMALLEST_SHARE * max(box[2:]):
        return "its box is over fifty times as large as its keypoints span"
    return keypoints.astype(np.float32)


def _name(annotation: dict[str, Any]) -> str:
    return f"annotation {annotation.get('id', '?')}"


def _integer(value: Any) -> int:
    """An id, which some files hold as text; -1 if it is none."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return -1


def _load(path: Path) -> dict[str, list[Any]]:
    """The file's 'images' and 'annotations'."""
    if not path.is_file():
        raise StageError(
            f"{path}: no such file; `spin-pipe preprocess coco --help` shows the layout expected"
        )
    try:
        with path.open(encoding="utf-8-sig") as handle:
            content = json.load(handle, object_hook=_without_outlines)
        out = {key: content[key] for key in ("images", "annotations")}
        if not all(isinstance(part, list) for part in out.values()):
            raise TypeError("'images' and 'annotations' are lists")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StageError(f"{path}: not a COCO keypoints file ({type(error).__name__}: {error})") from error
    return out


def _without_outlines(entry: dict[str, Any]) -> dict[str, Any]:
    """Outlines are nine tenths of the file, and not used: dropped as they are read, they cost no memory."""
    entry.pop("segmentation", None)
    return entry


def _by_image(content: dict[str, list[Any]]) -> tuple[dict[str, list[dict[str, Any]]], list[Refused]]:
    """Annotations by file name, in order of first appearance; and those that belong to no image."""
    names: dict[int, str] = {}
    for image in content["images"]:
        if isinstance(image, dict) and isinstance(image.get("file_name"), str):
            names.setdefault(_integer(image.get("id")), image["file_name"])
    out: dict[str, list[dict[str, Any]]] = defaultdict(list)
    refused: list[Refused] = []
    seen: set[int] = set()
    for position, annotation in enumerate(content["annotations"]):
        if not isinstance(annotation, dict):
            refused.append(Refused(f"annotation #{position}", "", "is no annotation"))
            continue
        name = names.get(_integer(annotation.get("image_id")))
        reason = _refusal(annotation, name, seen)
        if reason or name is None:
            refused.append(Refused(_name(annotation), name or "", reason))
        else:
            seen.add(_integer(annotation.get("id")))
            out[name].append(annotation)
    return out, refused


def _refusal(annotation: dict[str, Any], image: str | None, seen: set[int]) -> str:
    """Why an annotation can't be placed; '' if it can."""
    if image is None:
        return f"names image {annotation.get('image_id')!r}, which 'images' does not list"
    if ".." in Path(image).parts or Path(image).is_absolute():
        return "its image lies outside the root"
    if "\\" in image:
        return "its image's name has a backslash; use forward slashes"
    if _integer(annotation.get("id")) in seen - {-1}:
        return "its id stands twice"
    return ""


def _load_truth(path: Path) -> dict[int, Truth]:
    """True bodies by annotation id, of the people whose truth is given."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as z:
            ids, given, pose, betas, s, joints17 = (
                z[k] for k in ("annotation_id", "given", "pose", "betas", "S", "joints17_m")
            )
            body = str(z["body"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise StageError(f"{path}: not a truth file ({error})") from error
    return {
        int(ids[i]): Truth(pose[i], betas[i], body, joints3d_m=s[i], joints17_m=joints17[i])
        for i in np.flatnonzero(given)
    }
