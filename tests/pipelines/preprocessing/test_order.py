"""Samples are in the order of the source file, not of the images its people are in: published files of fits have that order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from own_data import coco_style, people_of, table_rows, write_csv

from pipelines.folders import DataFolder
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from pipelines.synthetic.published import synthesize_layout
from store.annotations.table import Annotations


def read(tmp_path: Path, name: str, root: Path, options: ReaderOptions, **how: Any) -> Annotations:
    done = preprocess(DataFolder(tmp_path / "data"), DATASETS[name], root, "mine", options, **how)
    return Annotations.read(done.path)


def shuffled(items: list[Any]) -> list[Any]:
    return [items[i] for i in np.random.default_rng(3).permutation(len(items))]


def test_coco_keeps_the_order_of_its_annotations(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.readers.coco.reader._IMAGES_A_PART", 3)
    root = shutil.copytree(world, tmp_path / "raw")
    path = root / "annotations" / "person_keypoints_train2014.json"
    content = json.loads(path.read_text())
    options = ReaderOptions("train2014", 8)
    before = read(tmp_path, "coco", root, options)
    content["annotations"] = shuffled(content["annotations"])
    path.write_text(json.dumps(content))
    after = read(tmp_path, "coco", root, options, workers=1)
    expected = [f"annotation {a['id']}" for a in content["annotations"]]
    assert after.source == [source for source in expected if source in set(before.source)]
    assert after.source != before.source
    assert len(set(after.image)) < sum(a != b for a, b in zip(after.image, after.image[1:]))  # not image by image
    at = [before.source.index(source) for source in after.source]
    assert np.array_equal(after.keypoints_px, before.keypoints_px[at])
    assert np.array_equal(after.pose, before.pose[at])
    assert after.image == [before.image[row] for row in at]


@pytest.mark.parametrize("kind", ["annotations.json", "table.csv"])
def test_own_data_keep_their_order(world: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.readers.custom.coco_like._IMAGES_A_PART", 3)
    monkeypatch.setattr("pipelines.readers.custom.table._ROWS_A_PART", 5)
    root = shutil.copytree(world / "train2014", tmp_path / "photos")
    people = shuffled(people_of(world))
    if kind == "table.csv":
        write_csv(root / kind, table_rows(people, boxes=True))
    else:
        (root / kind).write_text(json.dumps(coco_style(people, boxes=True)))
    after = read(tmp_path, "custom", root, ReaderOptions("all", 0))
    assert after.image == [person.image for person in people]
    numbers = [int(source.split("p" if kind == "table.csv" else " ")[-1]) for source in after.source]
    assert numbers == [person.number for person in people]


def test_mpii_keeps_the_order_of_its_rows(tmp_path: Path) -> None:
    synthesize_layout(tmp_path / "raw", "mpii", people=8, seed=1)
    before = read(tmp_path, "mpii", tmp_path / "raw", ReaderOptions("train", 0))
    with h5py.File(tmp_path / "raw" / "train.h5", "r+") as file:
        order = np.random.default_rng(3).permutation(len(file["imgname"]))
        for name in list(file):
            if len(file[name]) == len(order):
                file[name][...] = file[name][()][order]
    after = read(tmp_path, "mpii", tmp_path / "raw", ReaderOptions("train", 0))
    rows = [int(source.split()[-1]) for source in after.source]
    assert rows == sorted(rows)
    at = [before.source.index(f"train.h5 row {order[row]}") for row in rows]
    assert np.array_equal(after.keypoints_px[:, 25:], before.keypoints_px[at][:, 25:])


def test_hr_lspet_keeps_people_with_few_joints(tmp_path: Path) -> None:
    """Published rows are one an image: each row that is dropped moves all that follow."""
    from scipy.io import loadmat, savemat

    synthesize_layout(tmp_path / "raw", "lspet", people=8, seed=1)
    joints = loadmat(tmp_path / "raw" / "joints.mat")["joints"]
    joints[:10, :, 3] = 0  # of one person, ten joints are not annotated
    savemat(tmp_path / "raw" / "joints.mat", {"joints": joints})
    people = read(tmp_path, "lspet", tmp_path / "raw", ReaderOptions("train", DATASETS["lspet"].min_body_joints))
    assert people.source == [f"joints.mat {row + 1}" for row in range(joints.shape[2])]
