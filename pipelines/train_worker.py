"""What every training worker does: load, look up, step, offer, and now and then a checkpoint.

Runs as a Ray Train worker (with DistributedDataParallel), or alone in the process for tests.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch

from pipelines import journal
from pipelines.failures import EXPECTED, StageError, cause
from pipelines.fitting import FittingFiles
from pipelines.layout import DataFolder, RunFolder
from pipelines.loading import LoadedBatch, Plan, TrainingData, batches
from pipelines.pack import made_for, open_crops
from pipelines.rendezvous import incarnation
from pipelines.store_service import SOLVERS
from pipelines.train_config import TrainConfig
from spin.body import BodyMesh, CompactBody, load_body
from spin.camera import FOCAL_PX
from spin.fitting.evidence import Evidence
from spin.fitting.prior import load_pose_prior
from spin.network.checkpoints import (
    Checkpoint,
    apply_weights,
    load_backbone_weights,
    load_checkpoint,
    save_checkpoint,
)
from spin.network.hmr import HMR, MeanParameters
from spin.training.device import to_device
from spin.training.step import StepResult, train_step
from spin.training.targets import StoredFits
from store.annotations import Annotations
from store.records import Fits, Source, StartKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from spin.fitting.fitter import FitResult


@dataclass(frozen=True)
class WorkerSettings:
    """What the driver tells every worker. `attempt` is one call of `spin-pipe train`; Ray may start workers again in it."""

    config: TrainConfig
    run: RunFolder
    data: DataFolder
    services: dict[str, Any]  # data set -> handle of its FitService
    threads: int  # of each worker
    attempt: str

    @property
    def failure(self) -> Path:
        """Where a worker leaves an error that would only repeat itself."""
        return self.run.root / f"failure-{self.attempt}.txt"


def run_worker(message: dict[str, Any]) -> None:
    """Ray Train's entry. An error that would only repeat itself is not tried again."""
    settings: WorkerSettings = message["settings"]
    if settings.failure.exists():
        raise StageError(settings.failure.read_text())
    try:
        Trainer(
            settings, ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
        ).run()
    except EXPECTED as error:
        settings.failure.write_text(str(cause(error)))
        raise


class Trainer:
    """One worker's share of a run."""

    def __init__(self, settings: WorkerSettings, rank: int, world: int) -> None:
        self.settings, self.config, self.rank, self.world = settings, settings.config, rank, world
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(settings.threads)
        torch.manual_seed(self.config.seed)
        self.readable = 0  # images, of those asked for
        self.pending: list[Any] = []  # offers the store has not answered yet
        sets = [Annotations.read(settings.data.annotations(name)) for name in self.config.datasets]
        needed = made_for(self.config.img_res, self.config.augmentation)
        self.data = TrainingData(
            sets,
            img_res=self.config.img_res,
            ignore_3d=self.config.ignore_3d,
            packed=[open_crops(settings.data, n, a, needed) for n, a in zip(self.config.datasets, sets)],
        )
        self.plan = Plan(len(self.data), self.config.batch_size, world, rank, self.config.seed)
        body = load_body(settings.data.body)
        self.body = CompactBody(body).to(self.device)
        self.mesh = BodyMesh(body).to(self.device) if self.config.step.weights.shape > 0 else None
        self.fitter = None
        if self.config.run_smplify:
            fitting = self.config.fitting
            self.fitter = FittingFiles.of(settings.data, fitting).fitter(fitting)
        # The network's own weights, and the same network as it is trained (in DistributedDataParallel, if not alone).
        self.bare = HMR(self.config.backbone, mean=self._mean_parameters())
        self.optimiser: torch.optim.Optimizer
        self.network: nn.Module
        self.first_step = self._start()

    @property
    def last_step(self) -> int:
        steps = self.config.epochs * self.plan.batches_per_epoch
        return steps if self.config.max_steps is None else min(steps, self.config.max_steps)

    def run(self) -> None:
        """All steps up to the last, then a checkpoint."""
        log = MetricsLog(self.settings.run, self.config.summary_steps) if self.rank == 0 else None
        waiting = time.perf_counter()
        loaded = batches(
            self.data, self.plan, self.config.augmentation, first=self.first_step, last=self.last_step
        )
        for step, item in enumerate(loaded, self.first_step):
            begin = time.perf_counter()
            self._note_unreadable(item, step)
            if item.place.batch == 0:
                # Another worker may have offered a fit of a sample that is ours in this epoch.
                self._settle()
                self._barrier()
            stored = self._look_up(item)
            looked_up = time.perf_counter()
            result = self._step(item, stored, step)
            stepped = time.perf_counter()
            self._offer(item, stored, result, step)
            done = time.perf_counter()
            if log is not None:
                seconds = {
                    "load": begin - waiting,
                    "store": looked_up - begin + done - stepped,
                    **result.timings_s,
                }
                log.add(step, item, result, seconds, images=self.config.batch_size * self.world)
            if (step + 1) % self.config.checkpoint_steps == 0 and step + 1 < self.last_step:
                self._checkpoint(step + 1)
            waiting = time.perf_counter()
        if self.last_step > self.first_step:
            self._checkpoint(self.last_step)
        if log is not None:
            log.close()

    # ---- a step -----------------------------------------------------------------------------------------------------

    def _step(self, item: LoadedBatch, stored: _Stored, step: int) -> StepResult:
        # Dropout's numbers are a function of (seed, step, rank) too.
        torch.manual_seed((self.config.seed * 1_000_003 + step) * 4096 + self.rank)
        return train_step(
            self.network,
            self.optimiser,
            self.body,
            to_device(item.batch, self.device),
            self._fit_function(item),
            stored.fits,
            self.config.step,
            step=step,
            mesh=self.mesh,
        )

    def _fit_function(self, item: LoadedBatch) -> Callable[[Tensor, Tensor, Tensor, Tensor], _NewFits] | None:
        """Fits of this batch, each in its own crop's camera.

        They run on the CPU, wherever the network does: as machine code that is quicker than a GPU's many small launches.
        """
        fitter = self.fitter
        if fitter is None:
            return None
        rows = torch.from_numpy(item.sample)
        views = self.data.crops.take(rows)
        # The prediction's translation is for the published camera; for another one it is found from the keypoints.
        published = bool((views.focal_px == FOCAL_PX).all())

        def fit(pose_aa: Tensor, betas: Tensor, camera_m: Tensor, keypoints: Tensor) -> _NewFits:
            evidence = Evidence(keypoints.cpu()[:, None], views)
            found = fitter.refine(pose_aa.cpu(), betas.cpu(), evidence, camera_m.cpu() if published else None)
            return _NewFits.of(found.to(self.device))

        return fit

    def _look_up(self, item: LoadedBatch) -> _Stored:
        """The best known fits of the batch, from each data set's service."""
        self._settle()
        records = Fits.empty(len(item.row))
        requests = {
            d: self.settings.services[self.data.sets[d].name].get.remote(item.row[item.dataset == d])
            for d in np.unique(item.dataset)
        }
        columns = {f.name: getattr(records, f.name).copy() for f in fields(Fits)}
        for d, request in requests.items():
            found = ray.get(request)
            for name, column in columns.items():
                column[item.dataset == d] = getattr(found, name)
        return _Stored.of(Fits(**columns), item.readable, self.device)

    def _note_unreadable(self, item: LoadedBatch, step: int) -> None:
        """Lists images that can't be read. StageError at the end of an epoch or the run if there was no other."""
        self.readable += int(item.readable.sum())
        over = item.place.batch == self.plan.batches_per_epoch - 1 or step + 1 == self.last_step
        if over and not self.readable:
            raise StageError(f"none of the images so far could be read: {item.unreadable[0]}")
        for problem in item.unreadable:
            journal.append(self.settings.run.skipped, {"step": step + 1, "problem": problem})

    def _offer(self, item: LoadedBatch, stored: _Stored, result: StepResult, step: int) -> None:
        """Sends the fits that beat the stored ones; the store decides again, and writes in its own time."""
        if result.new_fits is None:
            return
        new, better = result.new_fits, (result.improved & result.new_fits.valid).cpu().numpy()
        assert isinstance(new, _NewFits)
        for d in np.unique(item.dataset):
            rows = np.flatnonzero(better & (item.dataset == d))
            if not len(rows):
                continue
            fits = Fits(
                pose=new.pose_aa.cpu().numpy()[rows],
                betas=new.betas.cpu().numpy()[rows],
                camera=new.camera_m.cpu().numpy()[rows],
                loss=new.loss.cpu().numpy()[rows],
                score=new.score.cpu().numpy()[rows],
                source=np.full(len(rows), Source.LOOP, np.uint8),
                step=np.full(len(rows), step, np.int64),
                improvements=stored.improvements[rows] + np.uint32(1),
                start=np.full(len(rows), StartKind.NETWORK, np.uint8),
                verdict=new.found.verdict.cpu().numpy().astype(np.uint8)[rows],
                iterations=new.found.iterations.cpu().numpy().astype(np.uint16)[rows],
                coverage=new.found.coverage.cpu().numpy()[rows],
                prior_cost=new.found.prior_cost.cpu().numpy()[rows],
                solver=np.full(len(rows), SOLVERS[self.config.fitting.solver], np.uint8),
                epoch=stored.epoch[rows],
            )
            service = self.settings.services[self.data.sets[d].name]
            self.pending.append(service.offer.remote(item.row[rows], fits, incarnation()))

    def _settle(self) -> None:
        """Waits for the store's answers to earlier offers, so that at most one step's are ever under way."""
        ray.get(self.pending)
        self.pending.clear()

    # ---- start and checkpoints --------------------------------------------------------------------------------------

    def _mean_parameters(self) -> MeanParameters:
        data = self.settings.data
        if data.mean_parameters is not None:
            return MeanParameters.from_file(data.mean_parameters)
        return MeanParameters.from_body_pose(torch.from_numpy(load_pose_prior(data.prior).mean_pose()))

    def _start(self) -> int:
        """Fills the network from the newest checkpoint, the store taken back to the state it belongs to; or anew.

        Returns the step to go on with.
        """
        config = self.config
        newest = self.settings.run.latest_checkpoint()
        checkpoint = None if newest is None else load_checkpoint(newest)
        if checkpoint is not None:
            apply_weights(self.bare, checkpoint.model, str(newest))
        elif config.pretrained_checkpoint is not None:
            source = config.pretrained_checkpoint
            apply_weights(self.bare, load_checkpoint(source).model, source)
        elif config.backbone_weights is not None:
            weights = load_backbone_weights(config.backbone_weights)
            apply_weights(self.bare, weights, config.backbone_weights, only_backbone=True)
        self.bare.to(self.device)
        self.optimiser = torch.optim.Adam(self.bare.parameters(), lr=config.lr)
        if checkpoint is not None and checkpoint.optimizer is not None:
            self.optimiser.load_state_dict(dict(checkpoint.optimizer))
        tags = {} if checkpoint is None else checkpoint.tag
        if self.rank == 0:
            services = self.settings.services.items()
            ray.get([service.begin.remote(incarnation(), tags.get(name)) for name, service in services])
        self.network = ray.train.torch.prepare_model(self.bare) if self.world > 1 else self.bare
        if checkpoint is None:
            # So that workers which Ray starts again always find a state to go back to.
            self._checkpoint(0)
        self._barrier()
        return 0 if checkpoint is None else checkpoint.step

    def _checkpoint(self, step: int) -> None:
        """Network, optimiser, and a tag for the fits as they are now; all workers wait for it."""
        self._settle()
        self._barrier()
        if self.rank == 0:
            tag = f"{self.settings.run.root.name}.step{step}.{uuid.uuid4().hex[:8]}"
            ray.get([service.tag.remote(tag) for service in self.settings.services.values()])
            epoch, batch = divmod(step, self.plan.batches_per_epoch)
            save_checkpoint(
                self.settings.run.checkpoint(step),
                Checkpoint(
                    model=self.bare.state_dict(),
                    optimizer=self.optimiser.state_dict(),
                    epoch=epoch,
                    step=step,
                    batch_idx=batch,
                    seed=self.config.seed,
                    tag=dict.fromkeys(self.settings.services, tag),
                    config=json.loads(json.dumps(asdict(self.config))),
                ),
            )
        self._barrier()

    def _barrier(self) -> None:
        if self.world > 1:
            torch.distributed.barrier()


@dataclass(frozen=True)
class _NewFits(StoredFits):
    """Fits just made, as the step wants them, with the quality that is stored with them."""

    found: FitResult

    @classmethod
    def of(cls, found: FitResult) -> _NewFits:
        f = found
        return cls(f.pose_aa, f.betas, f.camera_m, f.loss, f.score, f.storable, f)


@dataclass(frozen=True)
class _Stored:
    """Records of a batch, and as the step wants them."""

    fits: StoredFits
    improvements: np.ndarray
    epoch: np.ndarray

    @classmethod
    def of(cls, records: Fits, readable: np.ndarray, device: torch.device) -> _Stored:
        """A sample whose image can't be seen has nothing to learn from its fit."""
        fits = StoredFits(
            pose_aa=torch.from_numpy(records.pose),
            betas=torch.from_numpy(records.betas),
            camera_m=torch.from_numpy(records.camera),
            loss=torch.from_numpy(records.loss),
            score=torch.from_numpy(records.score),
            valid=torch.from_numpy((records.source != Source.NONE) & readable),
        )
        return cls(to_device(fits, device), records.improvements, records.epoch)


class MetricsLog:
    """Means over `every` steps, as a line of metrics.jsonl and as TensorBoard scalars."""

    def __init__(self, run: RunFolder, every: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path, self.every = run.metrics, every
        self.writer = SummaryWriter(str(run.tensorboard))
        self.rows: list[dict[str, float]] = []
        self.last: dict[str, int] = {}
        self.images = 0
        self.begun = time.perf_counter()

    def add(
        self, step: int, item: LoadedBatch, result: StepResult, seconds: dict[str, float], *, images: int
    ) -> None:
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

    def close(self) -> None:
        """Writes what is left of the last window, too."""
        if self.rows:
            self._write()
        self.writer.close()
