"""Fits in the loop: what starts from the network's predictions, and how it goes to the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.fits.records import SOLVERS, records_of
from pipelines.fitting.assets import FittingFiles
from spin.camera import FOCAL_PX
from spin.fitting.observations import Observations
from spin.training.loop import LoopFitter, hold_out, no_truth
from spin.training.targets import StoredFits
from spin.training.trust import BodyParameters, Trust
from store.fits.records import Fits, Source

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from pipelines.folders import DataFolder
    from pipelines.training.config import TrainConfig
    from spin.fitting.fitter import FitResult
    from spin.fitting.observations import Views
    from spin.training.step import Batch
    from spin.training.targets import GroundTruth


@dataclass(frozen=True)
class NewFits(StoredFits):
    """Fits just made, as the step wants them, with the quality that is stored with them."""

    found: FitResult

    @classmethod
    def of(cls, found: FitResult) -> NewFits:
        f = found
        return cls(f.pose_aa, f.betas, f.camera_m, f.loss, f.score, f.storable, f)


class LoopFits:
    """Fits a batch's predictions, on the CPU, wherever the network runs: as machine code that is quicker than a GPU's many
    small launches. Keeps what the loop has measured of the network, the same on every rank."""

    def __init__(self, data: DataFolder, config: TrainConfig, device: torch.device, world: int) -> None:
        self.config, self.device, self.world = config, device, world
        self.loop = LoopFitter(FittingFiles.of(data, config.fitting).fitter(config.fitting))
        self._measured: Trust | None = None

    def hold_out(self, batch: Batch) -> tuple[Batch, GroundTruth]:
        """The batch as the network may see it, and the truth that it is measured by. As published, none is kept from it."""
        return hold_out(batch) if self.loop.weighs else (batch, no_truth(batch.truth))

    def of_batch(self, views: Views, truth: GroundTruth) -> Callable[[Tensor, Tensor, Tensor, Tensor], NewFits]:
        """The function by which `train_step` fits this batch, each sample in its own crop's camera.

        `truth`: what was held out.
        """
        # The prediction's translation is for the published camera; for another one it is found from the keypoints.
        published = bool((views.focal_px == FOCAL_PX).all())

        def fit(pose_aa: Tensor, betas: Tensor, camera_m: Tensor, keypoints: Tensor) -> NewFits:
            observations = Observations(keypoints.cpu()[:, None], views)
            camera = camera_m.cpu() if published else None
            prediction = BodyParameters(pose_aa.cpu(), betas.cpu())
            found, self._measured = self.loop.fit(prediction, observations, truth, camera)
            return NewFits.of(found.to(self.device))

        return fit

    def learn(self) -> None:
        """After a step: what it measured, on all ranks, counts from the next one on."""
        if self._measured is None or not self.loop.weighs:
            return
        sums = self._measured.to_vector()
        if self.world > 1:
            sums = sums.to(self.device)
            torch.distributed.all_reduce(sums)
        self.loop.trust = self.loop.trust.after(Trust.of_vector(sums.cpu()))
        self._measured = None

    @property
    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"trust": self.loop.trust.to_vector()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """As it was at a checkpoint; at one of another code's, nothing has been measured."""
        if "trust" in state:
            self.loop.trust = Trust.of_vector(state["trust"])

    def records(self, new: NewFits, rows: Int[np.ndarray, " n"], before: Fits, step: int) -> Fits:
        """Return what these rows of the batch offer to the store; `before` are the batch's records until now."""
        made = records_of(new.found, Source.LOOP, SOLVERS[self.config.fitting.solver]).take(rows)
        return replace(
            made,
            step=np.full(len(rows), step, np.int64),
            improvements=before.improvements[rows] + np.uint32(1),
            epoch=before.epoch[rows],
        )


def stored_fits(records: Fits, teaches: np.ndarray) -> StoredFits:
    """Records as the step wants them. A sample whose image can't be seen, or doesn't show it, has no fit to learn from."""
    return StoredFits(
        pose_aa=torch.from_numpy(records.pose),
        betas=torch.from_numpy(records.betas),
        camera_m=torch.from_numpy(records.camera),
        loss=torch.from_numpy(records.loss),
        score=torch.from_numpy(records.score),
        valid=torch.from_numpy((records.source != Source.NONE) & teaches),
    )
