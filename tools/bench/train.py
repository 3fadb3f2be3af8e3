"""What a training step consists of, and how two workers scale. Prints one JSON line.

    python -m tools.bench.train [--steps 12] [--backbone resnet50] [--img-res 224] [--batch-size 16]

People of the embedded world, their static fits in a store, and `spin-pipe train` as it is, with its Ray workers: one worker
of one core, then two. Shares are of a step's whole time, means after the first quarter of the steps. floor_network_s is the
network's forward and backward pass alone, in this process, in the same precision; the least a step could take.

--precision float32 makes the model's part larger where the processor is quick with bfloat16.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from pipelines import journal
from pipelines.cluster.session import cpu_count, ray_session
from pipelines.fitting.fit_static import fit_static
from pipelines.folders import DataFolder, RunFolder
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from pipelines.synthetic.coco_world import synthesize
from pipelines.training.config import TrainConfig
from pipelines.training.run import train
from spin.fitting.fitter import FitConfig
from spin.network.hmr import HMR, MeanParameters
from spin.training.device import best_precision

PARTS = ("load", "store", "forward", "fit", "backward")


def steps_of(data: DataFolder, place: Path, config: TrainConfig) -> dict[str, float]:
    """Mean seconds of a step's parts, the whole step, and images a second."""
    run = RunFolder.of(place, f"workers{config.workers}")
    train(data, run, config, resume=False)
    lines = journal.read(run.metrics)
    settled = lines[len(lines) // 4 :]
    found = {part: statistics.mean(line[f"seconds/{part}"] for line in settled) for part in PARTS}
    images = statistics.mean(line["images_per_s"] for line in settled)
    step = config.batch_size * config.workers / images
    return found | {"step": step, "images_per_s": images}


def network_s(config: TrainConfig, precision: str, runs: int = 3) -> float:
    """Seconds of a forward and backward pass of one batch, on one core."""
    torch.set_num_threads(1)
    network = HMR(config.backbone, mean=MeanParameters.from_body_pose(torch.zeros(69)))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.features_dtype = getattr(torch, precision)
    images = torch.randn(config.batch_size, 3, config.img_res, config.img_res)
    seconds = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        said = network(images)
        (said.rotations.sum() + said.betas.sum() + said.weak_camera.sum()).backward()
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])


def measure(config: TrainConfig, people: int, folder: Path) -> dict[str, Any]:
    """The line."""
    synthesize(folder / "raw", people=people, test_people=1, seed=0, truth_share=0.0)
    data = DataFolder(folder / "data")
    preprocess(data, DATASETS["coco"], folder / "raw", "world", ReaderOptions("train2014", min_body_joints=8))
    with ray_session():
        fit_static(data, "world", FitConfig())
        one, two = (
            steps_of(data, folder, TrainConfig(**vars(config) | {"workers": workers, "threads": 1})) for workers in (1, 2)
        )
    precision = best_precision(torch.device("cpu")) if config.precision == "auto" else config.precision
    return {
        "fit_and_store_share": (one["fit"] + one["store"]) / one["step"],
        "load_wait_share": one["load"] / one["step"],
        "scaling_2_workers": two["images_per_s"] / one["images_per_s"],
        "images_per_s": one["images_per_s"],
        "floor_network_s": network_s(config, precision),
        **{f"{part}_s": one[part] for part in (*PARTS, "step")},
        "two_workers": {part: two[part] for part in (*PARTS, "step")},
        "load_wait_share_2_workers": two["load"] / two["step"],
        "precision": precision,
        "backbone": config.backbone,
        "img_res": config.img_res,
        "batch_size": config.batch_size,
        "cores": cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--img-res", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", default="auto")
    chosen = parser.parse_args()
    config = TrainConfig(
        datasets=("world",), backbone=chosen.backbone, img_res=chosen.img_res, batch_size=chosen.batch_size,
        precision=chosen.precision, max_steps=chosen.steps, summary_steps=1, checkpoint_steps=10**6, picture_steps=10**6,
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as quiet,
        contextlib.redirect_stderr(quiet),
    ):
        found = measure(config, 8 * chosen.batch_size, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
