"""Fits in the loop: what starts from the network's predictions, and how it goes to the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.fitting import FittingFiles
from pipelines.store_service import SOLVERS
from spin.camera import FOCAL_PX
from spin.fitting.evidence import Evidence
from spin.training.targets import StoredFits
from store.records import Fits, Source, StartKind

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from pipelines.layout import DataFolder
    from pipelines.train_config import TrainConfig
    from spin.fitting.evidence import Views
    from spin.fitting.fitter import FitResult


@dataclass(frozen=True)
class NewFits(StoredFits):
    """Fits just made, as the step wants them, with the quality that is stored with them."""

    found: FitResult

    @classmethod
    def of(cls, found: FitResult) -> NewFits:
        f = found
        return cls(f.pose_aa, f.betas, f.camera_m, f.loss, f.score, f.storable, f)


class LoopFitter:
    """Fits a batch's predictions, on the CPU, wherever the network runs: as machine code that is quicker than a GPU's many
    small launches."""

    def __init__(self, data: DataFolder, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.fitter = FittingFiles.of(data, config.fitting).fitter(config.fitting)

    def of_batch(self, views: Views) -> Callable[[Tensor, Tensor, Tensor, Tensor], NewFits]:
        """The function by which `train_step` fits this batch, each sample in its own crop's camera."""
        # The prediction's translation is for the published camera; for another one it is found from the keypoints.
        published = bool((views.focal_px == FOCAL_PX).all())

        def fit(pose_aa: Tensor, betas: Tensor, camera_m: Tensor, keypoints: Tensor) -> NewFits:
            evidence = Evidence(keypoints.cpu()[:, None], views)
            camera = camera_m.cpu() if published else None
            found = self.fitter.refine(pose_aa.cpu(), betas.cpu(), evidence, camera)
            return NewFits.of(found.to(self.device))

        return fit

    def records(self, new: NewFits, rows: Int[np.ndarray, " n"], before: Fits, step: int) -> Fits:
        """What is offered to the store of these rows of the batch; `before` are the batch's records as they were."""
        count, found = len(rows), new.found
        return Fits(
            pose=new.pose_aa.cpu().numpy()[rows],
            betas=new.betas.cpu().numpy()[rows],
            camera=new.camera_m.cpu().numpy()[rows],
            loss=new.loss.cpu().numpy()[rows],
            score=new.score.cpu().numpy()[rows],
            source=np.full(count, Source.LOOP, np.uint8),
            step=np.full(count, step, np.int64),
            improvements=before.improvements[rows] + np.uint32(1),
            start=np.full(count, StartKind.NETWORK, np.uint8),
            verdict=found.verdict.cpu().numpy().astype(np.uint8)[rows],
            iterations=found.iterations.cpu().numpy().astype(np.uint16)[rows],
            coverage=found.coverage.cpu().numpy()[rows],
            prior_cost=found.prior_cost.cpu().numpy()[rows],
            solver=np.full(count, SOLVERS[self.config.fitting.solver], np.uint8),
            epoch=before.epoch[rows],
        )


def stored_fits(records: Fits, readable: np.ndarray) -> StoredFits:
    """Records as the step wants them. A sample whose image can't be seen has nothing to learn from its fit."""
    return StoredFits(
        pose_aa=torch.from_numpy(records.pose),
        betas=torch.from_numpy(records.betas),
        camera_m=torch.from_numpy(records.camera),
        loss=torch.from_numpy(records.loss),
        score=torch.from_numpy(records.score),
        valid=torch.from_numpy((records.source != Source.NONE) & readable),
    )
