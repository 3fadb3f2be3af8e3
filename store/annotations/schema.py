"""The columns of annotations: what each holds, in which unit, and the flag of the rows that know it."""

from __future__ import annotations

from dataclasses import dataclass

KEYPOINTS = 49
OPENPOSE = slice(0, 25)
"""The keypoints that OpenPose detects, of the 49."""
SUPERSET = slice(25, 49)
"""SPIN's 24 annotated joints, of the 49."""
GENDERS = ("", "female", "male", "neutral")


@dataclass(frozen=True)
class ArrayColumn:
    """An array of the annotations: type, shape of one row, unit, and the flag of the rows that know it."""

    dtype: str
    shape: tuple[int, ...]
    unit: str
    flag: str = ""


ARRAYS: dict[str, ArrayColumn] = {
    "center_px": ArrayColumn("<f4", (2,), "px in the original image"),
    "scale": ArrayColumn("<f4", (), "box side / 200 px"),
    "keypoints_px": ArrayColumn("<f4", (KEYPOINTS, 3), "px in the original image, px, confidence 0..1"),
    "has_smpl": ArrayColumn("|b1", (), "1"),
    "pose": ArrayColumn("<f4", (72,), "rad, axis-angle of 24 joints", "has_smpl"),
    "betas": ArrayColumn("<f4", (10,), "1", "has_smpl"),
    "has_joints3d": ArrayColumn("|b1", (), "1"),
    "joints3d_m": ArrayColumn("<f4", (24, 4), "m, m, m, confidence 0..1", "has_joints3d"),
    "has_joints17": ArrayColumn("|b1", (), "1"),
    "joints17_m": ArrayColumn("<f4", (17, 3), "m, Human3.6M's order", "has_joints17"),
    "has_camera": ArrayColumn("|b1", (), "1"),
    "focal_px": ArrayColumn("<f4", (), "px of the original image", "has_camera"),
    "principal_px": ArrayColumn("<f4", (2,), "px in the original image", "has_camera"),
    "has_view": ArrayColumn("|b1", (), "1"),
    "view_rotation": ArrayColumn("<f4", (3, 3), "1, world to camera: p = R X + t", "has_view"),
    "view_translation_m": ArrayColumn("<f4", (3,), "m, world to camera: p = R X + t", "has_view"),
}
TEXTS: dict[str, str] = {
    "image": "path relative to the image root, with forward slashes",
    "source": "where the row comes from in the data set",
    "openpose_match": "empty if an OpenPose detection was used, else why not",
    "gender": "empty if unknown, else female, male or neutral",
    "pose_id": "empty if the pose is seen in this row alone, else what all views of one person at one moment share",
    "mask": "empty if unknown, else path of the person's true mask, relative to the image root",
    "part": "empty if unknown, else path of the true body-part labels, relative to the image root",
}
OPTIONAL_TEXTS = ("gender", "pose_id", "mask", "part")
"""Texts that may be left out: then they are empty in every row."""
ADDED = (
    frozenset(
        {
            "has_camera",
            "focal_px",
            "principal_px",
            "has_view",
            "view_rotation",
            "view_translation_m",
            "pose_id",
        }
    ),
    frozenset({"mask", "part"}),
)
"""Columns that the first files did not have, those that came together in one set: a file has all of a set or none."""
LATER = frozenset[str]().union(*ADDED)
"""Columns that the content's hash leaves out where no row knows them."""
