"""The state of a training: network, optimiser, and what the loop has measured; restored from checkpoints and saved to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train.torch
import torch

from pipelines.cluster.incarnation import incarnation
from pipelines.folders import DataFolder, RunFolder
from pipelines.training.batch_plan import Plan
from pipelines.training.checkpoints import keep_checkpoint, new_tag, prune
from pipelines.training.config import TrainConfig
from pipelines.training.loop_fits import LoopFits
from spin.fitting.prior import load_pose_prior
from spin.network.checkpoints import Checkpoint, apply_weights, load_backbone_weights, load_checkpoint
from spin.network.hmr import HMR, MeanParameters
from spin.training.device import best_precision
from store.fits.fingerprint import Fingerprint

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class WorkerSettings:
    """What the driver passes to every worker. `attempt` is one call of `spin-pipe train`; Ray may start workers again in it."""

    config: TrainConfig
    run: RunFolder
    data: DataFolder
    services: dict[str, Any]  # data set -> handle of its FitService
    fingerprints: dict[str, Fingerprint]  # data set -> what its fits belong to
    threads: int  # of each worker
    attempt: str
    begun: float  # of the command, time.time()

    @property
    def failure(self) -> Path:
        """The file for an error that would occur again on every try."""
        return self.run.root / f"failure-{self.attempt}.txt"


class TrainingState:
    """One worker's copy of what a checkpoint holds. The first worker writes it; all wait for that.

    `bare` is the network itself, `network` the same as it is trained: in DistributedDataParallel if there are several workers.
    """

    optimiser: torch.optim.Optimizer
    network: nn.Module
    precision: str

    def __init__(self, settings: WorkerSettings, plan: Plan, loop: LoopFits | None, device: torch.device) -> None:
        self.settings, self.config, self.plan, self.loop, self.device = settings, settings.config, plan, loop, device
        self.bare = HMR(self.config.backbone, mean=_mean_parameters(settings.data))

    def restore(self) -> int:
        """Restore the newest checkpoint, and the fits to the state that belongs to it; without one, begin anew.

        Return the step to continue with.
        """
        newest = self.settings.run.latest_checkpoint()
        checkpoint = None if newest is None else load_checkpoint(newest)
        if checkpoint is None:
            self._starting_weights()
        else:
            apply_weights(self.bare, checkpoint.model, str(newest))
        self._prepare({} if checkpoint is None else checkpoint.config)
        if checkpoint is not None and checkpoint.optimizer is not None:
            self.optimiser.load_state_dict(dict(checkpoint.optimizer))
        if checkpoint is not None and self.loop is not None:
            self.loop.restore(checkpoint.loop)
        tags = {} if checkpoint is None else checkpoint.tag
        if self.plan.rank == 0:
            services = self.settings.services.items()
            ray.get([service.begin.remote(incarnation(), tags.get(name)) for name, service in services])
        self.network = ray.train.torch.prepare_model(self.bare) if self.plan.world > 1 else self.bare
        if checkpoint is None:
            # So that workers which Ray starts again always find a state to return to.
            self.save(0)
        self.barrier()
        return 0 if checkpoint is None else checkpoint.step

    def _starting_weights(self) -> None:
        source, backbone = self.config.pretrained_checkpoint, self.config.backbone_weights
        if source is not None:
            apply_weights(self.bare, load_checkpoint(source).model, source)
        elif backbone is not None:
            apply_weights(self.bare, load_backbone_weights(backbone), backbone, only_backbone=True)

    def _prepare(self, begun: Mapping[str, Any]) -> None:
        """Move the network to its device and give it an optimiser. `begun`: the checkpoint's configuration, if there is one."""
        self.bare.to(self.device)
        if self.config.channels_last:
            self.bare = self.bare.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = self.config.precision
        if self.precision == "auto":
            # A run continues with the precision it began with, on any machine.
            self.precision = begun.get("precision_used") or best_precision(self.device)
        self.bare.features_dtype = getattr(torch, self.precision)
        self.optimiser = torch.optim.Adam(self.bare.parameters(), lr=self.config.lr)

    def save(self, step: int) -> None:
        """Save a checkpoint and tag the fits' present state. All workers wait for it, and must have settled their fits."""
        self.barrier()
        if self.plan.rank == 0:
            services = self.settings.services
            tag = new_tag(self.settings.run, step)
            ray.get([service.tag.remote(tag, incarnation()) for service in services.values()])
            keep_checkpoint(self.settings.run, self._checkpoint(step, tag))
            prune(self.settings.run, services, self.config.keep, self.config.eval_datasets)
        self.barrier()

    def _checkpoint(self, step: int, tag: str) -> Checkpoint:
        epoch, batch = divmod(step, self.plan.batches_per_epoch)
        return Checkpoint(
            model=self.bare.state_dict(),
            optimizer=self.optimiser.state_dict(),
            epoch=epoch,
            step=step,
            batch_idx=batch,
            seed=self.config.seed,
            tag=dict.fromkeys(self.settings.services, tag),
            config=json.loads(json.dumps(asdict(self.config)))
            | {
                "precision_used": self.precision,
                "fingerprints": {n: f.to_json() for n, f in self.settings.fingerprints.items()},
            },
            loop={} if self.loop is None else self.loop.state,
        )

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.plan.world > 1:
            torch.distributed.barrier()


def _mean_parameters(data: DataFolder) -> MeanParameters:
    if data.mean_parameters is not None:
        return MeanParameters.from_file(data.mean_parameters)
    return MeanParameters.from_body_pose(torch.from_numpy(load_pose_prior(data.prior).mean_pose()))
