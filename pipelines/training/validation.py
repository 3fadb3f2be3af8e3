"""Validation while a training runs: the weights of a moment, measured by a Ray task of its own. The trainers don't wait.

A trainer leaves weights in the run's folder; the driver has them measured, one after the other, appends the numbers to
validation.jsonl and to TensorBoard, notes the best checkpoint, and removes the weights. What a killed run left there is
measured by the resumed one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import journal
from pipelines.errors import EXPECTED, cause
from pipelines.progress import say
from pipelines.training.checkpoints import note_best
from spin.network.checkpoints import load_checkpoint, network_from_checkpoint

if TYPE_CHECKING:
    from pipelines.folders import DataFolder, RunFolder
    from pipelines.training.config import TrainConfig


def measure(data: DataFolder, datasets: tuple[str, ...], weights: Path, limit: int) -> dict[str, float]:
    """Metrics by 'DATASET/metric', of at most `limit` samples of each."""
    import torch

    from pipelines.evaluation.evaluate import EvaluationConfig, measure_network

    torch.set_num_threads(1)  # the other cores are the trainers'
    loaded = load_checkpoint(weights)
    found: dict[str, float] = {}
    for name in datasets:
        network = network_from_checkpoint(loaded, str(weights))
        result = measure_network(
            data,
            name,
            network,
            int(loaded.config["img_res"]),
            config=EvaluationConfig(decoders=1, limit=limit),
        )
        found |= {f"{name}/{metric}": value for metric, value in result.scores.metrics().items()}
    return found


@contextmanager
def validation_loop(data: DataFolder, run: RunFolder, config: TrainConfig) -> Iterator[None]:
    """While open, measures what the trainers leave; at the end waits for the last of it."""
    if not config.eval_datasets:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(data, run, config, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(data: DataFolder, run: RunFolder, config: TrainConfig, over: threading.Event) -> None:
    import ray
    from ray.exceptions import RayError
    from torch.utils.tensorboard import SummaryWriter

    task: Any = ray.remote(measure).options(num_cpus=0, max_retries=1)
    writer = SummaryWriter(str(run.tensorboard), filename_suffix=".validation")
    while True:
        ended = over.wait(0.5)
        for weights in run.waiting_weights():
            step = int(weights.stem.removeprefix("step_"))
            try:
                found = ray.get(task.remote(data, config.eval_datasets, weights, config.eval_images))
                journal.append(run.validation, {"step": step, **found})
                note_best(run, config.eval_datasets)
            except Exception as error:
                # Whatever it is, it costs this measurement, not the later ones: weights that wait keep their checkpoint.
                why = " ".join(str(cause(error)).split())
                known = isinstance(cause(error), (*EXPECTED, RayError))
                say(f"validation of step {step}: {why if known else f'{type(error).__name__}: {why}'}")
            else:
                for name, value in found.items():
                    writer.add_scalar(f"validation/{name}", value, step)
                writer.flush()
                say(f"validation of step {step}: " + ", ".join(f"{n} {v:.1f}" for n, v in found.items()))
            weights.unlink(missing_ok=True)
        if ended:
            writer.close()
            return
