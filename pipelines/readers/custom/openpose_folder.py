"""A folder of OpenPose's files, one an image, as people: BODY_25 or COCO-18, distinguished by their length."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import Person, ReaderOptions, Rejected
from pipelines.readers.custom.people import Seen, checked_person, place_image
from spin.joints import JOINTS, OPENPOSE_NAMES

if TYPE_CHECKING:
    from jaxtyping import Float

# The order of OpenPose's older body model (POSE_COCO_BODY_PARTS): COCO's 17 and the neck.
COCO_18 = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye",
    "right ear", "left ear",
)  # fmt: skip
SUFFIX = "_keypoints.json"
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_FILES_A_PART = 1000
_ORDERS = {3 * len(order): [JOINTS.index[f"OpenPose {name}"] for name in order] for order in (OPENPOSE_NAMES, COCO_18)}


@dataclass(frozen=True)
class FolderPart:
    """Some files, relative to the folder, each with the image it belongs to, or why it has none."""

    folder: str
    files: list[tuple[str, str, str]]  # file, image, reason


def parts(folder: Path, root: Path) -> list[FolderPart]:
    """Return the parts. Raise StageError if the folder has no such file."""
    if not folder.is_dir():
        raise StageError(f"--detections {folder}: no such folder")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob(f"*{SUFFIX}"))
    if not names:
        raise StageError(f"{folder}: no file called NAME{SUFFIX} in it; OpenPose writes them with --write_json")
    images = _Images(root)
    files = [(name, *images.of(name)) for name in names]
    return [FolderPart(str(folder), files[i : i + _FILES_A_PART]) for i in range(0, len(files), _FILES_A_PART)]


class _Images:
    """Finds images by a file's name without its ending. A folder is listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.listed: dict[str, dict[str, list[str]]] = {}

    def of(self, name: str) -> tuple[str, str]:
        """Return the image of NAME_keypoints.json, at the same path below the root; and the reason if there is none."""
        stem = PurePosixPath(name.removesuffix(SUFFIX))
        found = self._folder(stem.parent.as_posix()).get(stem.name, [])
        if len(found) == 1:
            return place_image((stem.parent / found[0]).as_posix(), self.root)
        if found:
            return "", f"several images are called {stem}: {', '.join(found)}"
        return "", f"no image {stem} (.jpg, .png …) in {self.root}"

    def _folder(self, name: str) -> dict[str, list[str]]:
        if name not in self.listed:
            by_stem: dict[str, list[str]] = defaultdict(list)
            if os.path.isdir(self.root / name):
                for file in sorted(os.listdir(self.root / name)):
                    stem, ending = os.path.splitext(file)
                    if ending.lower() in IMAGES:
                        by_stem[stem].append(file)
            self.listed[name] = by_stem
        return self.listed[name]


def read(part: FolderPart, options: ReaderOptions) -> Iterator[Person | Rejected]:
    for name, image, reason in part.files:
        if reason:
            yield Rejected(name, image, reason)
            continue
        try:
            people = _people(Path(part.folder) / name)
        except StageError as error:
            yield Rejected(name, image, str(error))
            continue
        for number, person in enumerate(people):
            source = f"{name} person {number}"
            keypoints = _keypoints(person)
            if isinstance(keypoints, str):
                yield Rejected(source, image, keypoints)
            else:
                yield checked_person(Seen(image, source, keypoints), options.min_body_joints)


def _people(path: Path) -> list[Any]:
    try:
        people = json.loads(path.read_bytes())["people"]
        if not isinstance(people, list):
            raise TypeError("'people' is not a list")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StageError(f"{path}: not an OpenPose file ({type(error).__name__}: {error})") from error
    return people


def _keypoints(person: Any) -> Float[np.ndarray, "49 3"] | str:
    """Return the 49 keypoints, OpenPose's half filled; or why not. Files of before 2018 call them `pose_keypoints`."""
    if not isinstance(person, dict):
        return "is not a person"
    flat = person.get("pose_keypoints_2d", person.get("pose_keypoints"))
    if not isinstance(flat, list) or len(flat) not in _ORDERS:
        found = f"{len(flat)} numbers" if isinstance(flat, list) else "no list"
        return f"'pose_keypoints_2d' has {found}; expected 75 (BODY_25) or 54 (COCO)"
    try:
        given = np.array(flat, np.float64)
    except (ValueError, TypeError, OverflowError):
        given = np.zeros((0, 0))
    if given.ndim != 1:
        return "'pose_keypoints_2d' holds something that is not a number"
    given = given.reshape(-1, 3)
    given[~np.isfinite(given).all(1)] = 0  # a joint that is not a number was not seen
    given[:, 2] = given[:, 2].clip(0, 1)
    given[given[:, 2] == 0] = 0
    out = np.zeros((49, 3))
    out[_ORDERS[len(flat)]] = given
    return out
