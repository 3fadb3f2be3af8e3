"""What `spin-pipe info` says is what is there, also of what is damaged."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from pipelines.cli import cli
from pipelines.fitting.assets import FittingFiles
from pipelines.folders import DataFolder
from pipelines.inspection.info import dataset_info
from pipelines.panels import PANEL_PX
from pipelines.preprocessing.pack import PackConfig, pack
from spin.fitting.fitter import FitConfig
from spin.fitting.objective import OBJECTIVES
from store.annotations.table import Annotations
from store.fits.records import Fits, Source, Verdict
from store.fits.store import FitStore


@pytest.fixture
def data(preprocessed: Path, tmp_path: Path) -> DataFolder:
    return DataFolder(shutil.copytree(preprocessed, tmp_path / "data"))


@pytest.fixture
def fitted(data: DataFolder) -> DataFolder:
    """Samples 0 to 3 have fits, of which 3 is not valid."""
    annotations = Annotations.read(data.annotations("world"))
    config = FitConfig(objective=OBJECTIVES["published"], init=("multistart",))
    fingerprint = FittingFiles.of(data, config).fingerprint(config.objective, annotations)
    store = FitStore.create(data.fits("world"), samples=len(annotations), fingerprint=fingerprint)
    fits = replace(
        Fits.empty(4),
        camera=np.tile(np.float32([0, 0.2, 50]), (4, 1)),
        loss=np.float32([1, 2, 3, 400]),
        score=np.float32([1, 2, 3, 400]),
        source=np.full(4, Source.STATIC, np.uint8),
        verdict=np.array([Verdict.VALID] * 3 + [Verdict.LOSS_TOO_HIGH], np.uint8),
    )
    store.merge(np.arange(4), fits)
    store.tag("static")
    return data


def run(data: DataFolder, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["info", *arguments, "--data", str(data.root), "--log-dir", str(data.root / "logs")])
    return done.exit_code, f"{done.stdout}{done.exception or ''}"


def test_counts_are_those_of_the_annotations_and_fits(fitted: DataFolder, world: Path) -> None:
    a = Annotations.read(fitted.annotations("world"))
    rejected = [{"source": f"annotation {i}", "image": "", "reason": "is a crowd"} for i in range(2)]
    fitted.rejected("world").write_text(json.dumps(rejected))
    content = json.loads(run(fitted, "--json")[1])
    assert [d["name"] for d in content["datasets"]] == ["world", "world-test"]
    found = content["datasets"][0]
    assert found["people"] == len(a)
    assert found["images"] == len(set(a.image))
    assert found["smpl"] == a.has_smpl.sum() > 0
    assert found["openpose"] == (a.keypoints_px[:, :25, 2] > 0).any(1).sum()
    assert found["rejected"] == 2
    assert found["content_hash"] == a.content_hash
    assert found["reader"].startswith("coco, version")
    assert found["image_root"] == str(world.resolve())
    assert found["image_root_exists"]
    assert (found["fitted"], found["valid"], found["tags"]) == (4, 3, ["static"])
    assert content["datasets"][1]["fitted"] == 0
    assert content["body"]["name"]
    code, text = run(fitted)
    assert code == 0
    assert f"fits: 4 of {len(a)} samples, 3 valid" in text
    assert "fit-static world-test" in text


def test_details_say_how_often_each_joint_is_known(data: DataFolder) -> None:
    a = Annotations.read(data.annotations("world"))
    content = json.loads(run(data, "world", "--json")[1])
    assert content["joints_known"]["right ankle"] == pytest.approx((a.keypoints_px[:, 25, 2] > 0).mean(), abs=1e-4)
    assert content["box_side_px"]["most"] == pytest.approx(200 * a.scale.max(), abs=0.1)
    assert content["provenance"]["reader"] == "coco"
    code, text = run(data, "world")
    assert code == 0
    assert "right ankle" in text


def test_a_sample_has_numbers_and_a_picture(fitted: DataFolder, tmp_path: Path) -> None:
    a = Annotations.read(fitted.annotations("world"))
    widths = {}
    for row in (0, 5):
        picture = tmp_path / f"{row}.png"
        code, text = run(fitted, "world", "--sample", str(row), "--out", str(picture), "--json")
        assert code == 0, text
        content = json.loads(text)
        assert content["source"] == a.source[row]
        assert len(content["keypoints_px"]) == (a.keypoints_px[row, :, 2] > 0).sum()
        image = cv2.imread(str(picture))
        assert image.std() > 10
        widths[row] = image.shape[1]
    assert widths == {0: 3 * PANEL_PX, 5: PANEL_PX}  # with a fit, also the body, and its side
    code, text = run(fitted, "world", "--sample", "3", "--out", str(tmp_path / "x.png"))
    assert code == 0
    assert "loss_px2 400" in text


def test_a_sample_without_its_image_still_has_numbers(fitted: DataFolder, tmp_path: Path) -> None:
    a = Annotations.read(fitted.annotations("world"))
    replace(a, image_root=str(tmp_path / "gone")).write(fitted.annotations("world"))
    assert run(fitted, "world", "--sample", "0", "--out", str(tmp_path / "x.png"))[0] == 0
    assert (tmp_path / "x.png").is_file()
    assert "no such folder: its images can't be read" in run(fitted)[1]


def test_what_is_damaged_is_said_and_the_rest_is_told(fitted: DataFolder) -> None:
    fitted.annotations("world-test").write_bytes(b"nothing")
    code, text = run(fitted)
    assert code == 0
    assert "world-test.parquet: not a Parquet file" in text
    assert "4 of" in text
    a = Annotations.read(fitted.annotations("world"))
    replace(a, scale=a.scale * 2).write(fitted.annotations("world"))  # other annotations than the fits were made for
    found = dataset_info(fitted, "world")
    assert found.fitted == 0
    assert "annotations" in found.fits_problem
    fitted.rejected("world").write_text("{")
    assert "can't be read" in dataset_info(fitted, "world").fits_problem


def test_nothing_there_and_wrong_questions(data: DataFolder, tmp_path: Path) -> None:
    assert "no data set" in run(DataFolder(tmp_path / "empty"))[1]
    wrong = {
        ("mars",): "no data set 'mars'",
        ("world", "--sample", "9999"): "has samples 0 to",
        ("world", "--sample", "-1"): "has samples 0 to",
        ("--sample", "1"): "name its data set",
        ("world", "--out", "x.png"): "picture of a --sample",
        ("world", "--sample", "1", "--out", "x.jpg"): "ends in .png",
    }
    for arguments, message in wrong.items():
        code, text = run(data, *arguments)
        assert code != 0
        assert message in text


def test_packed_crops_are_told_of_also_when_damaged(data: DataFolder) -> None:
    assert "packed crops: none" in run(data, "world")[1]
    pack(data, "world-test", PackConfig(), workers=1)
    assert re.search(r"packed crops: \d+ rows, 0 of them unreadable, .* grey levels", run(data, "world-test")[1])
    found = json.loads(run(data, "world-test", "--json")[1])["packed_crops"]
    assert found["rows"] == len(Annotations.read(data.annotations("world-test")))
    data.crops("world-test").write_bytes(b"nothing")
    code, text = run(data, "world-test")
    assert code == 0 and "world-test.crops" in text
