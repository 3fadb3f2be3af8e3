"""COCO person keypoints (2014 layout). People with too few body joints are rejected, as published: all twelve by default."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import Note, Option, Person, ReaderOptions, Rejected, Truth
from pipelines.readers.boxes import LOOKED_AT, extents, require_sizes
from pipelines.readers.coco.columns import Table, numbers_of, table_of
from pipelines.readers.formats.image_check import check_image
from pipelines.readers.formats.image_frames import READ_AS_STORED, Frame, frame_of, size_of
from pipelines.readers.formats.image_names import name_problem
from pipelines.readers.formats.json_file import Id, annotation_name, id_of, images_by_id, parse_json, unknown_keys
from pipelines.readers.openpose import detections_folder, match_image
from spin.joints import JOINTS

if TYPE_CHECKING:
    from jaxtyping import Float

ABOUT = "COCO 2014 person keypoints, or any data set in its format"
OBTAIN = "cocodataset.org, Download: images and annotations of 2014; annotations CC BY 4.0, photographs under Flickr's terms"
VERSION = 4
OPTIONS: tuple[Option, ...] = ()
SPLITS = ("train2014", "val2014", "train2017", "val2017")
TREE = """\
ROOT/
  annotations/person_keypoints_SPLIT.json   SPLIT: train2014 (default), val2014, train2017, val2017
  SPLIT/*.jpg
  openpose/SPLIT/NAME_keypoints.json        optional: OpenPose BODY_25 detections, one file an image (or openpose/coco)
  truth/SPLIT.npz                           optional: true bodies, as `spin-pipe synth` writes them
"""
_IMAGES_A_PART = 1000
# Outlines are nine tenths of the file, and not used: left out before the text becomes objects, they cost neither time nor
# memory. As a key's value, an array of numbers ends with the last bracket before anything else.
_OUTLINE = re.compile(rb'(?<!\\)"segmentation":\s*\[[\[\]\d\s.,eE+-]*\]')
_USED = ("id", "keypoints", "foot_kpts", "bbox", "iscrowd")
# Where an annotation's place in the file, its image's size and its name are kept: no keys of a file.
_ROW, _SIZE, _NAME = "#row", "#size", "#name"
_NO_TRUTH = "without the truth that truth/ may have of them, as ids appear in several images"


@dataclass(frozen=True)
class Part:
    """Some images with the annotations of their people, and who can't be placed in any image."""

    images: list[tuple[str, list[dict[str, Any]]]]
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[Note, ...] = ()
    ids_repeat: bool = False  # in other images: then they don't name whose a truth is


def parts(root: Path, options: ReaderOptions) -> list[Part]:
    """Return lists of images. Raise StageError if the annotation file is missing or not COCO's."""
    file = root / "annotations" / f"person_keypoints_{options.split}.json"
    by_image, rejected, unknown = _by_image(_load(file))
    notes = tuple(Note(f"people with {key!r} in the file, which is not used", n) for key, n in sorted(unknown.items()))
    some = [a for people in by_image.values() for a in people if not a.get("iscrowd")][:LOOKED_AT]
    if some:
        given, boxes, _ = numbers_of(some)
        require_sizes(file, boxes, *extents(given[..., :2], given[..., 2] > 0))
    images = list(by_image.items())
    ids = [number for people in by_image.values() for a in people if (number := id_of(a.get("id"))) is not None]
    repeat = len(set(ids)) < len(ids)
    chunks = [images[i : i + _IMAGES_A_PART] for i in range(0, len(images), _IMAGES_A_PART)]
    out = [Part(chunk, ids_repeat=repeat) for chunk in chunks]
    return [Part([], tuple(rejected), notes), *out] if rejected or notes else out


def read(root: Path, part: Part, options: ReaderOptions) -> Iterator[Person | Rejected | Note]:
    """Yield every annotated person, image by image, numbered by its place in the file."""
    # The published scripts call the folder coco, for any split.
    openpose = detections_folder(root, options, options.split, "coco")
    truths = _load_truth(root / "truth" / f"{options.split}.npz")
    yield from part.rejected
    yield from part.notes
    if truths and part.ids_repeat:
        yield Note(_NO_TRUTH, sum(len(people) for _, people in part.images))
        truths = {}
    images = [f"{options.split}/{name}" for name, people in part.images for _ in people]
    annotations = [a for _, people in part.images for a in people]
    if not annotations:
        return
    frames = [frame_of(a[_SIZE], check_image(root / image)) for a, image in zip(annotations, images)]
    annotations = [upright(a, frame) for a, frame in zip(annotations, frames)]
    table = table_of(annotations, options.min_body_joints)
    first = 0
    for file_name, people in part.images:
        image, rows = f"{options.split}/{file_name}", range(first, first + len(people))
        first += len(people)
        for row in rows:
            table.problems[row] = table.problems[row] or frames[row].problem
            if table.problems[row]:
                yield Rejected(annotations[row][_NAME], image, table.problems[row])
        usable = [row for row in rows if not table.problems[row]]
        if usable:
            yield from _people(image, usable, annotations, table, openpose, truths)
            turned = sum(frames[row].to_upright is not None for row in usable)
            if turned:
                yield Note(READ_AS_STORED, turned)


def upright(annotation: dict[str, Any], frame: Frame) -> dict[str, Any]:
    """Return an annotation in the pixels of the upright image. What is no number stays, and is rejected later."""
    if frame.to_upright is None:
        return annotation
    out = annotation | {_SIZE: frame.size_px}
    try:
        keypoints = np.array(annotation["keypoints"], np.float64).reshape(-1, 3)
        keypoints[:, :2] = frame.points(keypoints[:, :2])
        out |= {"keypoints": keypoints.ravel().tolist(), "bbox": frame.box(np.array(annotation["bbox"], np.float64)).tolist()}
        if (feet := _feet(annotation)) is not None:
            feet[:, :2] = frame.points(feet[:, :2])
            out["foot_kpts"] = feet.ravel().tolist()
    except (KeyError, ValueError, TypeError, OverflowError):
        pass
    return out


def _feet(annotation: dict[str, Any]) -> Float[np.ndarray, "6 3"] | None:
    """Return COCO-WholeBody's keypoints of the feet; None if there are none."""
    try:
        feet = np.array(annotation["foot_kpts"], np.float64).reshape(6, 3)
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return feet if (np.abs(feet) < 1e6).all() else None


def _people(
    image: str,
    rows: list[int],
    annotations: list[dict[str, Any]],
    table: Table,
    openpose: Path | None,
    truths: dict[int, Truth],
) -> Iterator[Person]:
    matches = match_image(openpose, image, table.keypoints_px[rows][:, JOINTS.superset], 200 * table.scale[rows])
    for row, match in zip(rows, matches):
        keypoints = table.keypoints_px[row].copy()
        keypoints[JOINTS.openpose] = match.keypoints_px
        if (feet := _feet(annotations[row])) is not None:
            seen = feet[:, 2] > 0
            keypoints[JOINTS.feet][seen] = np.c_[feet[seen, :2], np.ones(seen.sum())]
        yield Person(
            image=image,
            center_px=table.center_px[row],
            scale=float(table.scale[row]),
            keypoints_px=keypoints,
            source=annotations[row][_NAME],
            openpose_match=match.reason,
            truth=truths.get(number) if isinstance(number := id_of(annotations[row].get("id")), int) else None,
            image_size_px=annotations[row][_SIZE],
            row=annotations[row][_ROW],
        )


def _load(path: Path) -> dict[str, list[Any]]:
    """Return the file's 'images' and 'annotations'."""
    if not path.is_file():
        raise StageError(f"{path}: no such file; `spin-pipe preprocess coco --help` shows the layout expected")
    try:
        content = parse_json(_OUTLINE.sub(b'"segmentation":[]', path.read_bytes()))
        out = {key: content[key] for key in ("images", "annotations")}
        if not all(isinstance(part, list) for part in out.values()):
            raise TypeError("'images' and 'annotations' are lists")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StageError(f"{path}: not a COCO keypoints file ({type(error).__name__}: {error})") from error
    return out


def _by_image(
    content: dict[str, list[Any]],
) -> tuple[dict[str, list[dict[str, Any]]], list[Rejected], Counter[str]]:
    """Return annotations by file name, in order of first appearance; those that belong to no image; and keys that are not used.

    Of an annotation what is used is kept, and the rest let go.
    """
    entries, shared = images_by_id(content["images"])
    sizes = {number: size_of(entry.get("width"), entry.get("height")) for number, entry in entries.items()}
    names = {number: entry["file_name"] for number, entry in entries.items()}
    problems = {name: name_problem(name) for name in names.values()}
    out: dict[str, list[dict[str, Any]]] = defaultdict(list)
    rejected: list[Rejected] = []
    unknown: Counter[str] = Counter()
    seen: set[tuple[str, Id]] = set()
    annotations = content["annotations"]
    for position, annotation in enumerate(annotations):
        annotations[position] = None
        if not isinstance(annotation, dict):
            rejected.append(Rejected(f"annotation #{position}", "", "is not an annotation"))
            continue
        image = id_of(annotation.get("image_id"))
        name = None if image is None else names.get(image)
        called = annotation_name(annotation, position, seen, name or "")
        if image is None or name is None:
            reason = f"names image {annotation.get('image_id')!r}, which 'images' does not list"
        else:
            reason = problems[name] or shared.get(image, "")
        if reason or name is None:
            rejected.append(Rejected(called, name or "", reason))
        else:
            unknown.update(unknown_keys(annotation))
            kept = {key: annotation[key] for key in _USED if key in annotation}
            out[name].append(kept | {_ROW: position, _NAME: called, _SIZE: None if image is None else sizes[image]})
    return out, rejected, unknown


def _load_truth(path: Path) -> dict[int, Truth]:
    """Return true bodies by annotation id, of the people whose truth is given."""
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
    return {int(ids[i]): Truth(pose[i], betas[i], body, joints3d_m=s[i], joints17_m=joints17[i]) for i in np.flatnonzero(given)}
