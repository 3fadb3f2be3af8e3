"""Published result files name no one: their rows are those of SPIN's data set file, or an order that the bodies confirm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import StageError
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.result_rows import samples_of_result
from pipelines.evaluation.subjects import result_subject
from pipelines.folders import DataFolder
from store.exchange import export_spin_dataset
from tests.pipelines.evaluation.measured import CONFIG, read, save_result


def error_mm(data: DataFolder, file: Path, out: Path) -> float:
    people = read(data, "3dpw")
    subject = result_subject(file, people, samples_of_result(data, "3dpw", file, people))
    return evaluate(data, "3dpw", subject, out, config=CONFIG).metrics["mpjpe_mm"]


def test_the_data_sets_order_is_confirmed_by_the_bodies(data: DataFolder, tmp_path: Path) -> None:
    file = save_result(tmp_path / "theirs.npz", read(data, "3dpw"))
    assert error_mm(data, file, tmp_path / "out.json") < 1e-3


def test_another_order_is_rejected_or_found_by_name(data: DataFolder, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    order = np.roll(np.arange(len(people)), 3)
    file = save_result(tmp_path / "theirs.npz", people.take(order))
    with pytest.raises(StageError, match=r"theirs\.npz: its bodies don't confirm .* put SPIN's 3dpw_test\.npz into"):
        samples_of_result(data, "3dpw", file, people)
    export_spin_dataset(data.dataset_extra("3dpw_test.npz"), people.take(order))
    assert np.array_equal(samples_of_result(data, "3dpw", file, people), order)
    assert error_mm(data, file, tmp_path / "out.json") < 1e-3


def test_bodies_that_are_all_alike_confirm_nothing(data: DataFolder, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    same = np.zeros_like(people.pose)
    same[:, 0] = np.pi
    file = save_result(tmp_path / "theirs.npz", people, pose=same)
    with pytest.raises(StageError, match="don't confirm"):
        samples_of_result(data, "3dpw", file, people)


def test_our_own_results_are_found_by_name_after_another_reading(data: DataFolder, tmp_path: Path) -> None:
    people = read(data, "3dpw")
    once = people.take(np.unique(people.image, return_index=True)[1])
    file = save_result(tmp_path / "ours.npz", once, rows=np.arange(len(once)), images=np.array(once.image))
    order = np.arange(len(once))[::-1]
    turned = once.take(order)
    subject = result_subject(file, turned)
    assert np.array_equal(subject.bodies.pose, turned.pose)
    with pytest.raises(StageError, match="has other frames"):
        result_subject(file, replace(turned, image=[f"other/{image}" for image in turned.image]))
