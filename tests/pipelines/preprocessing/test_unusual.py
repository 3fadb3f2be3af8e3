"""What is unusual in a file is used, or counted and named: ids of each image, feet, columns and keys, people listed twice."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_data import coco_style, people_of, table_rows, write_csv

from pipelines.folders import DataFolder
from pipelines.preprocessing.person_checks import LISTED_TWICE
from pipelines.preprocessing.preprocess import PreprocessSummary, preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from spin.joints import JOINTS
from store.annotations.table import Annotations

FEET = [f"OpenPose {name}" for name in ("left big toe", "left small toe", "left heel")]


@pytest.fixture
def root(world: Path, tmp_path: Path) -> Path:
    return shutil.copytree(world, tmp_path / "raw")


def content_of(root: Path) -> dict[str, Any]:
    return json.loads((root / "annotations" / "person_keypoints_train2014.json").read_text())


def read(tmp_path: Path, reader: str, root: Path, content: dict[str, Any] | None) -> tuple[PreprocessSummary, Annotations]:
    data, path = DataFolder(tmp_path / "data"), root / "annotations" / "person_keypoints_train2014.json"
    if content is not None:
        path.write_text(json.dumps(content))
    if reader == "coco":
        done = preprocess(data, DATASETS["coco"], root, reader, ReaderOptions("train2014", 8))
    else:
        extra = {"annotations": path} if reader == "custom" else {"table": root / "mine.csv"}
        done = preprocess(data, DATASETS["custom"], root / "train2014", reader, ReaderOptions("all", 8, extra=extra))
    return done, Annotations.read(done.path)


@pytest.mark.parametrize("reader", ["coco", "custom"])
def test_ids_of_each_image_keep_all_people_and_no_one_elses_truth(root: Path, tmp_path: Path, reader: str) -> None:
    content = content_of(root)
    before, people = read(tmp_path, reader, root, content)
    count: Counter[int] = Counter()
    for annotation in content["annotations"]:
        count[annotation["image_id"]] += 1
        annotation["id"] = count[annotation["image_id"]]
    done, after = read(tmp_path, reader, root, content)
    assert done.people == before.people
    assert np.array_equal(after.keypoints_px, people.keypoints_px)
    assert len(set(zip(after.image, after.source))) == len(after)
    assert done.with_body == 0  # truth/ has ids alone
    assert before.with_body == (10 if reader == "coco" else 0)


@pytest.mark.parametrize("reader", ["coco", "custom"])
def test_an_id_twice_in_an_image_names_two_people(root: Path, tmp_path: Path, reader: str) -> None:
    content = content_of(root)
    before, people = read(tmp_path, reader, root, content)
    for annotation in content["annotations"]:
        annotation["id"] = 7
    content["annotations"].append(dict(content["annotations"][0]))
    done, after = read(tmp_path, reader, root, content)
    assert done.people == before.people
    assert done.rejected[LISTED_TWICE] == 1
    assert np.array_equal(after.keypoints_px, people.keypoints_px)


@pytest.mark.parametrize("reader", ["coco", "custom"])
def test_wholebodys_feet_are_used_and_other_keys_named(root: Path, tmp_path: Path, reader: str) -> None:
    content = content_of(root)
    shutil.rmtree(root / "openpose")
    feet = [150.0, 151.0, 2, 152.0, 153.0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    for annotation in content["annotations"]:
        annotation |= {"foot_kpts": feet, "lefthand_kpts": [1.0, 2.0, 1.0], "face_kpts": []}
    done, after = read(tmp_path, reader, root, content)
    at = [JOINTS.index[name] for name in FEET]
    assert np.array_equal(after.keypoints_px[:, at[:2], :2], np.tile([[150, 151], [152, 153]], (len(after), 1, 1)))
    assert (after.keypoints_px[:, at, 2] == [1, 1, 0]).all()
    assert done.with_openpose == 0
    assert done.notes == {"people with 'lefthand_kpts' in the file, which is not used": len(content["annotations"])}


@pytest.mark.parametrize("count", [26, 133, 136])
def test_orders_without_names_are_known_by_their_number(root: Path, tmp_path: Path, count: int) -> None:
    content = content_of(root)
    _, plain = read(tmp_path, "custom", root, content)
    content["categories"] = [{"id": 1, "name": "person"}]
    for annotation in content["annotations"]:
        more = np.zeros((count - 17, 3))
        more[0 if count == 133 else 3] = [200, 210, 1]  # the left big toe in each
        annotation["keypoints"] += more.ravel().tolist()
    _, after = read(tmp_path, "custom", root, content)
    toe = JOINTS.index[FEET[0]]
    assert after.keypoints_px[:, toe].tolist() == [[200, 210, 1]] * len(after)
    assert np.array_equal(after.keypoints_px[:, 25:], plain.keypoints_px[:, 25:])


@pytest.mark.parametrize("end", ["confidence", "conf", "likelihood", "prob", "score", "visibility"])
def test_confidences_by_any_name_and_unused_columns(root: Path, tmp_path: Path, end: str) -> None:
    rows = table_rows(people_of(root), boxes=True)
    for row in rows:
        for key in [key for key in row if key.endswith("_confidence")]:
            row[key.replace("confidence", end)] = row.pop(key)
        row |= {"left_wrist_x": 5.0, "left_wrist_y": 5.0, f"left_wrist_{end}": 0.01, "left_wrist_z": 3.0, "nose_speed": 1.0}
    write_csv(root / "mine.csv", rows)
    done, after = read(tmp_path, "table", root, None)
    np.testing.assert_allclose(after.keypoints_px[:, JOINTS.index["left wrist"], 2], 0.01)
    assert done.notes == {"columns are not used: comment, left_wrist_z, nose_speed": 3}


def test_rows_listed_twice_are_counted(root: Path, tmp_path: Path) -> None:
    rows = table_rows(people_of(root), boxes=True)
    write_csv(root / "mine.csv", rows)
    before, _ = read(tmp_path, "table", root, None)
    write_csv(root / "mine.csv", [*rows, *rows[:5]])
    done, _ = read(tmp_path, "table", root, None)
    assert done.people == before.people
    assert done.rejected[LISTED_TWICE] == 5


def test_the_summary_counts_what_there_is(root: Path, tmp_path: Path) -> None:
    (root / "mine.json").write_text(json.dumps(coco_style(people_of(root), boxes=True)))
    extra = {"annotations": root / "mine.json"}
    done = preprocess(
        DataFolder(tmp_path / "data"), DATASETS["custom"], root / "train2014", "mine", ReaderOptions("all", 8, extra=extra)
    )
    assert (done.with_openpose, done.with_body, done.with_joints) == (0, 0, 0)
    assert set(Annotations.read(done.path).openpose_match) == {"no OpenPose detections given"}


def test_wholebodys_joints_after_cocos_names(root: Path, tmp_path: Path) -> None:
    """COCO-WholeBody's category names 17 joints, and people have 133."""
    content = content_of(root)
    _, plain = read(tmp_path, "custom", root, content)
    for annotation in content["annotations"]:
        annotation["keypoints"] += [200, 210, 1] + [0] * 3 * 115
    done, after = read(tmp_path, "custom", root, content)
    assert done.notes == {"people with joints of face and hands, which are not used": len(content["annotations"])}
    assert after.keypoints_px[:, JOINTS.index[FEET[0]]].tolist() == [[200, 210, 1]] * len(after)
    assert np.array_equal(after.keypoints_px[:, 25:], plain.keypoints_px[:, 25:])
