"""Starts a training run on Ray Train, shows how it goes, and says where everything lies."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines import journal
from pipelines.cluster.nodes import require_seen
from pipelines.cluster.session import cpu_count, ray_session
from pipelines.errors import StageError, UsageError
from pipelines.evaluation.evaluate import rows_to_measure
from pipelines.fits.open import require_reachable
from pipelines.fits.service import start_service
from pipelines.fitting.assets import FittingFiles
from pipelines.fitting.fit_static import compile_solver
from pipelines.fitting.without_3d import require_without_3d, run_name
from pipelines.folders import DataFolder, RunFolder
from pipelines.preprocessing.pack import made_for, open_crops
from pipelines.progress import say
from pipelines.training.batch_plan import last_step, plan_of
from pipelines.training.checkpoints import prune
from pipelines.training.config import TrainConfig
from pipelines.training.preflight import require_same_fingerprints, require_tags, with_starting_weights
from pipelines.training.retries import run_workers
from pipelines.training.terminal import live_table
from pipelines.training.validation import validation_loop
from spin.network.checkpoints import load_checkpoint
from store.annotations.table import Annotations


@dataclass(frozen=True)
class TrainSummary:
    run: Path
    checkpoint: Path  # the newest
    steps: int  # done
    planned: int
    shares: dict[str, float]  # of the data sets, in what was seen
    last: dict[str, Any]  # the last line of the metrics
    best: dict[str, Any] | None = None  # what best.json says, where there was validation


def train(
    data: DataFolder,
    run: RunFolder,
    config: TrainConfig,
    *,
    resume: bool,
    address: str | None = None,
    in_process: bool = False,
) -> TrainSummary:
    """Runs the training to its last step. Without `resume` the run must be new.

    `in_process` runs the only worker in this process: for a debugger, and for tests.
    """
    if not resume:
        _require_new(run)
    begun = time.time()
    sets = {name: Annotations.read(data.annotations(name)) for name in config.datasets}
    for name in sets:
        require_reachable(data.fits(name))
        if config.ignore_3d:
            require_without_3d(data, name, sets[name])
    sizes = [len(a) for a in sets.values()]
    _check_workers(config.workers, address)
    for name in config.eval_datasets:
        # Raises if nothing is known to be true of it.
        rows_to_measure(Annotations.read(data.annotations(name)), None)
    for name, known in sets.items():
        if open_crops(data, name, known, made_for(config.img_res, config.augmentation)) is not None:
            say(f"{name}: read from its packed crops, {data.crops(name)}")
    files = FittingFiles.of(data, config.fitting)
    fingerprints = {name: files.fingerprint(config.fitting.objective, a) for name, a in sets.items()}
    require_same_fingerprints(run, fingerprints)
    asked, config = config, with_starting_weights(data, run, config)
    run.root.mkdir(parents=True, exist_ok=True)
    asked.save(run.config)
    config = _fitted_to_size(config, sizes)
    plan = plan_of(config, sizes, config.workers)
    if len(sets) > 1:
        say("mix: " + ", ".join(f"{name} {share:.1%}" for name, share in zip(config.datasets, plan.shares)))
    steps = last_step(config, plan)
    if steps < 1:
        raise UsageError(f"--accumulate {config.accumulate}: the training has fewer batches than that")
    if config.run_smplify:
        compile_solver(files, config.fitting)
    with ray_session(address):
        if address is not None:
            require_seen(*map(data.annotations, sets), run.config)
        services = {
            name: start_service(
                data.fits(name),
                len(a),
                fingerprints[name],
                "train",
                run=run_name(run.root.name, config.ignore_3d),
            )
            for name, a in sets.items()
        }
        require_tags(run, services)
        # Other nodes' processes work in other folders.
        with live_table(run, steps), validation_loop(data, RunFolder(run.root.absolute()), config):
            run_workers(data, run, config, services, fingerprints, address=address, in_process=in_process, begun=begun)
        prune(run, services, config.keep, config.eval_datasets)  # all is measured now
        _flush(services)
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise StageError(f"run {run.root}: ended without a checkpoint; --debug shows Ray's own messages")
    lines = journal.read(run.metrics)
    done = load_checkpoint(checkpoint).step
    shares = dict(zip(config.datasets, plan.shares))
    best = json.loads(run.best.read_text()) if run.best.is_file() else None
    return TrainSummary(run.root, checkpoint, done, steps, shares, lines[-1] if lines else {}, best)


def _require_new(run: RunFolder) -> None:
    """Refuses to start over what has come somewhere; what ended before its first checkpoint is cleared away."""
    newest = run.latest_checkpoint()
    if newest is not None and newest != run.checkpoint(0):
        raise UsageError(f"run {run.root} exists already; --resume goes on with it, another --run starts anew")
    for leftover in (run.checkpoint(0), run.metrics, run.skipped, run.validation, run.best):
        leftover.unlink(missing_ok=True)
    for folder in (run.tensorboard, run.to_validate):
        shutil.rmtree(folder, ignore_errors=True)


def _flush(services: dict[str, Any]) -> None:
    import ray

    ray.get([service.compact.remote() for service in services.values()])
    ray.get([service.close.remote() for service in services.values()])


def _check_workers(workers: int, address: str | None) -> None:
    cores = cpu_count()
    if address is None and workers > cores:
        raise UsageError(
            f"--workers {workers}: this machine has {cores} cores; give --workers {cores}, or --address of a cluster"
        )


def _fitted_to_size(config: TrainConfig, sizes: list[int]) -> TrainConfig:
    """A batch no larger than an epoch: a handful of photographs is a data set too."""
    samples = sum(sizes)
    largest = samples // config.workers
    if largest < 1:
        raise UsageError(f"--workers {config.workers}: there are {samples} samples, fewer than workers")
    if config.batch_size > largest:
        say(f"batch size {largest} instead of {config.batch_size}: there are {samples} samples")
        return replace(config, batch_size=largest)
    return config


def go_back_to(run: RunFolder, checkpoint: Path) -> None:
    """Makes a checkpoint of the run its newest: later ones are moved aside, to checkpoints/superseded. UsageError."""
    if not checkpoint.is_file() or checkpoint.resolve().parent != run.checkpoints.resolve():
        raise UsageError(
            f"--checkpoint {checkpoint}: expected a file in {run.checkpoints}, as --resume goes on with that run; "
            "--pretrained-checkpoint starts a new run from any network"
        )
    for path in run.all_checkpoints():
        if path.name > checkpoint.name:
            run.superseded.mkdir(exist_ok=True)
            path.rename(run.superseded / path.name)
    run.best.unlink(missing_ok=True)  # it may have been one of them; the next checkpoint looks again
