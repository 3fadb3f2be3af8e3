"""What a training survives: a killed worker, a stop at any step, a full disk, a batch that it can't learn from."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipelines.training.checkpoints
from pipelines.errors import StageError, cause
from pipelines.fitting.fit_static import fit_static
from pipelines.folders import DataFolder, RunFolder
from pipelines.training.config import TrainConfig
from pipelines.training.retries import MAX_FAILURES
from pipelines.training.run import train
from spin.errors import TrainingError
from spin.fitting.fitter import FitConfig
from spin.network.checkpoints import load_checkpoint
from spin.training.trust import Trust
from store.fits.store import FitStore
from tests.pipelines.processes import descendants_of, processes_of

CONFIG = TrainConfig(
    datasets=("world",), backbone="resnet18", img_res=32, batch_size=4, max_steps=9, summary_steps=1, picture_steps=99,
    checkpoint_steps=3, smplify_iterations=2, workers=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def fitted(ray_running: None, preprocessed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = DataFolder(shutil.copytree(preprocessed, tmp_path_factory.mktemp("fitted") / "data"))
    fit_static(data, "world", FitConfig("lm", 2), workers=1)
    return data.root


def place(fitted: Path, folder: Path) -> tuple[DataFolder, RunFolder]:
    return DataFolder(shutil.copytree(fitted, folder / "data")), RunFolder.of(folder, "run")


def state(data: DataFolder, run: RunFolder) -> dict[str, Any]:
    """Everything that the next step depends on."""
    newest = run.latest_checkpoint()
    assert newest is not None
    checkpoint = load_checkpoint(newest)
    fits = FitStore.open(data.fits("world")).at(checkpoint.tag["world"]).fits
    assert checkpoint.optimizer is not None
    moments = checkpoint.optimizer["state"]
    return {
        "step": checkpoint.step,
        **dict(checkpoint.model),
        **dict(checkpoint.loop),
        **{f"adam {i} {name}": value for i, entry in moments.items() for name, value in entry.items()},
        **{name: torch.from_numpy(getattr(fits, name)) for name in ("pose", "betas", "camera", "score", "step")},
    }


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        same = torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
        assert same, name


@pytest.fixture(scope="module")
def undisturbed(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data, run = place(fitted, tmp_path_factory.mktemp("undisturbed"))
    train(data, run, CONFIG, resume=False)
    found = state(data, run)
    early, late = (Trust.of_vector(t) for t in (load_checkpoint(run.checkpoint(3)).loop["trust"], found["trust"]))
    assert 0 < early.count < late.count, "the loop measured nothing before or nothing after what is to be survived"
    return found


@pytest.mark.slow  # a killed worker, below, goes the same way, and further
def test_two_workers_stopped_and_resumed_equal_two_undisturbed(
    fitted: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Weights, moments and fits, bit for bit. The stop is not at a checkpoint's step of the whole run."""
    data, run = place(fitted, tmp_path)
    train(data, run, replace(CONFIG, max_steps=5), resume=False)
    train(data, run, CONFIG, resume=True)
    assert_same(state(data, run), undisturbed)


def train_and_kill(
    data: DataFolder, run: RunFolder, config: TrainConfig, victim: str, *, first: int = 3, times: int = 1
) -> None:
    """Trains in this process; a process of the run is killed once there is the checkpoint of step `first`, and again, so
    many times, when the run has come further."""
    before, over = descendants_of(os.getpid()).items(), threading.Event()
    killed: list[Path] = []  # the newest checkpoint each time

    def kill() -> None:
        newest = run.checkpoint(first - 1)
        while len(killed) < times and not over.wait(0.02):
            there = run.latest_checkpoint()
            if there is not None and there > newest:
                found = descendants_of(os.getpid()).items() - before
                for pid in [pid for pid, line in found if victim in line][:1]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(there)
                        newest = run.latest_checkpoint() or there

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        train(data, run, config, resume=False)
    finally:
        over.set()
        thread.join()
    assert len(killed) == times, f"no {victim} was found {times} times, so nothing was tested"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_a_killed_worker_is_replaced_and_nothing_is_lost(fitted: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    data, run = place(fitted, tmp_path)
    train_and_kill(data, run, CONFIG, "RayTrainWorker")
    assert_same(state(data, run), undisturbed)


# So many steps that it can't be over before a kill that is meant for its beginning, however busy the machine.
ALONE = replace(CONFIG, workers=1, max_steps=24)
PATIENT = pytest.mark.timeout(1200)  # each of them starts a run twice or more


@pytest.mark.slow
@PATIENT
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_a_run_that_gets_on_survives_more_failures_than_it_would_in_one_place(fitted: Path, tmp_path: Path) -> None:
    data, run = place(fitted, tmp_path)
    config = replace(ALONE, max_steps=60, checkpoint_steps=2)
    train_and_kill(data, run, config, "RayTrainWorker", first=2, times=MAX_FAILURES + 2)
    assert run.latest_checkpoint() == run.checkpoint(60)


@pytest.fixture(scope="module")
def undisturbed_alone(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data, run = place(fitted, tmp_path_factory.mktemp("alone"))
    train(data, run, ALONE, resume=False, in_process=True)
    return state(data, run)


@pytest.mark.slow
@PATIENT
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the service in /proc")
def test_a_killed_service_sends_the_workers_back_to_their_checkpoint(
    fitted: Path, undisturbed_alone: dict[str, Any], tmp_path: Path
) -> None:
    """It had acknowledged offers that were not on disk; no run goes on from a state without them."""
    data, run = place(fitted, tmp_path)
    train_and_kill(data, run, ALONE, "FitService")
    steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
    assert len(steps) > len(set(steps)), "no worker went back"
    assert_same(state(data, run), undisturbed_alone)


CHILD = """
import json, sys
from pathlib import Path
from pipelines.folders import DataFolder, RunFolder
from pipelines.cluster.session import ray_session
from pipelines.training.run import train
from pipelines.training.config import TrainConfig
data, run = DataFolder(Path(sys.argv[1])), RunFolder(Path(sys.argv[2]))
with ray_session(cpus=4):
    train(data, run, TrainConfig.from_json(json.loads(sys.argv[3])), resume=False)
"""


@pytest.mark.slow
@PATIENT
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds what a run leaves in /proc")
def test_a_killed_driver_is_resumed_where_it_was(fitted: Path, undisturbed_alone: dict[str, Any], tmp_path: Path) -> None:
    data, run = place(fitted, tmp_path)
    words = [str(data.root), str(run.root), json.dumps(asdict(ALONE))]
    child = subprocess.Popen([sys.executable, "-c", CHILD, *words], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not run.checkpoint(3).exists():
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert not run.checkpoint(ALONE.max_steps or 0).exists()
        # At once: what the driver left behind may still be at work.
        train(data, run, ALONE, resume=True, in_process=True)
    finally:
        for pid in processes_of(child.pid):
            os.kill(pid, signal.SIGKILL)
    assert_same(state(data, run), undisturbed_alone)


def test_old_checkpoints_go_with_their_tags_and_others_stay(fitted: Path, tmp_path: Path) -> None:
    data, run = place(fitted, tmp_path)
    config = replace(CONFIG, workers=1, max_steps=5, checkpoint_steps=1)
    train(data, run, replace(config, keep=2), resume=False, in_process=True)
    assert run.all_checkpoints() == [run.checkpoint(4), run.checkpoint(5)]
    store = FitStore.open(data.fits("world"))
    kept = {load_checkpoint(path).tag["world"] for path in run.all_checkpoints()}
    assert {tag for tag in store.tags() if tag.startswith("run.")} == kept
    assert "static" in store.tags()
    train(data, run, replace(config, keep=0, max_steps=8), resume=True, in_process=True)
    assert len(run.all_checkpoints()) == 5


def test_a_full_disk_leaves_the_last_good_checkpoint(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = place(fitted, tmp_path)
    config = replace(CONFIG, workers=1, max_steps=4, checkpoint_steps=2)
    save = pipelines.training.checkpoints.save_checkpoint

    def full(path: Path, checkpoint: Any) -> None:
        if checkpoint.step == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(path, checkpoint)

    monkeypatch.setattr(pipelines.training.checkpoints, "save_checkpoint", full)
    with pytest.raises(Exception) as raised:
        train(data, run, config, resume=False, in_process=True)
    assert isinstance(cause(raised.value), StageError)
    assert "step 4 can't be written, No space left on device; the last good one is step_00000002.pt" in str(cause(raised.value))
    monkeypatch.undo()
    assert train(data, run, config, resume=True, in_process=True).steps == 4


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_batch(fitted: Path, tmp_path: Path) -> None:
    data, run = place(fitted, tmp_path)
    config = replace(CONFIG, workers=1, max_steps=40, lr=1e30)
    with pytest.raises(Exception) as raised:
        train(data, run, config, resume=False, in_process=True)
    error = cause(raised.value)
    assert isinstance(error, TrainingError)
    (kept,) = run.root.glob("failed-batch-*.pt")
    assert str(kept) in str(error)
    content = torch.load(kept, weights_only=True)
    assert content["batch"]["images"].shape == (4, 3, 32, 32)
    assert len(content["batch"]["sample_ids"]) == 4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_precisions_train_and_are_recorded(precision: str, fitted: Path, tmp_path: Path) -> None:
    data, run = place(fitted, tmp_path)
    config = replace(CONFIG, workers=1, max_steps=1, precision=precision, channels_last=precision == "float32")
    train(data, run, config, resume=False, in_process=True)
    checkpoint = load_checkpoint(run.checkpoint(1))
    assert checkpoint.config["precision_used"] == precision
    assert all(t.dtype in (torch.float32, torch.int64) for t in checkpoint.model.values())
    assert np.isfinite(checkpoint.model["conv1.weight"].numpy()).all()
