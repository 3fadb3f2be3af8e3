"""Your own data: COCO-style people with any named joints, a folder of OpenPose's files, or a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.errors import StageError, UsageError
from pipelines.readers.base import Note, Option, Person, ReaderOptions, Rejected
from pipelines.readers.custom import coco_like, openpose_folder, table
from pipelines.readers.custom.joint_names import parse_renames

ABOUT = "Your own images with 2D keypoints: COCO-style JSON, OpenPose files, or a table"
OBTAIN = "your annotators, or OpenPose; docs/own-data.md goes all the way from a file of keypoints to a report"
VERSION = 2
SPLITS = ("all",)
OPTIONS = (
    Option(
        "annotations", "file",
        "COCO-style JSON: images, annotations, and categories that name their 'keypoints'. A keypoint is x, y and COCO's "
        "visibility or a confidence up to 1; 'bbox' may be missing.",
    ),
    Option(
        "detections", "folder",
        "Folder of OpenPose's JSON, one NAME_keypoints.json an image; each person in it becomes a sample.",
    ),
    Option(
        "table", "file",
        "CSV or Parquet, a row a person: image; left_knee_x, left_knee_y, left_knee_confidence and so on; if known x, y, "
        "width, height, and image_width, image_height; if useful person.",
    ),
    Option(
        "joints", "text",
        'Joints that you call otherwise: "knee1=left knee,tail=" (nothing after = leaves one out).',
    ),
)  # fmt: skip
TREE = """\
ROOT/                                  the folder of the images (--images), which may be in folders of it
  **/*.jpg, *.png
  annotations.json                     one of these three, unless an option names another
  detections/**/NAME_keypoints.json
  table.csv or table.parquet

Joints are those of spin-pipe, however they are spelt (left_knee, LKnee, knee_l), in any number and order.
Where there is no box, it is the keypoints' extent (of detections, those above 0.2) times 1.15, since joints
end at the eyes and ankles; as every box, it is then made square and enlarged by 1.2.
People with fewer than 6 of the 12 limb joints are rejected: with less than half of the body seen, a fit is
mostly the prior's guess. The published data sets ask for 12.
"""
_FOUND = {
    "annotations": ("annotations.json",),
    "detections": ("detections",),
    "table": ("table.csv", "table.parquet"),
}
Part = coco_like.CocoPart | openpose_folder.FolderPart | table.TablePart


def parts(root: Path, options: ReaderOptions) -> Iterable[Part]:
    """Return the parts. Raise StageError or UsageError if there is not exactly one source, or it can't be read."""
    kind, path = _source(root, options)
    renames = parse_renames(options.extra.get("joints"))
    if kind == "detections":
        if options.openpose is not None:
            raise UsageError("--openpose belongs to annotations or a table; --detections has the people already")
        if renames:
            raise UsageError("--joints belongs to annotations or a table; OpenPose's joints have their names")
        return openpose_folder.parts(path, root)
    if kind == "table":
        return table.parts(path, root, renames)
    return coco_like.parts(path, root, renames)


def read(root: Path, part: Part, options: ReaderOptions) -> Iterator[Person | Rejected | Note]:
    """Yield all people of one part."""
    if isinstance(part, openpose_folder.FolderPart):
        return openpose_folder.read(part, options)
    if isinstance(part, table.TablePart):
        return table.read(root, part, options)
    return coco_like.read(root, part, options)


def _source(root: Path, options: ReaderOptions) -> tuple[str, Path]:
    """Return which kind, and where: what an option names, else the only one in the root."""
    given = [(kind, Path(options.extra[kind])) for kind in _FOUND if options.extra.get(kind)]
    if len(given) > 1:
        raise UsageError(f"--{given[0][0]} and --{given[1][0]}: give one of them")
    if given:
        return given[0]
    found = [(kind, root / name) for kind, names in _FOUND.items() for name in names if (root / name).exists()]
    if not found:
        raise StageError(
            f"{root}: no annotations.json, detections/ or table.csv in it; say where they are with --annotations FILE, "
            "--detections DIR or --table FILE"
        )
    if len(found) > 1:
        raise UsageError(f"{root}: holds {found[0][1].name} and {found[1][1].name}; say which to read with --{found[0][0]}")
    return found[0]
