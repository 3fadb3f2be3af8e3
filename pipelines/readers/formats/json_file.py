"""JSON files, read fast: annotation files of gigabytes, and a hundred thousand small ones of detections."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from pathlib import Path


def load_json(path: Path) -> Any:
    """Return what a JSON file holds. Raise OSError if it can't be opened, ValueError or RecursionError if it isn't JSON."""
    return parse_json(path.read_bytes())


def parse_json(data: bytes) -> Any:
    """Return what JSON text holds. Raise ValueError or RecursionError if it isn't JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # What Python reads and orjson doesn't: NaN, a byte order mark, integers of any size.
        return json.loads(data.decode("utf-8-sig"))


Id = int | str
KNOWN_KEYS = frozenset(
    ("id", "image_id", "category_id", "keypoints", "foot_kpts", "bbox", "iscrowd", "num_keypoints", "area", "segmentation")
)
"""Keys of COCO's annotations that are used, or that say nothing of a person beyond those."""


def unknown_keys(annotation: dict[str, Any]) -> list[str]:
    """Return the keys of an annotation that hold something and are not used."""
    return [key for key, value in annotation.items() if key not in KNOWN_KEYS and value not in (None, "", 0, [], {})]


def annotation_name(annotation: dict[str, Any], position: int, earlier: set[tuple[str, Id]], image: str) -> str:
    """Return a name that no other annotation of the image has, and add its id to the `earlier` ones.

    Ids may repeat in other images: many tools count anew in each image.
    """
    number = id_of(annotation.get("id"))
    if number is None:
        return f"annotation #{position}"
    if (image, number) in earlier:
        return f"annotation {number} #{position}"
    earlier.add((image, number))
    return f"annotation {number}"


def id_of(value: Any) -> Id | None:
    """Return an id in one form for numbers and texts: 7, 7.0 and "7" are the same. Return None if it can't be an id."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() else text or None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def images_by_id(images: list[Any]) -> tuple[dict[Id, dict[str, Any]], dict[Id, str]]:
    """Return entries of a COCO-style file's 'images' by id; and why an id that several files share names none of them."""
    entries: dict[Id, dict[str, Any]] = {}
    shared: dict[Id, str] = {}
    for image in images:
        number = id_of(image.get("id")) if isinstance(image, dict) else None
        if number is None or not isinstance(image.get("file_name"), str):
            continue
        first = entries.setdefault(number, image)["file_name"]
        if first != image["file_name"]:
            shared[number] = f"its image's id stands for several images, {first!r:.60} and {image['file_name']!r:.60}"
    return entries, shared
