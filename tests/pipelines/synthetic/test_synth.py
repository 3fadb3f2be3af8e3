"""The synthetic data set on disk: readable as COCO, repeatable, and never written over something else."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.errors import StageError, UsageError
from pipelines.synthetic import coco_world
from pipelines.synthetic.coco_format import polygons
from pipelines.synthetic.coco_world import synthesize
from spin.joints import JOINTS

COUNTS = {"people": 9, "test_people": 4, "seed": 11, "truth_share": 0.34}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("synth") / "world"
    seen: list[tuple[int, int]] = []
    summary = synthesize(out, **COUNTS, workers=1, progress=lambda *now: seen.append(now))
    return out, summary, seen


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def coco(out: Path, split: str) -> dict:
    return json.loads((out / "annotations" / f"person_keypoints_{split}.json").read_text())


def test_counts_are_exact_and_progress_reaches_the_total(made):
    out, summary, seen = made
    assert (summary.train_people, summary.test_people, summary.truth_given) == (9, 4, 3 + 4)
    assert not summary.reused
    for split, people, images in (
        ("train2014", 9, summary.train_images),
        ("val2014", 4, summary.test_images),
    ):
        assert len(coco(out, split)["annotations"]) == people
        assert len(coco(out, split)["images"]) == len(list((out / split).glob("*.jpg"))) == images
        assert len(list((out / "openpose" / split).glob("*_keypoints.json"))) == images
    assert seen[-1] == (13, 13)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


@pytest.mark.parametrize("split", ["train2014", "val2014"])
def test_annotations_are_cocos(made, split):
    """What pycocotools and every reader of COCO rely on."""
    out, _, _ = made
    data = coco(out, split)
    assert set(data) == {"info", "licenses", "images", "annotations", "categories"}
    (category,) = data["categories"]
    assert category["keypoints"][0] == "nose"
    assert category["keypoints"][16] == "right_ankle"
    assert {i for pair in category["skeleton"] for i in pair} <= set(range(1, 18))
    images = {i["id"]: i for i in data["images"]}
    assert len({a["id"] for a in data["annotations"]}) == len(data["annotations"])
    for annotation in data["annotations"]:
        image = images[annotation["image_id"]]
        pixels = cv2.imread(str(out / split / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
        keypoints = np.array(annotation["keypoints"]).reshape(17, 3)
        assert keypoints.dtype.kind == "i"
        assert (keypoints[keypoints[:, 2] == 0] == 0).all()
        assert annotation["num_keypoints"] == (keypoints[:, 2] > 0).sum()
        assert (keypoints[:, :2] < [image["width"], image["height"]]).all()
        assert annotation["category_id"] == 1
        assert annotation["iscrowd"] == 0
        x, y, w, h = annotation["bbox"]
        assert 0 < annotation["area"] <= w * h
        outline = np.concatenate([np.array(p).reshape(-1, 2) for p in annotation["segmentation"]])
        assert (outline >= [x, y]).all()
        assert (outline <= [x + w, y + h]).all()


def test_train_and_test_share_no_picture(made):
    out, _, _ = made
    ids = [{i["id"] for i in coco(out, s)["images"]} for s in ("train2014", "val2014")]
    assert not ids[0] & ids[1]
    jpegs = [p.read_bytes() for s in ("train2014", "val2014") for p in (out / s).glob("*.jpg")]
    assert len(set(jpegs)) == len(jpegs)


def test_polygons_enclose_the_mask():
    """A polygon through pixel centres would lose half a pixel all round: 36 of this square's 400."""
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:30] = True
    mask[5:9, 45:55] = True
    areas = sorted(cv2.contourArea(np.array(p, np.float32).reshape(-1, 1, 2)) for p in polygons(mask))
    np.testing.assert_allclose(areas, [3.5 * 9.5, 19.5**2])


def test_truth_goes_with_the_annotations(made):
    out, summary, _ = made
    for split, given in (("train2014", 3), ("val2014", 4)):
        annotations = coco(out, split)["annotations"]
        with np.load(out / "truth" / f"{split}.npz", allow_pickle=False) as z:
            truth = dict(z)
        count = len(annotations)
        assert truth["annotation_id"].tolist() == [a["id"] for a in annotations]
        assert truth["given"].sum() == given
        assert str(truth["body"]) == summary.body
        shapes = {k: truth[k].shape[1:] for k in ("pose", "betas", "joints17_m", "S")}
        assert shapes == {"pose": (72,), "betas": (10,), "joints17_m": (17, 3), "S": (24, 4)}
        assert len(truth["pose"]) == count
        for row, annotation in enumerate(annotations):
            keypoints = np.array(annotation["keypoints"]).reshape(17, 3)
            marked = keypoints[:, 2] > 0
            joints = truth["S"][row][[k - JOINTS.superset.start for k in JOINTS.coco], :2][marked]
            # a straight line from metres to pixels fits: same people, same order, no mirror
            assert np.corrcoef(joints[:, 1], keypoints[marked, 1])[0, 1] > 0.97
            assert np.corrcoef(joints[:, 0], keypoints[marked, 0])[0, 1] > 0.8


def test_detections_are_body_25(made):
    out, _, _ = made
    found = 0
    for file in (out / "openpose").rglob("*.json"):
        for person in json.loads(file.read_text())["people"]:
            assert len(person["pose_keypoints_2d"]) == 75
            found += 1
    assert found >= 11


def test_two_processes_write_the_same_bytes(made, tmp_path):
    """Breaks if a picture depends on what its process drew before, or on threads."""
    out, _, _ = made
    synthesize(tmp_path / "again", **COUNTS, workers=2)
    assert content(tmp_path / "again") == content(out)


def test_a_complete_data_set_is_left_alone(made, monkeypatch):
    out, summary, _ = made
    monkeypatch.setattr(coco_world, "_write_pictures", None)
    again = synthesize(out, **COUNTS, workers=1)
    assert again.reused
    assert (again.train_images, again.test_images) == (summary.train_images, summary.test_images)


def test_an_interrupted_run_is_finished(made, tmp_path):
    """Stopped after the first pictures: nothing claims to be complete, and the next run makes it whole."""
    out, _, _ = made

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "cut", **COUNTS, workers=1, progress=stop)
    assert not json.loads((tmp_path / "cut" / "synth.json").read_text())["complete"]
    assert not list((tmp_path / "cut" / "annotations").iterdir())
    synthesize(tmp_path / "cut", **COUNTS, workers=1)
    assert content(tmp_path / "cut") == content(out)


def test_other_settings_and_other_folders_are_rejected(made, tmp_path):
    out, _, _ = made
    with pytest.raises(StageError, match="seed 11 there, 12 asked for"):
        synthesize(out, **{**COUNTS, "seed": 12}, workers=1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StageError, match=r"no synth\.json"):
        synthesize(tmp_path, **COUNTS, workers=1)
    with pytest.raises(StageError, match="is a file"):
        synthesize(tmp_path / "notes.txt", **COUNTS, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "wrong",
    [{"people": -1}, {"people": 0, "test_people": 0}, {"truth_share": 1.5}, {"seed": -3}, {"workers": 0}],
)
def test_senseless_options_are_rejected_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(UsageError):
        synthesize(tmp_path / "out", **{**COUNTS, "workers": 1, **wrong})
    assert not (tmp_path / "out").exists()
