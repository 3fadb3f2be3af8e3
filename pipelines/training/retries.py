"""Ray Train's part of a run: workers are started, and started again after a failure for as long as they get on.

Each attempt is one `fit` of Ray Train, which would count failures over the whole run: a month of training meets more of
them than a moment that can't be got over. Here those count that no new checkpoint lies between.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.cluster.session import cpu_count
from pipelines.cluster.waiting import Waiting
from pipelines.errors import EXPECTED, StageError, cause
from pipelines.folders import RunFolder
from pipelines.progress import say

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.folders import DataFolder
    from pipelines.training.config import TrainConfig
    from store.fits.fingerprint import Fingerprint

MAX_FAILURES = 3  # of workers, nodes or services, one after the other without a new checkpoint: the next one ends the run
_NO_PLACE = "WorkerGroupStartupTimeoutError"  # Ray Train's, which it doesn't export; it waits
_STARTUP_S = 60.0  # before that


class Setbacks:
    """Failures since the run has last come anywhere."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._newest = run, run.latest_checkpoint()
        self.count = 0

    def add(self, error: BaseException) -> None:
        """Another one. StageError if it is one too many."""
        newest = self._run.latest_checkpoint()
        self.count = self.count + 1 if newest == self._newest else 1
        self._newest = newest
        why, whereto = _in_a_line(cause(error)), "the start" if newest is None else newest.name
        if self.count > MAX_FAILURES:
            raise StageError(
                f"run {self._run.root}: the workers failed {self.count} times without coming further than {whereto}, at last "
                f"with {why}; --debug shows more. Fix that, then go on with --resume"
            ) from error
        say(
            f"the workers failed ({why}); they go on from {whereto}"
            + (f" again, {self.count} of at most {MAX_FAILURES} times" if self.count > 1 else "")
        )


def run_workers(
    data: DataFolder,
    run: RunFolder,
    config: TrainConfig,
    services: dict[str, Any],
    fingerprints: dict[str, Fingerprint],
    *,
    address: str | None,
    in_process: bool,
    begun: float,
) -> None:
    """Trains to the last step. Raises what a worker raised if it would only repeat itself, and StageError after setbacks."""
    import ray

    from pipelines.training.state import WorkerSettings

    there = ray.cluster_resources()
    gpu = there.get("GPU", 0) >= config.workers
    cpus = max(1, int(there.get("CPU", 1)) // config.workers) if address is None else 1
    asked = {"CPU": float(cpus)} | ({"GPU": 1.0} if gpu else {})
    data, run = replace(data, root=data.root.resolve()), RunFolder(run.root.resolve())
    threads = config.threads or min(cpus, cpu_count())
    settings = WorkerSettings(config, run, data, services, fingerprints, threads, uuid.uuid4().hex[:8], begun)
    try:
        _until_done(settings, asked, None if address else run.root, in_process)
    except SystemExit:  # how Ray Train ends on Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        for leftover in (settings.failure, *run.root.glob("rendezvous-*")):
            leftover.unlink(missing_ok=True)


def _until_done(settings: Any, asked: dict[str, float], meeting: Path | None, in_process: bool) -> None:
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError

    setbacks, waiting = Setbacks(settings.run), None
    while True:
        try:
            return _fit(settings, asked, meeting, in_process)
        except RayActorError as error:
            if in_process:
                raise
            # Its workers may still hold their places, so that nothing is started again beside them.
            raise StageError(
                f"run {settings.run.root}: the process of Ray Train that leads its workers ended ({_in_a_line(error)}); "
                "go on with --resume"
            ) from error
        except TrainingFailedError as error:
            if in_process or isinstance(cause(error), EXPECTED):
                raise
            if settings.failure.exists():  # and only its consequence, at another worker, was told here
                raise StageError(settings.failure.read_text()) from error
            if type(getattr(error, "controller_failure", None)).__name__ == _NO_PLACE:
                what, count = f"train {settings.run.root.name}", settings.config.workers
                begun = time.monotonic() - _STARTUP_S
                waiting = waiting or Waiting(what, asked, count=count, begun=begun)
                waiting.look()
            else:
                waiting = None
                setbacks.add(error)


def _fit(settings: Any, asked: dict[str, float], meeting: Path | None, in_process: bool) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipelines.training.rendezvous import RendezvousConfig
    from pipelines.training.worker import run_worker

    rendezvous: Any = RendezvousConfig(folder=None if meeting is None else str(meeting))
    TorchTrainer(
        run_worker,
        train_loop_config={"settings": settings},
        torch_config=rendezvous,
        scaling_config=ScalingConfig(
            num_workers=0 if in_process else settings.config.workers,
            use_gpu="GPU" in asked,
            resources_per_worker=asked,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(settings.run.root),
            failure_config=FailureConfig(
                max_failures=0,
                controller_failure_limit=0,  # type: ignore[call-arg]
                max_preemption_failures=0,
            ),
        ),
    ).fit()


def _in_a_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
