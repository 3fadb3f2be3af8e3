"""A person of a user's own data: a `Person` with a box, or why it is rejected. The same for every kind of file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import NO_OPENPOSE, Note, Person, Rejected
from pipelines.readers.boxes import CORNERS, SMALLEST_SHARE, are_corners, extents, require_sizes
from pipelines.readers.formats.image_check import check_image
from pipelines.readers.formats.image_frames import READ_AS_STORED, frame_of
from pipelines.readers.formats.image_names import is_text
from pipelines.readers.formats.openpose_file import SMALLEST_PX
from pipelines.readers.openpose import match_people, read_detections
from spin.crop import box_around_keypoints, box_to_center_scale
from spin.joints import COCO_NAMES, JOINTS

if TYPE_CHECKING:
    from jaxtyping import Float

_FARTHEST_PX = 1e6  # no image is larger
_DETECTED = [openpose for openpose, _ in JOINTS.named_twice]  # what a file names so was detected by OpenPose
_LIMBS = np.array([(JOINTS.index[name], JOINTS.index[f"OpenPose {name}"]) for name in COCO_NAMES[5:]])


@dataclass(frozen=True)
class Seen:
    """A person as a file gives them. `box_xywh` is None where it gives no box."""

    image: str
    source: str
    keypoints_px: Float[np.ndarray, "49 3"]  # float64, confidence 0 where not seen
    box_xywh: Float[np.ndarray, "4"] | None = None
    image_size_px: tuple[float, float] | None = None
    row: int = -1  # its place in the file


def place_image(name: object, root: Path) -> tuple[str, str]:
    """Return an image's path relative to the root; and why it has none, or ''."""
    if not isinstance(name, str) or not name.strip():
        return "", f"names {shown(name)} where an image's name is expected"
    path = PurePosixPath(name)
    if path.is_absolute() and path.is_relative_to(root.resolve()):
        path = path.relative_to(root.resolve())
    if path.is_absolute() or ".." in path.parts:
        return "", f"its image {name[:200]!r} is outside the images' folder (--images)"
    if "\\" in name:
        return "", "its image's name has a backslash; use forward slashes"
    if "\0" in name or not is_text(name):
        return "", f"its image's name {name[:80]!r} is one that no file can have"
    return path.as_posix(), ""


def shown(value: object) -> str:
    """Return a value of a user's file for a message: short, and of characters that can be printed."""
    simple = value is None or isinstance(value, str | int | float)
    return f"{str(value)[:80]!a}" if simple else f"a {type(value).__name__}"


def upright(seen: Seen, root: Path) -> tuple[Seen, str, list[Note]]:
    """Return a person in the pixels of the upright image; why there are none, or ''; and what is worth knowing of it."""
    frame = frame_of(seen.image_size_px, check_image(root / seen.image))
    if frame.to_upright is None:
        return seen, frame.problem, []
    keypoints = seen.keypoints_px.copy()
    visible = keypoints[:, 2] > 0
    keypoints[visible, :2] = frame.points(keypoints[visible, :2])
    box = None if seen.box_xywh is None else frame.box(seen.box_xywh)
    turned = replace(seen, keypoints_px=keypoints, box_xywh=box, image_size_px=frame.size_px)
    return turned, "", [Note(READ_AS_STORED)]


def outcomes(seen: Seen | Rejected, root: Path, min_body_joints: int) -> tuple[Person | Rejected, list[Note]]:
    """Return the person in the upright image's pixels, or why it is rejected; and what is worth knowing of it."""
    if isinstance(seen, Rejected):
        return seen, []
    there, problem, notes = upright(seen, root)
    person = checked_person(there, min_body_joints)
    if problem and isinstance(person, Person):
        return Rejected(seen.source, seen.image, problem), []
    return person, notes if isinstance(person, Person) else []


def checked_person(seen: Seen, min_body_joints: int) -> Person | Rejected:
    """Return a person with a box and enough joints, or the reason."""
    reason = _problem(seen, min_body_joints)
    if reason:
        return Rejected(seen.source, seen.image, reason)
    box = box_around_keypoints(seen.keypoints_px) if seen.box_xywh is None else seen.box_xywh
    reason = _box_problem(seen, box)
    if reason:
        return Rejected(seen.source, seen.image, reason)
    center_px, scale = box_to_center_scale(box)
    return Person(
        image=seen.image,
        center_px=center_px,
        scale=scale,
        keypoints_px=seen.keypoints_px.astype(np.float32),
        source=seen.source,
        image_size_px=seen.image_size_px,
        row=seen.row,
    )


def _problem(seen: Seen, min_body_joints: int) -> str:
    keypoints = seen.keypoints_px
    visible = keypoints[:, 2] > 0
    off = np.flatnonzero(visible & ~(np.abs(keypoints[:, :2]) < _FARTHEST_PX).all(1))
    if len(off) or not np.isfinite(keypoints).all():
        joint = JOINTS.names[off[0]] if len(off) else "a keypoint"
        return f"{joint} is not a number of pixels"
    body = int(visible[_LIMBS].any(1).sum())
    if body < min_body_joints:
        return f"{body} of 12 body joints seen, {min_body_joints} asked for (--min-body-joints)"
    if not visible.any():
        return "no keypoint is seen"
    span = float(np.ptp(keypoints[visible, :2], axis=0).max())
    if span < SMALLEST_PX:
        return f"its keypoints span {span:.2g} px; expected pixels of the image, not coordinates scaled to its size"
    return ""


def _box_problem(seen: Seen, box: Float[np.ndarray, "4"]) -> str:
    if not ((np.abs(box) < _FARTHEST_PX).all() and max(box[2:]) >= SMALLEST_PX and min(box[2:]) > 0):
        shown_box = [float(f"{v:.4g}") for v in box]
        return f"box {shown_box} has no area, is smaller than {SMALLEST_PX:g} px, or is not in pixels"
    if seen.box_xywh is not None and are_corners(*_boxes_and_extents([seen]))[0]:
        return CORNERS
    visible = seen.keypoints_px[:, 2] > 0
    if np.ptp(seen.keypoints_px[visible, :2], axis=0).max() < SMALLEST_SHARE * max(box[2:]):
        return "its box is over fifty times as large as its keypoints span"
    if seen.image_size_px is not None:
        width, height = seen.image_size_px
        x, y, w, h = box
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            return f"its box is outside the image, {width:.0f} × {height:.0f} px"
    return ""


def require_sizes_of(file: Path, people: Iterable[Seen | Rejected]) -> None:
    """Raise StageError if boxes of a file's people are two corners, not a corner and a size."""
    boxed = [seen for seen in people if isinstance(seen, Seen) and seen.box_xywh is not None]
    if boxed:
        require_sizes(file, *_boxes_and_extents(boxed))


def _boxes_and_extents(people: list[Seen]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keypoints = np.stack([seen.keypoints_px for seen in people])
    boxes = np.array([seen.box_xywh for seen in people], np.float64)
    return boxes, *extents(keypoints[..., :2], keypoints[..., 2] > 0)


def matched(people: list[Person], folder: Path | None) -> Iterator[Person]:
    """Yield the people of one image, with OpenPose detections of a folder where they have none of their own."""
    if folder is None or not people:
        for person in people:
            detected_too = person.keypoints_px[_DETECTED, 2].any()
            yield person if detected_too else replace(person, openpose_match="no OpenPose detections given")
        return
    keypoints = np.stack([p.keypoints_px for p in people])
    detected = [NO_OPENPOSE] * len(people)
    reasons = ["no OpenPose file"] * len(people)
    stem = PurePosixPath(people[0].image).with_suffix("")
    for file in (folder / f"{stem}_keypoints.json", folder / f"{stem.name}_keypoints.json"):
        if not os.path.isfile(file):
            continue
        try:
            sides_px = np.array([200 * p.scale for p in people])
            found = match_people(keypoints[:, JOINTS.superset], sides_px, read_detections(file))
            detected, reasons = [m.keypoints_px for m in found], [m.reason for m in found]
        except StageError as error:
            reasons = [str(error)] * len(people)
        break
    for person, own, detection, reason in zip(people, keypoints, detected, reasons):
        if own[_DETECTED, 2].any():
            yield person
            continue
        annotated = own[JOINTS.openpose]  # feet, and a mid hip
        both = np.concatenate([np.where(annotated[:, 2:] > 0, annotated, detection), own[JOINTS.superset]])
        yield replace(person, keypoints_px=both, openpose_match=reason)
