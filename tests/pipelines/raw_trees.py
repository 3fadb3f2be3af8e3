"""Raw trees of layouts with their truth, for the tests of readers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.readers import DATASETS, read_all
from pipelines.readers.base import Camera, Person, ReaderOptions, Rejected
from pipelines.synthetic.published import synthesize_layout


def made(folder: Path, layout: str, people: int, seed: int = 3) -> Path:
    synthesize_layout(folder / layout, layout, people=people, seed=seed)
    return folder / layout


def outcomes(dataset: str, root: Path, **extra: Any) -> tuple[list[Person], list[Rejected]]:
    """People and rejections of a data set; a number that overflows or is not one is no mere warning."""
    entry = DATASETS[dataset]
    data = extra.pop("data", Path("no data folder"))
    openpose = extra.pop("openpose", None)
    options = ReaderOptions(entry.splits[0], data=data, openpose=openpose, extra=extra)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = list(read_all(entry.reader, root, options))
    return [o for o in found if isinstance(o, Person)], [o for o in found if isinstance(o, Rejected)]


def truth_of(root: Path) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Rows of truth.npz by image and number."""
    with np.load(root / "truth.npz", allow_pickle=False) as content:
        arrays = {key: content[key] for key in content.files}
    names = zip(arrays.pop("image").tolist(), arrays.pop("number").tolist())
    return {name: {key: array[row] for key, array in arrays.items()} for row, name in enumerate(names)}


def joints17_cam_m(row: dict[str, np.ndarray]) -> np.ndarray:
    """Where the truth has Human3.6M's 17 joints, in the camera's frame."""
    return row["joints17_m"] + row["pelvis_cam_m"]


def project(camera: Camera, points_m: np.ndarray) -> np.ndarray:
    return camera.focal_px * points_m[..., :2] / points_m[..., 2:] + camera.principal_px
