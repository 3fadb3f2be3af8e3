"""What evaluation lists as left out, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines.errors import StageError
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.subjects import checkpoint_subject, result_subject
from pipelines.folders import DataFolder
from spin.errors import ModelFileError
from store.errors import ExchangeError
from tests.pipelines.evaluation.measured import CONFIG, read, save_result, tiny_network


def test_what_cannot_be_measured_is_listed(data: DataFolder, folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(folder / "lsp", tmp_path / "lsp")
    people = replace(read(data, "lsp"), image_root=str(root))
    people.write(data.annotations("lsp"))
    (root / people.image[0]).unlink()
    (root / people.part[1]).write_bytes(b"no picture")
    done = evaluate(data, "lsp", checkpoint_subject(folder / "net0.pt"), tmp_path / "out.json", config=CONFIG)
    left_out = json.loads(done.json_path.read_text())["left_out"]
    assert [entry["row"] for entry in left_out] == [0, 1]
    assert "no such file" in left_out[0]["reason"]
    assert "can't be read" in left_out[1]["reason"]
    assert done.result.rows.tolist() == [2]
    assert done.result.card["frames"]["count"] == 1
    label = cv2.imread(str(root / people.part[2]), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(root / people.part[2]), np.where(label == 2, 77, label))
    with pytest.raises(StageError, match="none of its 3 samples could be measured"):
        evaluate(data, "lsp", checkpoint_subject(folder / "net0.pt"), tmp_path / "out.json", config=CONFIG)


def test_bodies_that_are_no_numbers_are_listed(data: DataFolder, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    pose = people.pose.copy()
    pose[1, 5] = np.nan
    subject = result_subject(save_result(tmp_path / "theirs.npz", people, pose=pose), people)
    done = evaluate(data, "3dpw", subject, tmp_path / "out.json", config=CONFIG)
    assert [(entry["row"], entry["reason"]) for entry in done.result.left_out] == [(1, "its body is not a number")]
    assert done.metrics["mpjpe_mm"] == pytest.approx(0, abs=1e-3)


def test_results_of_other_data_sets_are_refused(data: DataFolder, folder: Path, tmp_path: Path) -> None:
    lsp, people = read(data, "lsp"), read(data, "3dpw")
    theirs = save_result(tmp_path / "theirs.npz", people)
    with pytest.raises(StageError, match=f"{len(people)} rows, but data set lsp has {len(lsp)}"):
        result_subject(theirs, lsp)
    evaluate(data, "3dpw", result_subject(theirs, people), tmp_path / "ours.json", config=CONFIG)
    renamed = replace(people, image=[f"other/{image}" for image in people.image])
    with pytest.raises(StageError, match="has other frames than data set 3dpw"):
        result_subject(tmp_path / "ours.npz", renamed)
    with pytest.raises(ExchangeError, match="betas"):
        result_subject(save_result(tmp_path / "x.npz", people, betas=np.zeros((len(people), 11))), people)
    np.savez(tmp_path / "fits.npz", pose=people.pose)
    with pytest.raises(ExchangeError, match="expected an evaluation's result"):
        result_subject(tmp_path / "fits.npz", people)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ExchangeError, match=r"text\.npz"):
        result_subject(tmp_path / "text.npz", people)
    rows = np.arange(len(people))[::-1]
    with pytest.raises(StageError, match="not in ascending order"):
        result_subject(save_result(tmp_path / "y.npz", people, rows=rows), people)
    with pytest.raises(StageError, match="are not rows of data set 3dpw"):
        result_subject(save_result(tmp_path / "z.npz", people, rows=rows[::-1] + 1), people)


def test_files_that_are_no_checkpoint_of_ours_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ModelFileError, match=r"x\.pt"):
        checkpoint_subject(tmp_path / "x.pt")
    torch.save({"model": torch.nn.Linear(3, 3).state_dict()}, tmp_path / "y.pt")
    with pytest.raises(ModelFileError, match="no known backbone"):
        checkpoint_subject(tmp_path / "y.pt")
    state = tiny_network(0).state_dict()
    del state["decpose.weight"]
    torch.save({"model": state}, tmp_path / "z.pt")
    with pytest.raises(ModelFileError, match=r"1 missing \(first: decpose\.weight"):
        checkpoint_subject(tmp_path / "z.pt")


def test_a_data_set_without_truth_is_refused(data: DataFolder, folder: Path, tmp_path: Path) -> None:
    people = read(data, "lsp")
    blank = [""] * len(people)
    replace(people, mask=blank, part=blank).write(data.annotations("lsp"))
    with pytest.raises(StageError, match="no truth is known of its samples"):
        evaluate(data, "lsp", checkpoint_subject(folder / "net0.pt"), tmp_path / "out.json", config=CONFIG)
