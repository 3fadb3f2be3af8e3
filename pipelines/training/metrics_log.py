"""What a run says of itself: a line of metrics.jsonl and TensorBoard scalars every few steps, and pictures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from pipelines import journal

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from pipelines.folders import RunFolder
    from pipelines.training.loading import LoadedBatch
    from spin.training.step import StepResult


class MetricsLog:
    """Means over `every` steps."""

    def __init__(self, run: RunFolder, every: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path, self.every = run.metrics, every
        self.writer = SummaryWriter(str(run.tensorboard))
        self.rows: list[dict[str, float]] = []
        self.last: dict[str, int] = {}
        self.images = 0
        self.begun = time.perf_counter()

    def add(self, step: int, item: LoadedBatch, result: StepResult, seconds: dict[str, float], *, images: int) -> None:
        """Notes a step; `seconds` are its parts, `images` those of all workers."""
        row = {f"loss/{name}": value for name, value in result.losses.items()}
        row |= {"fits/improved": result.share_improved, "fits/valid": result.share_valid}
        row |= {f"seconds/{name}": value for name, value in seconds.items()}
        self.rows.append(row | {"gradient_norm": result.gradient_norm})
        self.last = {"step": step + 1, "epoch": item.place.epoch}
        self.images = images
        if len(self.rows) == self.every:
            self._write()

    def _write(self) -> None:
        now = time.perf_counter()
        means = {name: float(np.mean([row[name] for row in self.rows])) for name in self.rows[0]}
        means["images_per_s"] = self.images * len(self.rows) / (now - self.begun)
        journal.append(self.path, {**self.last, **means})
        for name, value in means.items():
            self.writer.add_scalar(name, value, self.last["step"])
        self.writer.flush()
        self.rows, self.begun = [], now

    def picture(self, step: int, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Shown beside the curves."""
        self.writer.add_image("people", image, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """Writes what is left of the last window, too."""
        if self.rows:
            self._write()
        self.writer.close()
