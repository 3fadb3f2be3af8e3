"""A folder of OpenPose's files, one an image, as people."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.base import Person, ReaderOptions, Rejected
from pipelines.readers.custom.people import Seen, checked_person, place_image
from pipelines.readers.formats.openpose_file import read_openpose
from spin.joints import JOINTS

SUFFIX = "_keypoints.json"
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_FILES_A_PART = 1000


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
            people = read_openpose(Path(part.folder) / name)
        except (OSError, StageError) as error:
            yield Rejected(name, image, str(error))
            continue
        for number, person in enumerate(people):
            source = f"{name} person {number}"
            if isinstance(person, str):
                yield Rejected(source, image, person)
                continue
            keypoints = np.zeros((JOINTS.count, 3))
            keypoints[JOINTS.openpose] = person
            yield checked_person(Seen(image, source, keypoints), options.min_body_joints)
