"""Damaged files of COCO, OpenPose and people's own data: people, rejections or one error of one line, and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mutations import byte_mutations, json_mutations, outcomes_of
from own_data import PLAIN, Someone, coco_style, table_rows, write_csv, write_openpose

from pipelines.errors import StageError
from pipelines.readers.base import Person, Reader, ReaderOptions, Rejected
from pipelines.readers.coco import reader as coco
from pipelines.readers.custom import reader as custom
from pipelines.readers.openpose import read_detections
from spin.joints import OPENPOSE_NAMES

OWN = ReaderOptions("all", min_body_joints=6)


def people(count: int = 6) -> list[Someone]:
    random = np.random.default_rng(5)
    out = []
    for number in range(count):
        joints = {name: (float(x), float(y), 1.0) for name, (x, y) in zip(PLAIN, random.uniform(20, 300, (13, 2)))}
        out.append(Someone(f"{number // 2}.jpg", joints, [20.0, 20.0, 280.0, 280.0], number + 1))
    return out


def classified(reader: Reader, root: Path, options: ReaderOptions, what: str) -> str:
    found = outcomes_of(reader, root, options, what)
    if isinstance(found, StageError):
        return "error"
    return "rejected" if any(isinstance(o, Rejected) for o in found) else "people"


def fuzzed(reader: Reader, root: Path, options: ReaderOptions, file: Path, mutations) -> Counter[str]:
    """What becomes of each mutation of one file; the file is as before afterwards."""
    whole = file.read_bytes()
    assert all(isinstance(o, Person) for o in outcomes_of(reader, root, options))
    seen: Counter[str] = Counter()
    for what, content in mutations:
        file.write_bytes(content)
        seen[classified(reader, root, options, f"{file.name}: {what}")] += 1
    file.write_bytes(whole)
    return seen


def reaches_everything(seen: Counter[str], count: int) -> None:
    """Otherwise the damage is all of a kind that is found at the door, and the fuzzing shows nothing."""
    assert seen.total() == count
    assert min(seen["error"], seen["rejected"]) >= count * 0.05, seen


def cocos(root: Path, count: int) -> Path:
    (root / "annotations").mkdir(parents=True)
    everyone = people(count)
    content = coco_style(everyone, boxes=True)
    for annotation, person in zip(content["annotations"], everyone):
        face = [person.joints["nose"]] * 5
        limbs = [person.joints[name] for name in PLAIN[:12]]
        annotation["keypoints"] = [v for joint in face + limbs for v in joint]
    file = root / "annotations" / "person_keypoints_train2014.json"
    file.write_text(json.dumps(content))
    return file


def test_damaged_coco_files(tmp_path: Path) -> None:
    file = cocos(tmp_path, 6)
    options = ReaderOptions("train2014", min_body_joints=6)
    seen = fuzzed(coco, tmp_path, options, file, json_mutations(file.read_bytes(), 300, seed=1))
    reaches_everything(seen, 300)


def test_damaged_openpose_files_of_coco(tmp_path: Path) -> None:
    cocos(tmp_path, 2)
    folder = tmp_path / "openpose" / "train2014"
    write_openpose(folder, people(2), OPENPOSE_NAMES)
    options = ReaderOptions("train2014", min_body_joints=6)
    (file,) = folder.glob("*.json")
    seen = fuzzed(coco, tmp_path, options, file, json_mutations(file.read_bytes(), 200, seed=2))
    assert seen == Counter(people=200)  # the annotation is good, so its person stays


def test_damaged_openpose_files_alone(tmp_path: Path) -> None:
    write_openpose(tmp_path, people(2), OPENPOSE_NAMES)
    file = tmp_path / "0_keypoints.json"
    errors = 0
    for what, content in json_mutations(file.read_bytes(), 200, seed=3):
        file.write_bytes(content)
        try:
            found = read_detections(file)
        except StageError:
            errors += 1
            continue
        assert found.shape[1:] == (25, 3), what
        assert np.isfinite(found).all(), what
    assert errors > 50


def test_damaged_own_annotations(tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(coco_style(people(), boxes=True)))
    seen = fuzzed(custom, tmp_path, OWN, file, json_mutations(file.read_bytes(), 400, seed=4))
    reaches_everything(seen, 400)


def test_damaged_own_detections(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").touch()
    write_openpose(tmp_path / "detections", people(), OPENPOSE_NAMES)
    file = tmp_path / "detections" / "1_keypoints.json"
    seen = fuzzed(custom, tmp_path, OWN, file, json_mutations(file.read_bytes(), 300, seed=6))
    assert seen["error"] == 0  # the other files are good
    assert seen["rejected"] > 100


@pytest.mark.parametrize("boxes", [True, False])
def test_damaged_own_tables_of_text(tmp_path: Path, boxes: bool) -> None:
    file = tmp_path / "table.csv"
    write_csv(file, table_rows(people(), boxes=boxes))
    seen = fuzzed(custom, tmp_path, OWN, file, byte_mutations(file.read_bytes(), 200, seed=7))
    reaches_everything(seen, 200)


def test_damaged_own_tables_of_parquet(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    pq.write_table(pa.Table.from_pylist(table_rows(people(), boxes=True)), file)
    seen = fuzzed(custom, tmp_path, OWN, file, byte_mutations(file.read_bytes(), 200, seed=8))
    assert seen["error"] > 50


ODD_COLUMNS: dict[str, Any] = {
    "numbers as text": pa.array(["1.5", "two"] * 3),
    "lists": pa.array([[1.0]] * 6),
    "structs": pa.array([{"a": 1}] * 6),
    "binary": pa.array([b"\xff\xfe"] * 6),
    "nulls": pa.nulls(6),
    "times": pa.array([10**12] * 6, pa.timestamp("us")),
}


@pytest.mark.parametrize("name", ["image", "left_knee_x", "width", "person"])
def test_columns_of_another_type(tmp_path: Path, name: str) -> None:
    table = pa.Table.from_pylist(table_rows(people(), boxes=True))
    for what, column in ODD_COLUMNS.items():
        pq.write_table(table.set_column(table.schema.get_field_index(name), name, column), tmp_path / "table.parquet")
        found = outcomes_of(custom, tmp_path, OWN, what)
        assert isinstance(found, StageError) or len(found) == 6
