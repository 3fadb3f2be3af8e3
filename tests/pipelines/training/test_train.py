from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import StageError, UsageError, cause
from pipelines.evaluation.evaluate import EvaluationConfig, default_output, evaluate
from pipelines.evaluation.subjects import checkpoint_subject
from pipelines.fitting.fit_static import fit_static
from pipelines.folders import DataFolder, RunFolder
from pipelines.training.batch_plan import Place, Plan
from pipelines.training.config import TrainConfig
from pipelines.training.loading import TrainingData, batches
from pipelines.training.run import train
from spin.fitting.fitter import FitConfig
from spin.network.checkpoints import load_checkpoint
from spin.training.config import AugmentationConfig
from spin.training.trust import Trust
from store.annotations.table import Annotations
from store.fits.records import Source
from store.fits.store import FitStore

LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def listening() -> set[tuple[str, str]]:
    """Address and inode of every socket that listens (Linux; elsewhere none is seen)."""
    rows = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.is_file():
            rows += [line.split() for line in table.read_text().splitlines()[1:]]
    return {(row[1].split(":")[0], row[9]) for row in rows if row[3] == "0A"}


@pytest.fixture(scope="module")
def fitted(ray_running: None, preprocessed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = DataFolder(shutil.copytree(preprocessed, tmp_path_factory.mktemp("fitted") / "data"))
    fit_static(data, "world", FitConfig("lm", 2), workers=1)
    return data.root


CONFIG = TrainConfig(
    datasets=("world",), backbone="resnet18", img_res=64, batch_size=4, epochs=2, max_steps=4, summary_steps=1,
    checkpoint_steps=2, smplify_iterations=2,
)  # fmt: skip


def test_the_order_is_a_function_of_seed_epoch_step_and_rank() -> None:
    plans = [Plan(sizes=(21,), batch=3, world=2, rank=r, seed=5) for r in (0, 1)]
    assert plans[0].batches_per_epoch == 3
    epoch = np.concatenate([p.indices(p.place(s)) for s in range(3) for p in plans])
    assert len(set(epoch.tolist())) == 18  # no sample twice, in any worker
    assert plans[0].place(7) == Place(2, 1)
    first, again, later = (plans[0].indices(Place(e, 0)) for e in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)


def test_batches_that_start_late_are_those_of_not_stopping(preprocessed: Path) -> None:
    data = TrainingData([Annotations.read(DataFolder(preprocessed).annotations("world"))], img_res=32, ignore_3d=False)
    plan, config = Plan((len(data),), 4, 1, 0, seed=3), AugmentationConfig()
    through = list(batches(data, plan, config, first=0, last=5))
    resumed = list(batches(data, plan, config, first=3, last=5))
    for a, b in zip(through[3:], resumed, strict=True):
        assert torch.equal(a.batch.images, b.batch.images)
        assert a.batch.sample_ids == b.batch.sample_ids
        assert np.array_equal(a.row, b.row)


def test_ignore_3d_hides_the_truth(preprocessed: Path) -> None:
    sets = [Annotations.read(DataFolder(preprocessed).annotations("world-test"))]
    plan = Plan((len(sets[0]),), 4, 1, 0, seed=3)
    for ignore in (False, True):
        data = TrainingData(sets, img_res=32, ignore_3d=ignore)
        (item,) = batches(data, plan, AugmentationConfig(), first=0, last=1)
        assert item.batch.truth.known.any().item() is not ignore
        assert item.batch.joints_known.any().item() is not ignore


def test_an_unreadable_image_is_black_teaches_nothing_and_is_named(preprocessed: Path) -> None:
    annotations = Annotations.read(DataFolder(preprocessed).annotations("world-test"))
    broken = replace(annotations, image=["gone.jpg", *annotations.image[1:]])
    data = TrainingData([broken], img_res=32, ignore_3d=False)
    plan = Plan((len(data),), len(data), 1, 0, seed=0)
    (item,) = batches(data, plan, AugmentationConfig(), first=0, last=1)
    at = item.row.tolist().index(0)
    assert "gone.jpg: no such file" in item.unreadable[0]
    assert item.readable.tolist() == [i != at for i in range(len(item.row))]
    assert not item.batch.keypoints_crop_px[at, :, 2].any()
    assert not item.batch.truth.known[at]
    assert not item.batch.images[at].any()
    others = [i for i in range(len(item.row)) if i != at]
    assert item.batch.truth.known[others].all()


def test_training_and_resuming_equals_not_stopping_and_evaluates(fitted: Path, tmp_path: Path) -> None:
    runs, data = {}, {}
    for name in ("through", "stopped"):
        data[name] = DataFolder(shutil.copytree(fitted, tmp_path / name / "data"))
        runs[name] = RunFolder.of(tmp_path / name / "logs", "first")
    summary = train(data["through"], runs["through"], CONFIG, resume=False, in_process=True)
    assert summary.steps == 4
    train(data["stopped"], runs["stopped"], replace(CONFIG, max_steps=2), resume=False, in_process=True)
    with pytest.raises(UsageError, match="--resume"):
        train(data["stopped"], runs["stopped"], CONFIG, resume=False)
    # What was not in the checkpoint is undone by resuming.
    spoil = FitStore.open(data["stopped"].fits("world"))
    best = spoil.get(np.arange(spoil.samples))
    spoil.merge(np.arange(spoil.samples), replace(best, score=best.score * 0, loss=best.loss * 0))
    spoil.flush()
    train(data["stopped"], runs["stopped"], CONFIG, resume=True, in_process=True)

    whole, resumed = (load_checkpoint(runs[n].latest_checkpoint()) for n in ("through", "stopped"))
    assert whole.step == resumed.step == 4
    assert all(torch.equal(whole.model[k], resumed.model[k]) for k in whole.model)
    assert Trust.of_vector(load_checkpoint(runs["stopped"].checkpoint(2)).loop["trust"]).count > 0
    assert torch.equal(whole.loop["trust"], resumed.loop["trust"])
    fits = [FitStore.open(d.fits("world")).at(c.tag["world"]) for d, c in zip(data.values(), (whole, resumed))]
    records = [f.get(np.arange(f.samples)) for f in fits]
    assert np.array_equal(records[0].pose, records[1].pose)
    assert np.array_equal(records[0].score, records[1].score)
    assert (records[0].score <= best.score).all()
    assert set(np.unique(records[0].source)) <= {Source.STATIC, Source.LOOP}

    lines = [json.loads(line) for line in runs["through"].metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss/total"]) for line in lines)
    assert list(runs["through"].tensorboard.glob("events*"))

    checkpoint = runs["through"].latest_checkpoint()
    assert checkpoint is not None
    done = evaluate(
        data["through"],
        "world-test",
        checkpoint_subject(checkpoint),
        default_output(checkpoint, "world-test"),
        config=EvaluationConfig(workers=1),
    )
    content = json.loads(done.json_path.read_text())
    assert content["metrics"]["pa_mpjpe_mm"] == pytest.approx(done.metrics["pa_mpjpe_mm"])
    assert content["subject"]["step"] == 4


def test_two_workers_train_and_without_static_fits(ray_running: None, preprocessed: Path, tmp_path: Path) -> None:
    data = DataFolder(shutil.copytree(preprocessed, tmp_path / "data"))
    run = RunFolder.of(tmp_path / "logs", "pair")
    before, opened, over = listening(), set(), threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            opened.update(listening() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    train(data, run, replace(CONFIG, workers=2, max_steps=2), resume=False)
    over.set()
    watcher.join()
    assert opened, "nothing listened, so nothing was checked"
    assert {address for address, _ in opened} <= LOOPBACK
    assert not list(run.root.glob("rendezvous-*"))
    assert run.latest_checkpoint() == run.checkpoint(2)
    assert (FitStore.open(data.fits("world")).get(np.arange(16)).source == Source.LOOP).any()


def test_a_training_that_sees_no_image_ends_with_an_error(fitted: Path, tmp_path: Path) -> None:
    data, run = (
        DataFolder(shutil.copytree(fitted, tmp_path / "data")),
        RunFolder.of(tmp_path / "logs", "blind"),
    )
    moved = replace(Annotations.read(data.annotations("world")), image_root=str(tmp_path / "nowhere"))
    moved.write(data.annotations("world"), provenance={"reader": "test"})
    for steps in (
        None,
        2,
    ):  # a whole epoch, and less; what ended before its first checkpoint is no run that has to be resumed
        with pytest.raises(Exception) as raised:
            train(
                data,
                run,
                replace(CONFIG, epochs=1, max_steps=steps, checkpoint_steps=99),
                resume=False,
                in_process=True,
            )
        assert "none of the images so far could be read" in str(cause(raised.value))
        assert "no such file" in str(cause(raised.value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vgg"}, "--backbone vgg: expected one of"),
        ({"img_res": 8}, "--img-res 8: expected 32 to 512"),
        ({"lr": 0.0}, "--lr"),
    ],
)
def test_senseless_settings_are_refused(change, message) -> None:
    with pytest.raises(UsageError, match=message):
        replace(CONFIG, **change)


def test_too_many_workers_is_said_at_once(fitted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--workers 999: this machine has"):
        train(DataFolder(fitted), RunFolder.of(tmp_path, "x"), replace(CONFIG, workers=999), resume=False)


def test_configuration_round_trip_and_what_resuming_may_change(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    CONFIG.save(path)
    assert TrainConfig.load(path) == CONFIG
    assert CONFIG.resumed({"epochs": 9}).epochs == 9
    with pytest.raises(UsageError, match=r"--lr 0\.1: the run to resume has 5e-05"):
        CONFIG.resumed({"lr": 0.1})
    with pytest.raises(UsageError, match="--workers 2"):
        CONFIG.resumed({"workers": 2})
    path.write_text("{}")
    with pytest.raises(StageError, match="not a training configuration"):
        TrainConfig.load(path)
