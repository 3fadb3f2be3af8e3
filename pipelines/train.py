"""Starts a training run on Ray Train, shows how it goes, and says where everything lies."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.failures import StageError, UsageError
from pipelines.layout import DataFolder, RunFolder
from pipelines.progress import progress, say
from pipelines.ray_session import cpu_count, ray_session
from pipelines.store_service import fingerprint_of, start_service
from pipelines.train_config import TrainConfig
from spin.body import load_body
from spin.fitting.objective import Objective
from store.annotations import Annotations

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
    if run.latest_checkpoint() is not None and not resume:
        raise UsageError(
            f"run {run.root} exists already; --resume goes on with it, another --name starts anew"
        )
    sets = {name: Annotations.read(data.annotations(name)) for name in config.datasets}
    _check_workers(config.workers, address)
    run.root.mkdir(parents=True, exist_ok=True)
    config.save(run.config)
    config = _fitted_to_size(config, sum(len(a) for a in sets.values()))
    steps = _steps(config, sum(len(a) for a in sets.values()))
    body = load_body(data.body)
    with ray_session(address):
        services = {
            name: start_service(
                data.fits(name), len(a), fingerprint_of(body, Objective(), a), f"train-{run.root.name}"
            )
            for name, a in sets.items()
        }
        with _watched(run, steps):
            _fit(data, run, config, services, address, in_process)
        _flush(services)
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise StageError(f"run {run.root}: ended without a checkpoint; --debug shows Ray's own messages")
    lines = _metrics(run)
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
    import torch
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipelines.train_worker import WorkerSettings, run_worker

    gpu = torch.cuda.is_available()
    absolute = DataFolder(data.root.resolve()), RunFolder(run.root.resolve())
    settings = WorkerSettings(config, absolute[1], absolute[0], services, attempt=uuid.uuid4().hex[:8])
    cpus = 1 if address else max(1, cpu_count() // config.workers)
    TorchTrainer(
        run_worker,
        train_loop_config={"settings": settings},
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus} | ({"GPU": 1} if gpu else {}),
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(absolute[1].root),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    ).fit()


def _flush(services: dict[str, Any]) -> None:
    import ray

    ray.get([service.compact.remote() for service in services.values()])


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


def _metrics(run: RunFolder) -> list[dict[str, Any]]:
    """Whole lines of the metrics so far."""
    if not run.metrics.is_file():
        return []
    out = []
    for line in run.metrics.read_text().split("\n")[:-1]:
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return out


@contextmanager
def _watched(run: RunFolder, steps: int) -> Iterator[None]:
    """A bar that follows the metrics file, which works wherever the workers run."""
    over = threading.Event()
    with progress(steps, f"train {run.root.name}", "step") as bar:

        def follow() -> None:
            seen: set[str] = set()
            while True:
                ended = over.wait(0.5)
                lines = _metrics(run)
                if lines:
                    last = lines[-1]
                    bar.set_postfix_str(
                        f"loss {last['loss/total']:.2f}, {last['images_per_s']:.1f} img/s, "
                        f"{last['fits/improved']:.0%} improved, {last['fits/valid']:.0%} valid",
                        refresh=False,
                    )
                    bar.update(last["step"] - bar.n)
                    for problem in [p for line in lines for p in line.get("unreadable", []) if p not in seen]:
                        seen.add(problem)
                        say(f"skipped: {problem}")
                if ended:
                    return

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
