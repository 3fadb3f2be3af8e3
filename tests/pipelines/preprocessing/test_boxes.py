"""Boxes are compared with keypoints: who has no usable crop is rejected with the reason, and counted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_data import people_of, table_rows, write_csv

from pipelines.errors import StageError
from pipelines.folders import DataFolder
from pipelines.preprocessing.preprocess import PreprocessSummary, preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from pipelines.readers.boxes import CORNERS
from store.annotations.table import Annotations

READERS = ("coco", "custom", "table")
Boxes = Callable[[list[float]], list[float]]


@pytest.fixture
def root(world: Path, tmp_path: Path) -> Path:
    return shutil.copytree(world, tmp_path / "raw")


def preprocessed(tmp_path: Path, reader: str, root: Path, change: Boxes, rows: list[int] | None = None) -> PreprocessSummary:
    """Preprocess the world with the boxes of some people changed, of all if no rows are given."""
    data, path = DataFolder(tmp_path / "data"), root / "annotations" / "person_keypoints_train2014.json"
    content: dict[str, Any] = json.loads(path.read_text())
    for row in range(len(content["annotations"])) if rows is None else rows:
        content["annotations"][row]["bbox"] = change(content["annotations"][row]["bbox"])
    path.write_text(json.dumps(content))
    if reader == "coco":
        return preprocess(data, DATASETS["coco"], root, reader, ReaderOptions("train2014", 8))
    if reader == "custom":
        extra = {"annotations": path}
    else:
        write_csv(root / "mine.csv", table_rows(people_of(root), boxes=True))
        extra = {"table": root / "mine.csv"}
    return preprocess(data, DATASETS["custom"], root / "train2014", reader, ReaderOptions("all", 8, extra=extra))


def ids(done: PreprocessSummary) -> list[str]:
    return Annotations.read(done.path).source


WRONG: dict[str, tuple[Boxes, str]] = {
    "flat": (lambda b: [b[0], b[1], 0.0, b[3]], "has no area"),
    "3 × 3": (lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, 3.0, 3.0], "smaller than 4 px"),
    "of another person": (lambda b: [b[0] + 1.5 * b[2], b[1] + 1.5 * b[3], b[2], b[3]], "keypoints are outside its box's crop"),
    "a tenth": (
        lambda b: [b[0] + 0.45 * b[2], b[1] + 0.45 * b[3], b[2] / 10, b[3] / 10],
        "keypoints are outside its box's crop",
    ),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", WRONG)
def test_a_box_that_shows_nothing_of_its_person_is_rejected(root: Path, tmp_path: Path, reader: str, case: str) -> None:
    change, reason = WRONG[case]
    before = preprocessed(tmp_path, reader, root, lambda box: box)
    known = ids(before)
    changed = [3, 8, 20]
    done = preprocessed(tmp_path, reader, root, change, changed)
    listed = json.loads(done.rejected_list.read_text())
    found = [entry for entry in listed if reason in entry["reason"] or "outside the image" in entry["reason"]]
    assert len(found) == before.people - done.people > 0
    assert set(ids(done)) == set(known) - {entry["source"] for entry in found}


@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_corners_is_rejected_with_the_remedy(root: Path, tmp_path: Path, reader: str) -> None:
    with pytest.raises(StageError, match=r"boxes look like x1, y1, x2, y2.*width = x2 - x1"):
        preprocessed(tmp_path, reader, root, lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@pytest.mark.parametrize("reader", READERS)
def test_a_few_corners_are_rejected_one_by_one(root: Path, tmp_path: Path, reader: str) -> None:
    before = preprocessed(tmp_path, reader, root, lambda box: box)
    people = Annotations.read(before.path)
    low = people.center_px - 100 * people.scale[:, None]
    far = np.flatnonzero((low > 70).all(1))[:2]  # where the two readings differ
    numbers = [int("".join(c for c in people.source[row].split(" ")[-1] if c.isdigit())) for row in far]
    content = json.loads((root / "annotations" / "person_keypoints_train2014.json").read_text())
    rows = [i for i, a in enumerate(content["annotations"]) if a["id"] in numbers]
    done = preprocessed(tmp_path, reader, root, lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]], rows)
    assert len(rows) == 2
    assert done.rejected[CORNERS] == 2
    assert done.people == before.people - 2


def test_people_of_the_world_are_not_mistaken(root: Path, tmp_path: Path) -> None:
    """Cropped people, whose keypoints fill a part of their box, keep it."""

    def larger(box: list[float]) -> list[float]:
        return [box[0] - 0.2 * box[2], box[1] - 0.1 * box[3], 1.6 * box[2], 1.8 * box[3]]

    before = preprocessed(tmp_path, "custom", root, lambda box: box)
    assert preprocessed(tmp_path, "custom", root, larger).people == before.people
