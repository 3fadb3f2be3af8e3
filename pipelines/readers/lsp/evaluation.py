"""The test set of Leeds Sports Pose, with the masks and body parts of UPi-S1h."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from pipelines.errors import StageError
from pipelines.readers.base import Option, Person, ReaderOptions, Rejected
from pipelines.readers.formats.image_check import check_image
from pipelines.readers.lsp.joints_mat import Sample, read_joints, read_samples, samples_in_parts
from pipelines.readers.lsp.original import samples

ABOUT = "Leeds Sports Pose, 1,000 test images, masks and parts of UPi-S1h (Johnson and Everingham 2010; Lassner et al. 2017)"
OBTAIN = (
    "sam.johnson.io/research/lsp.html: lsp_dataset.zip, free to download; for research. Masks and parts: "
    "files.is.tuebingen.mpg.de/classner/up, upi-s1h.zip (45 GB, of which data/lsp is used); for research"
)
VERSION = 1
OPTIONS: tuple[Option, ...] = (
    Option(
        "masks",
        "folder",
        "Where UPi-S1h is, if not in ROOT: the folder that holds data/lsp. A path from ROOT to it is kept.",
    ),
)
SPLITS = ("test",)
TREE = """\
ROOT/
  joints.mat                              MATLAB 5: 'joints' (3, 14, 2000), x, y and a flag; the last 1,000 are read
  images/im1001.jpg … im2000.jpg
  data/lsp/im1001_segmentation.png        optional, of UPi-S1h: the mask, not 0 where the person is
  data/lsp/im1001_part_segmentation.png   optional, of UPi-S1h: 0 background, 1 head, 2 torso, 3 right arm, 4 left arm,
                                          5 right leg, 6 left leg, 255 undecided
                                          (data/lsp may also be in ROOT/upi-s1h, or in --masks DIR)
  openpose/lsp/im1001_keypoints.json      optional: OpenPose BODY_25 detections, one file an image
"""
UPI_PARTS = ("head", "torso", "right arm", "left arm", "right leg", "left leg")
"""Labels 1 to 6 of UPi-S1h's part pictures (`six_region_groups` in the code of UP)."""
UPI_UNDECIDED = 255
"""Left out of every comparison of parts."""
FIRST, LAST = 1000, 2000


@dataclass(frozen=True)
class Part:
    samples: list[Sample]
    masks: str  # folder of the pictures, relative to the root; '' if there is none


def parts(root: Path, options: ReaderOptions) -> Iterator[Part]:
    """Return lists of samples. Raise StageError if joints.mat is missing or isn't one, or holds no test people."""
    path = root / "joints.mat"
    joints = read_joints(path, "lsp")
    if len(joints) <= FIRST:
        raise StageError(f"{path}: {len(joints)} people; expected over {FIRST}, of whom the test set is the rest")
    masks = _masks_folder(root, options.extra.get("masks"))
    return (Part(part, masks) for part in samples_in_parts(samples(joints, FIRST, LAST)))


def read(root: Path, part: Part, options: ReaderOptions) -> Iterator[Person | Rejected]:
    """Yield the person of each image, with mask and parts where there are any."""
    for outcome in read_samples(root, part.samples, options, "lsp"):
        yield _with_truth(root, outcome, part.masks) if isinstance(outcome, Person) else outcome


def _masks_folder(root: Path, given: Path | None) -> str:
    """Return where the pictures are, relative to the root. Raise StageError if a folder was named that has none."""
    for base in [given] if given is not None else [root, root / "upi-s1h"]:
        if (base / "data" / "lsp").is_dir():
            return Path(os.path.relpath((base / "data" / "lsp").resolve(), root.resolve())).as_posix()
    if given is not None:
        raise StageError(f"--masks {given}: has no folder data/lsp; expected UPi-S1h as it is unpacked")
    return ""


def _with_truth(root: Path, person: Person, masks: str) -> Person | Rejected:
    if not masks:
        return person
    stem = Path(person.image).stem
    names = {"mask": f"{masks}/{stem}_segmentation.png", "part": f"{masks}/{stem}_part_segmentation.png"}
    there = {kind: name for kind, name in names.items() if (root / name).is_file()}
    for kind, name in there.items():
        problem = _picture_problem(root / name, root / person.image)
        if problem:
            return Rejected(person.source, person.image, f"its {kind} picture {name}: {problem}")
    return replace(person, mask=there.get("mask", ""), part=there.get("part", ""))


def _picture_problem(path: Path, image: Path) -> str:
    """Return why a mask can't be compared with anything; '' if it can, or if the image is to blame, which others report."""
    problem = check_image(path).problem
    if problem:
        return problem.replace("its image ", "")
    if check_image(image).problem:
        return ""
    with Image.open(path) as mask, Image.open(image) as picture:
        sizes = mask.size, picture.size
    return "" if sizes[0] == sizes[1] else "{} × {} px, its image {} × {}".format(*sizes[0], *sizes[1])
