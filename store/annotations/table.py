"""Annotations of a data set's samples: one Parquet file per data set, one row per person in an image.

Columns carry their units in the schema. What is not known is null in the file and flagged in memory, never a
zero that looks like a measurement. Row groups hold 4096 rows, as the fit store's chunks do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from store.annotations.parquet import Content, read_columns, write_columns
from store.annotations.schema import ARRAYS, GENDERS, LATER, OPTIONAL_TEXTS, TEXTS, ArrayColumn
from store.errors import AnnotationError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Integer

_ORTHONORMAL = 1e-3
"""How far R Rᵀ of a rotation may be from the identity, in any entry."""


def _unknown_array() -> np.ndarray:
    return np.empty(0)


@dataclass(frozen=True)
class Annotations:
    """The annotated people of one data set, as a structure of arrays (units: see ARRAYS and TEXTS).

    The truth (pose, betas, joints3d_m, joints17_m, gender) may be left out, and so may the camera (focal_px,
    principal_px) and the view (view_rotation, view_translation_m, pose_id): then no row knows it. Where a
    row's flag is False, its numbers are zero. keypoints_px: 25 of OpenPose, then SPIN's 24 joints.
    joints3d_m: SPIN's S. Rows that share a pose_id show one person at one moment, in one world: a row with a
    pose_id has a camera and a view.
    Raises AnnotationError for a wrong shape or type, for numbers that are not finite and for a view that is no
    rotation, naming the row's source.
    """

    name: str
    image_root: str
    image: list[str]
    center_px: Float32[np.ndarray, "n 2"]
    scale: Float32[np.ndarray, "n"]
    keypoints_px: Float32[np.ndarray, "n 49 3"]
    source: list[str]
    openpose_match: list[str]
    has_smpl: Bool[np.ndarray, "n"] = field(default_factory=_unknown_array)
    pose: Float32[np.ndarray, "n 72"] = field(default_factory=_unknown_array)
    betas: Float32[np.ndarray, "n 10"] = field(default_factory=_unknown_array)
    has_joints3d: Bool[np.ndarray, "n"] = field(default_factory=_unknown_array)
    joints3d_m: Float32[np.ndarray, "n 24 4"] = field(default_factory=_unknown_array)
    has_joints17: Bool[np.ndarray, "n"] = field(default_factory=_unknown_array)
    joints17_m: Float32[np.ndarray, "n 17 3"] = field(default_factory=_unknown_array)
    gender: list[str] = field(default_factory=list)
    has_camera: Bool[np.ndarray, "n"] = field(default_factory=_unknown_array)
    focal_px: Float32[np.ndarray, "n"] = field(default_factory=_unknown_array)
    principal_px: Float32[np.ndarray, "n 2"] = field(default_factory=_unknown_array)
    has_view: Bool[np.ndarray, "n"] = field(default_factory=_unknown_array)
    view_rotation: Float32[np.ndarray, "n 3 3"] = field(default_factory=_unknown_array)
    view_translation_m: Float32[np.ndarray, "n 3"] = field(default_factory=_unknown_array)
    pose_id: list[str] = field(default_factory=list)
    mask: list[str] = field(default_factory=list)
    part: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.name:
            raise AnnotationError("annotations: the data set's name is empty")
        count = len(self.image)
        self._fill_unknown(count)
        for name in TEXTS:
            self._check_texts(name, count)
        for name, column in ARRAYS.items():
            self._check_array(name, column, count)
        self._check_values()

    def __len__(self) -> int:
        return len(self.image)

    @cached_property
    def content_hash(self) -> str:
        """Return the SHA-256 (hex) of all rows, independent of the data set's name and of where its images are stored.

        Hashed are, column by column: name, type, shape, and the little-endian values of the rows that know
        it; texts as UTF-8 JSON. A column of LATER that no row knows is left out, so that data keep the hash
        they had before it.
        """
        digest = hashlib.sha256()
        for name in TEXTS:
            if name in LATER and not any(getattr(self, name)):
                continue
            digest.update(json.dumps([name, getattr(self, name)], ensure_ascii=False).encode())
        for name, column in ARRAYS.items():
            array = getattr(self, name)
            known = array[getattr(self, column.flag)] if column.flag else array
            if name in LATER and not (len(known) if column.flag else known.any()):
                continue
            digest.update(json.dumps([name, column.dtype, list(known.shape)]).encode())
            digest.update(np.ascontiguousarray(known).data)
        return digest.hexdigest()

    def image_path(self, row: int) -> Path:
        """Return the path of a row's image."""
        return Path(self.image_root) / self.image[row]

    def take(self, index: Integer[np.ndarray, "k"] | Bool[np.ndarray, "n"] | slice) -> Annotations:
        """Return the chosen rows, in that order."""
        rows = np.arange(len(self))[index]
        chosen: dict[str, Any] = {name: getattr(self, name)[rows] for name in ARRAYS}
        chosen |= {name: [getattr(self, name)[row] for row in rows] for name in TEXTS}
        return Annotations(name=self.name, image_root=self.image_root, **chosen)

    def write(self, path: str | Path, *, provenance: Mapping[str, str] | None = None) -> None:
        """Write or replace the Parquet file, atomically. `provenance`: what read the raw data set, and how."""
        columns = {name: getattr(self, name) for name in (*TEXTS, *ARRAYS)}
        metadata = {
            "dataset": self.name,
            "image_root": self.image_root,
            "content_hash": self.content_hash,
            "provenance": json.dumps(dict(provenance or {})),
        }
        write_columns(Path(path), Content(columns, metadata))

    @classmethod
    def read(cls, path: str | Path) -> Annotations:
        """Read a file. Raises AnnotationsNotFoundError, or AnnotationError if it is no file of annotations, or damaged."""
        content = read_columns(Path(path))
        name, image_root = content.metadata.get("dataset", ""), content.metadata.get("image_root", "")
        return cls(name=name, image_root=image_root, **content.columns)

    def _fill_unknown(self, count: int) -> None:
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        for name, column in ARRAYS.items():
            if column.flag and given[name].size == 0 and count and given[column.flag].any():
                raise AnnotationError(f"{self.name}: {column.flag} is set for some rows, but {name} is missing")
        for name, column in ARRAYS.items():
            optional = bool(column.flag) or column.dtype == "|b1"
            if optional and given[name].size == 0:
                object.__setattr__(self, name, np.zeros((count, *column.shape), column.dtype))
        for name in OPTIONAL_TEXTS:
            if not given[name]:
                object.__setattr__(self, name, [""] * count)

    def _check_texts(self, name: str, count: int) -> None:
        texts = getattr(self, name)
        if len(texts) != count or any(not isinstance(text, str) for text in texts):
            raise AnnotationError(f"{self.name}: {name} must be {count} texts, found {len(texts)}")

    def _check_array(self, name: str, column: ArrayColumn, count: int) -> None:
        array = getattr(self, name)
        expected = (count, *column.shape)
        if array.dtype != np.dtype(column.dtype) or array.shape != expected:
            raise AnnotationError(
                f"{self.name}: {name} must be {np.dtype(column.dtype).name} of shape {expected}, "
                f"found {array.dtype.name} of shape {array.shape}"
            )
        if array.dtype.kind == "f":
            rows = array.reshape(count, int(np.prod(column.shape)))
            self._require_none(~np.isfinite(rows).all(axis=1), f"{name} has numbers that are not finite")
            if column.flag:
                stray = (rows != 0).any(axis=1) & ~getattr(self, column.flag)
                self._require_none(stray, f"{name} has numbers, {column.flag} is not set")

    def _check_values(self) -> None:
        self._require_none(self.scale <= 0, "scale must be above 0")
        confidence = self.keypoints_px[:, :, 2]
        lowest, highest = confidence.min(axis=1), confidence.max(axis=1)
        self._require_none((lowest < 0) | (highest > 1), "a keypoint's confidence is outside 0..1")
        absolute = [PurePosixPath(image).is_absolute() or "\\" in image or not image for image in self.image]
        self._require_none(np.array(absolute, bool), "image must be a relative path with forward slashes")
        unknown = [gender not in GENDERS for gender in self.gender]
        self._require_none(np.array(unknown, bool), "gender must be empty, female, male or neutral")
        self._require_none(self.has_camera & (self.focal_px <= 0), "focal_px must be above 0")
        self._require_none(self.has_view & ~_are_rotations(self.view_rotation), "view_rotation is no rotation")
        shared = np.array([bool(pose_id) for pose_id in self.pose_id], bool)
        complete = self.has_camera & self.has_view
        self._require_none(shared & ~complete, "a row with a pose_id must have a camera and a view")

    def _require_none(self, rows: Bool[np.ndarray, "n"], why: str) -> None:
        """Raise an error that names the first of these rows."""
        wrong = np.flatnonzero(rows)
        if len(wrong):
            row = wrong[0]
            more = f" (and {len(wrong) - 1} more rows)" if len(wrong) > 1 else ""
            raise AnnotationError(
                f"{self.name}: row {row}, {self.source[row]!r}{more}: {why}; the reader must reject such samples"
            )


def _are_rotations(matrices: Float32[np.ndarray, "n 3 3"]) -> Bool[np.ndarray, "n"]:
    """Return which matrices are orthonormal, and no reflection."""
    wide = matrices.astype(np.float64)
    off = np.abs(wide @ wide.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2), initial=0)
    return (off <= _ORTHONORMAL) & (np.linalg.det(wide) > 0)
