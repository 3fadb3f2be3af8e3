"""Starts a training run on Ray Train, shows how it goes, and says where everything lies."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines import journal
from pipelines.failures import StageError, UsageError
from pipelines.fit_static import compile_solver
from pipelines.fitting import FittingFiles, require_reachable
from pipelines.layout import DataFolder, RunFolder
from pipelines.pack import made_for, open_crops
from pipelines.progress import progress, say
from pipelines.ray_session import cpu_count, ray_session
from pipelines.store_service import start_service
from pipelines.train_config import TrainConfig
from store.annotations import Annotations

_SHOWN = 5  # skipped images that are named on the terminal
MAX_FAILURES = 3  # of workers or nodes, before the run gives up


@dataclass(frozen=True)
class TrainSummary:
    run: Path
    checkpoint: Path
    steps: int
    last: dict[str, Any]  # the last line of the metrics


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
    for option, path in (
        ("--pretrained-checkpoint", config.pretrained_checkpoint),
        ("--backbone-weights", config.backbone_weights),
    ):
        if path is not None and not Path(path).is_file():
            raise UsageError(f"{option} {path}: no such file")
    sets = {name: Annotations.read(data.annotations(name)) for name in config.datasets}
    for name in sets:
        require_reachable(data.fits(name))
    _check_workers(config.workers, address)
    for name, known in sets.items():
        if open_crops(data, name, known, made_for(config.img_res, config.augmentation)) is not None:
            say(f"{name}: read from its packed crops, {data.crops(name)}")
    run.root.mkdir(parents=True, exist_ok=True)
    config.save(run.config)
    config = _fitted_to_size(config, sum(len(a) for a in sets.values()))
    steps = _steps(config, sum(len(a) for a in sets.values()))
    files = FittingFiles.of(data, config.fitting)
    if config.run_smplify:
        compile_solver(files, config.fitting)
    with ray_session(address):
        services = {
            name: start_service(
                data.fits(name),
                len(a),
                files.fingerprint(config.fitting.objective, a),
                "train",
                run=run.root.name,
            )
            for name, a in sets.items()
        }
        with _watched(run, steps):
            _fit(data, run, config, services, address, in_process)
        _flush(services)
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise StageError(f"run {run.root}: ended without a checkpoint; --debug shows Ray's own messages")
    lines = journal.read(run.metrics)
    return TrainSummary(run.root, checkpoint, steps, lines[-1] if lines else {})


def _fit(
    data: DataFolder,
    run: RunFolder,
    config: TrainConfig,
    services: dict[str, Any],
    address: str | None,
    in_process: bool,
) -> None:
    """Ray Train's part."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipelines.rendezvous import RendezvousConfig
    from pipelines.train_worker import WorkerSettings, run_worker

    there = ray.cluster_resources()
    gpu = there.get("GPU", 0) >= config.workers
    cpus = max(1, int(there.get("CPU", 1)) // config.workers) if address is None else 1
    data, run = replace(data, root=data.root.resolve()), RunFolder(run.root.resolve())
    attempt = uuid.uuid4().hex[:8]
    settings = WorkerSettings(config, run, data, services, threads=min(cpus, cpu_count()), attempt=attempt)
    rendezvous: Any = RendezvousConfig(folder=None if address else str(run.root))
    try:
        TorchTrainer(
            run_worker,
            train_loop_config={"settings": settings},
            torch_config=rendezvous,
            scaling_config=ScalingConfig(
                num_workers=0 if in_process else config.workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": cpus} | ({"GPU": 1} if gpu else {}),
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(run.root),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
            ),
        ).fit()
    except SystemExit:  # how Ray Train ends on Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        for leftover in (settings.failure, *run.root.glob("rendezvous-*")):
            leftover.unlink(missing_ok=True)


def _require_new(run: RunFolder) -> None:
    """Refuses to start over what has come somewhere; what ended before its first checkpoint is cleared away."""
    newest = run.latest_checkpoint()
    if newest is not None and newest != run.checkpoint(0):
        raise UsageError(
            f"run {run.root} exists already; --resume goes on with it, another --name starts anew"
        )
    for leftover in (run.checkpoint(0), run.metrics, run.skipped):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(run.tensorboard, ignore_errors=True)


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


def _fitted_to_size(config: TrainConfig, samples: int) -> TrainConfig:
    """A batch no larger than the data: a handful of photographs is a data set too."""
    largest = samples // config.workers
    if largest < 1:
        raise UsageError(f"--workers {config.workers}: there are {samples} samples, fewer than workers")
    if config.batch_size > largest:
        say(f"batch size {largest} instead of {config.batch_size}: there are {samples} samples")
        return replace(config, batch_size=largest)
    return config


def _steps(config: TrainConfig, samples: int) -> int:
    steps = config.epochs * (samples // (config.batch_size * config.workers))
    return steps if config.max_steps is None else min(steps, config.max_steps)


@contextmanager
def _watched(run: RunFolder, steps: int) -> Iterator[None]:
    """A bar that follows the metrics file, which works wherever the workers run."""
    over = threading.Event()
    with progress(steps, f"train {run.root.name}", "step") as bar:

        def follow() -> None:
            seen: list[str] = []
            while True:
                ended = over.wait(0.5)
                lines = journal.read(run.metrics)
                if lines:
                    last = lines[-1]
                    bar.set_postfix_str(
                        f"loss {last['loss/total']:.2f}, {last['images_per_s']:.1f} img/s, "
                        f"{last['fits/improved']:.0%} improved, {last['fits/valid']:.0%} valid",
                        refresh=False,
                    )
                    bar.update(last["step"] - bar.n)
                problems = [line["problem"] for line in journal.read(run.skipped)]
                for problem in problems[len(seen) : _SHOWN]:
                    say(f"skipped: {problem}")
                if len(problems) > _SHOWN >= len(seen):
                    say(f"skipped: more of them are listed in {run.skipped}")
                seen = problems
                if ended:
                    return

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
