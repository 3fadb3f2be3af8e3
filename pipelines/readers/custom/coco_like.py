"""A COCO-style file of people with joints of any number, order and (known) names, named by its categories."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import Note, Person, ReaderOptions, Rejected
from pipelines.readers.boxes import LOOKED_AT
from pipelines.readers.custom.joint_names import UNUSED, resolve
from pipelines.readers.custom.people import Seen, matched, outcomes, place_image, require_sizes_of, shown
from pipelines.readers.formats.image_frames import size_of
from pipelines.readers.formats.json_file import Id, annotation_name, id_of, images_by_id, unknown_keys
from pipelines.readers.formats.openpose_file import confidence_problem
from spin.joints import COCO_NAMES, JOINTS

if TYPE_CHECKING:
    from jaxtyping import Float

_IMAGES_A_PART = 1000
_FEET = ("left big toe", "left small toe", "left heel", "right big toe", "right small toe", "right heel")
_HALPE_26 = (
    *COCO_NAMES, "top of head", "neck", "pelvis",
    "left big toe", "right big toe", "left small toe", "right small toe", "left heel", "right heel",
)  # fmt: skip
UNNAMED = (COCO_NAMES, _HALPE_26, (*COCO_NAMES, *_FEET, *[""] * 110), (*_HALPE_26, *[""] * 110))
"""Orders of joints by their number, where no category names them: COCO, Halpe, COCO-WholeBody, Halpe with face and hands."""
_WITH_HANDS = (3 * 133, 3 * 136)
_ANY = ""  # no id: stands for every category, in a file that names no joints


@dataclass(frozen=True)
class Entry:
    """An annotation, its place in the file, and its image's size as the file gives it."""

    row: int
    source: str
    annotation: dict[str, Any]
    size_px: tuple[float, float] | None


@dataclass(frozen=True)
class ImageEntry:
    name: str
    annotations: list[Entry]


@dataclass(frozen=True)
class CocoPart:
    """Some images with their people; who can't be placed in any; and each category's joints among the 49."""

    joints: dict[Id, tuple[int, ...]]
    images: list[ImageEntry]
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[Note, ...] = ()


def parts(file: Path, root: Path, renames: Mapping[str, str]) -> list[CocoPart]:
    """Return the parts. Raise StageError if the file is missing or not COCO's, UsageError for an unknown joint name."""
    content = _load(file)
    joints = _joints(content, renames, str(file))
    images, rejected = _by_image(content, root)
    unknown = Counter(key for image in images for entry in image.annotations for key in unknown_keys(entry.annotation))
    notes = tuple(Note(f"people with {key!r} in the file, which is not used", n) for key, n in sorted(unknown.items()))
    lists = (entry.annotation.get("keypoints") for image in images for entry in image.annotations)
    hands = sum(isinstance(keypoints, list) and len(keypoints) in _WITH_HANDS for keypoints in lists)
    notes += (Note("people with joints of face and hands, which are not used", hands),) if hands else ()
    some = [(image, entry) for image in images for entry in image.annotations][:LOOKED_AT]
    require_sizes_of(file, (_seen(image, entry, joints) for image, entry in some))
    chunks = [images[i : i + _IMAGES_A_PART] for i in range(0, len(images), _IMAGES_A_PART)]
    out = [CocoPart(joints, chunk) for chunk in chunks]
    return [CocoPart(joints, [], tuple(rejected), notes), *out] if rejected or notes else out


def read(root: Path, part: CocoPart, options: ReaderOptions) -> Iterator[Person | Rejected | Note]:
    yield from part.rejected
    yield from part.notes
    for image in part.images:
        people: list[Person] = []
        for entry in image.annotations:
            outcome, notes = outcomes(_seen(image, entry, part.joints), root, options.min_body_joints)
            yield from notes
            if isinstance(outcome, Person):
                people.append(outcome)
            else:
                yield outcome
        yield from matched(people, options.openpose)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise StageError(f"--annotations {path}: no such file")
    try:
        with path.open(encoding="utf-8-sig") as handle:
            content = json.load(handle, object_hook=_without_outlines)
    except (OSError, ValueError, RecursionError) as error:
        raise StageError(f"{path}: not a JSON file ({type(error).__name__}: {error})") from error
    missing = [k for k in ("images", "annotations") if not (isinstance(content, dict) and isinstance(content.get(k), list))]
    if missing:
        raise StageError(f"{path}: not a COCO-style file: it has no list {missing[0]!r}")
    return content


def _without_outlines(entry: dict[str, Any]) -> dict[str, Any]:
    """Drop outlines while reading: they are most of such a file, and not used."""
    entry.pop("segmentation", None)
    return entry


def _joints(content: dict[str, Any], renames: Mapping[str, str], where: str) -> dict[Id, tuple[int, ...]]:
    """Return every keypoint's index among the 49, by category. Without names they are COCO's 17."""
    categories = content.get("categories")
    out: dict[Id, tuple[int, ...]] = {}
    for category in categories if isinstance(categories, list) else []:
        names = category.get("keypoints") if isinstance(category, dict) else None
        if isinstance(names, list) and names:
            if not all(isinstance(name, str) for name in names):
                raise StageError(f"{where}: a category's 'keypoints' is not a list of names")
            number = id_of(category.get("id"))
            out[_ANY if number is None else number] = resolve(names, renames, where)
    if out:
        return out
    lengths = {
        len(a["keypoints"]) for a in content["annotations"] if isinstance(a, dict) and isinstance(a.get("keypoints"), list)
    }
    orders = {3 * len(order): order for order in UNNAMED}
    if len(lengths) == 1 and lengths <= set(orders):
        return {_ANY: resolve(orders[lengths.pop()], {**renames, "": ""}, where)}
    if lengths:
        raise StageError(
            f"{where}: no category names its 'keypoints', and joints are not 17, 26, 133 or 136 as COCO, Halpe and "
            "WholeBody have; name them in categories[].keypoints, in the order of the numbers"
        )
    places = resolve(COCO_NAMES, renames, where)
    return {_ANY: places}


def _by_image(content: dict[str, Any], root: Path) -> tuple[list[ImageEntry], list[Rejected]]:
    """Return images that have annotations, in order of first appearance; and annotations that belong to none."""
    known, shared = images_by_id(content["images"])
    entries: dict[str, ImageEntry] = {}
    rejected: list[Rejected] = []
    ids: set[tuple[str, Id]] = set()
    for position, annotation in enumerate(content["annotations"]):
        if not isinstance(annotation, dict):
            rejected.append(Rejected(f"annotation #{position}", "", "is not an annotation"))
            continue
        at = id_of(annotation.get("image_id"))
        image = None if at is None else known.get(at)
        source = annotation_name(annotation, position, ids, "" if image is None else str(image.get("file_name")))
        if at is None or image is None:
            named = shown(annotation.get("image_id"))
            rejected.append(Rejected(source, "", f"names image {named}, which 'images' does not list"))
            continue
        name, reason = place_image(image.get("file_name"), root)
        reason = reason or shared.get(at, "")
        if reason:
            rejected.append(Rejected(source, name, reason))
            continue
        size_px = size_of(image.get("width"), image.get("height"))
        entries.setdefault(name, ImageEntry(name, [])).annotations.append(Entry(position, source, annotation, size_px))
    return list(entries.values()), rejected


def _seen(image: ImageEntry, entry: Entry, joints: dict[Id, tuple[int, ...]]) -> Seen | Rejected:
    """Return an annotation's person. The third number of a keypoint is COCO's visibility (0: not labelled) or a confidence."""
    source, annotation = entry.source, entry.annotation
    if annotation.get("iscrowd"):
        return Rejected(source, image.name, "is a crowd, not a person")
    category = id_of(annotation.get("category_id"))
    places = joints.get(_ANY if category is None else category, joints.get(_ANY))
    if places is None:
        return Rejected(source, image.name, "its category names no keypoints")
    places = _whole_body(places, annotation.get("keypoints"))
    given = _numbers(annotation.get("keypoints"), 3 * len(places))
    if given is None:
        return Rejected(source, image.name, f"'keypoints' is not {len(places)} × 3 numbers")
    given = given.reshape(-1, 3)
    if not np.isfinite(given[given[:, 2] != 0]).all():
        return Rejected(source, image.name, "a keypoint is not a number of pixels")
    at = np.array(places)
    used = (at != UNUSED) & (given[:, 2] > 0)
    reason = confidence_problem(given[used, 2])
    if reason:
        return Rejected(source, image.name, reason)
    keypoints = np.zeros((49, 3))
    keypoints[at[used]] = given[used]
    feet = _numbers(annotation.get("foot_kpts"), 18)
    if feet is not None and not keypoints[JOINTS.feet, 2].any() and (np.abs(feet) < 1e6).all():
        feet = feet.reshape(6, 3)
        keypoints[JOINTS.feet] = np.where(feet[:, 2:] > 0, feet, 0)
    keypoints[:, 2] = keypoints[:, 2].clip(0, 1)
    box = annotation.get("bbox")
    numbers = None
    if box:
        numbers = _numbers(box, 4)
        if numbers is None or not np.isfinite(numbers).all():
            return Rejected(source, image.name, "'bbox' is not 4 numbers")
        numbers = numbers if numbers.any() else None  # [0, 0, 0, 0] is how many tools write that there is no box
    return Seen(image.name, source, keypoints, numbers, entry.size_px, entry.row)


def _whole_body(places: tuple[int, ...], keypoints: Any) -> tuple[int, ...]:
    """Return the joints of a person who has feet, face and hands after the COCO joints that the category names."""
    count = len(keypoints) if isinstance(keypoints, list) else 0
    order = {3 * len(names): names for names in UNNAMED}.get(count)
    if places != resolve(COCO_NAMES, {}, "") or order is None:
        return places
    return resolve(order, {"": ""}, "")


def _numbers(value: Any, count: int) -> Float[np.ndarray, " count"] | None:
    if not isinstance(value, list) or len(value) != count:
        return None
    try:
        out = np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    return out if out.ndim == 1 else None
