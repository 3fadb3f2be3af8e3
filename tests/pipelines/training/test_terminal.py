"""What a person sees of a training, its validation, and stopping and going back on purpose."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipelines.errors import StageError, UsageError
from pipelines.folders import DataFolder, RunFolder
from pipelines.training.config import TrainConfig
from pipelines.training.run import go_back_to, train
from pipelines.training.terminal import heading, row
from spin.network.checkpoints import load_checkpoint
from store.annotations.table import Annotations

CONFIG = TrainConfig(
    datasets=("world",), backbone="resnet18", img_res=64, batch_size=4, max_steps=4, summary_steps=2, picture_steps=4,
    checkpoint_steps=99, smplify_iterations=2, eval_datasets=("world-test",), test_steps=3, eval_images=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def watched(ray_running: None, preprocessed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DataFolder, RunFolder]:
    """A short training that was measured as it went."""
    place = tmp_path_factory.mktemp("watched")
    data, run = (
        DataFolder(shutil.copytree(preprocessed, place / "data")),
        RunFolder.of(place / "logs", "seen"),
    )
    train(data, run, CONFIG, resume=False, in_process=True)
    return data, run


def test_validation_measures_while_training_and_leaves_nothing(watched: tuple[DataFolder, RunFolder]) -> None:
    run = watched[1]
    lines = [json.loads(line) for line in run.validation.read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4]
    assert all(0 < line["world-test/pa_mpjpe_mm"] < line["world-test/mpjpe_mm"] for line in lines)
    assert lines[0]["world-test/mpjpe_mm"] != lines[1]["world-test/mpjpe_mm"]
    assert not list(run.to_validate.glob("*"))
    best = json.loads(run.best.read_text())  # the only one of the two that is a checkpoint
    assert (best["checkpoint"], best["metric"]) == ("step_00000004.pt", "pa_mpjpe_mm")
    assert best["value"] == pytest.approx(lines[1]["world-test/pa_mpjpe_mm"], abs=1e-5)


def test_tensorboard_has_curves_validation_and_pictures(watched: tuple[DataFolder, RunFolder]) -> None:
    events = EventAccumulator(str(watched[1].tensorboard), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert {"loss/total", "fits/improved", "validation/world-test/mpjpe_mm"} <= set(tags["scalars"])
    (picture,) = events.Images("people")
    assert (picture.width, picture.height, picture.step) == (5 * 320, 4 * 320, 4)


def test_the_table_says_how_the_steps_went(watched: tuple[DataFolder, RunFolder]) -> None:
    lines = [json.loads(line) for line in watched[1].metrics.read_text().splitlines()]
    cells = row(lines[-1]).split()
    assert cells[:2] == ["4", "0"]
    assert float(cells[2]) == pytest.approx(lines[-1]["loss/total"], abs=0.01)
    assert len(row(lines[-1])) == len(heading())


def test_going_back_to_an_earlier_checkpoint_keeps_the_later_ones(
    watched: tuple[DataFolder, RunFolder], tmp_path: Path
) -> None:
    seen = watched[1]
    run = RunFolder(shutil.copytree(seen.root, tmp_path / "again"))
    assert run.latest_checkpoint() == run.checkpoint(4)
    with pytest.raises(UsageError, match="expected a file in"):
        go_back_to(run, seen.checkpoint(0))
    go_back_to(run, run.checkpoint(0))
    assert run.latest_checkpoint() == run.checkpoint(0)
    assert not run.best.exists()
    assert (run.checkpoints / "superseded" / run.checkpoint(4).name).is_file()


def test_time_to_run_stops_at_a_checkpoint_and_resuming_goes_on(ray_running: None, preprocessed: Path, tmp_path: Path) -> None:
    data, run = DataFolder(shutil.copytree(preprocessed, tmp_path / "data")), RunFolder.of(tmp_path, "short")
    config = replace(CONFIG, eval_datasets=(), time_to_run=0.01)
    done = train(data, run, config, resume=False, in_process=True)
    assert (done.steps, done.planned) == (1, 4)
    assert run.latest_checkpoint() == run.checkpoint(1)
    done = train(data, run, replace(config, time_to_run=None), resume=True, in_process=True)
    assert done.steps == 4


def test_two_data_sets_are_mixed_and_recorded(ray_running: None, preprocessed: Path, tmp_path: Path) -> None:
    data, run = DataFolder(shutil.copytree(preprocessed, tmp_path / "data")), RunFolder.of(tmp_path, "mixed")
    config = replace(CONFIG, datasets=("world", "world-test"), mix={"world-test": 0.5}, eval_datasets=(), max_steps=1)
    done = train(data, run, config, resume=False, in_process=True)
    assert done.shares == {"world": 0.5, "world-test": 0.5}
    checkpoint = load_checkpoint(done.checkpoint)
    assert set(checkpoint.tag) == {"world", "world-test"}
    assert checkpoint.config["mix"] == {"world-test": 0.5}


def test_measuring_on_a_set_without_truth_is_refused_at_once(ray_running: None, preprocessed: Path, tmp_path: Path) -> None:
    data = DataFolder(shutil.copytree(preprocessed, tmp_path / "data"))
    known = Annotations.read(data.annotations("world-test"))
    columns = ("has_joints17", "has_joints3d", "has_smpl", "joints17_m", "joints3d_m", "pose", "betas")
    nothing: dict[str, Any] = {name: np.zeros_like(getattr(known, name)) for name in columns}
    replace(known, **nothing).write(data.annotations("blind"), provenance={"reader": "test"})
    with pytest.raises(StageError, match="no truth is known"):
        train(
            data,
            RunFolder.of(tmp_path, "x"),
            replace(CONFIG, eval_datasets=("blind",)),
            resume=False,
            in_process=True,
        )
