"""The loop of a training worker: load a batch, look up its fits, step, offer new fits, and save checkpoints.

Runs as a Ray Train worker (with DistributedDataParallel), or alone in the process for tests.
"""

from __future__ import annotations

import time
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch

from pipelines import journal
from pipelines.errors import EXPECTED, StageError, cause
from pipelines.fits.client import FitsClient, LookUp
from pipelines.preprocessing.pack import made_for, open_crops
from pipelines.progress import say
from pipelines.training.batch_plan import last_step, plan_of
from pipelines.training.loading import LoadedBatch, TrainingData, batches
from pipelines.training.loop_fits import LoopFits, NewFits, stored_fits
from pipelines.training.metrics_log import MetricsLog
from pipelines.training.pictures import Pictures
from pipelines.training.state import TrainingState, WorkerSettings
from spin.body import BodyMesh, CompactBody, load_body
from spin.errors import TrainingError
from spin.network.checkpoints import Checkpoint, save_checkpoint
from spin.training.device import to_device
from spin.training.step import Accumulation, StepResult, train_step
from store.annotations.table import Annotations
from store.fits.records import Fits


def run_worker(message: dict[str, Any]) -> None:
    """Ray Train's entry. An error that would only repeat itself is not tried again."""
    settings: WorkerSettings = message["settings"]
    if settings.failure.exists():
        raise StageError(settings.failure.read_text())
    try:
        Trainer(settings, ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()).run()
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
        self.fits = FitsClient([settings.services[name] for name in self.config.datasets])
        sets = [Annotations.read(settings.data.annotations(name)) for name in self.config.datasets]
        needed = made_for(self.config.img_res, self.config.augmentation)
        self.data = TrainingData(
            sets,
            img_res=self.config.img_res,
            ignore_3d=self.config.ignore_3d,
            packed=[open_crops(settings.data, n, a, needed) for n, a in zip(self.config.datasets, sets)],
            threads=max(1, self.config.num_workers),  # published: 0 is none beside the trainer
        )
        if rank == 0 and not self.data.usable.all():
            count = int((~self.data.usable).sum())
            say(f"{count} of {len(self.data)} people teach nothing: most of their keypoints are far outside their crops")
        self.plan = plan_of(self.config, [len(a) for a in sets], world, rank)
        body = load_body(settings.data.body)
        self.body = CompactBody(body).to(self.device)
        self.mesh = BodyMesh(body).to(self.device) if self.config.step.weights.shape > 0 else None
        self.pictures = Pictures.of(self.data, self.mesh or BodyMesh(body).to(self.device))
        self.loop: LoopFits | None = None
        if self.config.run_smplify:
            self.loop = LoopFits(settings.data, self.config, self.device, world)
        self.state = TrainingState(settings, self.plan, self.loop, self.device)
        self.first_step = self.state.restore()

    @property
    def last_step(self) -> int:
        return last_step(self.config, self.plan)

    def _is_checkpoint(self, steps: int) -> bool:
        """Whether the state after so many steps is kept."""
        return steps == self.last_step or steps % self.config.checkpoint_steps == 0

    def run(self) -> None:
        """All steps up to the last, then a checkpoint."""
        log = MetricsLog(self.settings.run, self.config.summary_steps) if self.rank == 0 else None
        loaded = batches(
            self.data,
            self.plan,
            self.config.augmentation,
            first=self.first_step,
            last=self.last_step,
            pin_memory=self.config.pin_memory and self.device.type == "cuda",
        )
        asked: LookUp | None = None
        waiting = time.perf_counter()
        for step, item in enumerate(loaded, self.first_step):
            begin = time.perf_counter()
            self._note_unreadable(item, step)
            if asked is None:
                asked = self._look_up(step)
            records = asked.wait()
            # The next step's records come while this one is computed.
            asked = self._look_up(step + 1) if self._goes_on(step) else None
            looked_up = time.perf_counter()
            result = self._step(item, records, step)
            stepped = time.perf_counter()
            self._offer(item, records, result, step)
            offered = time.perf_counter()
            if log is not None:
                seconds = {
                    "load": begin - waiting,
                    "store": looked_up - begin + offered - stepped,
                    **result.timings_s,
                }
                log.add(step, item, result, seconds, images=self.config.batch_size * self.world)
            self._show(log, step + 1)
            over = self._time_is_up() and self._accumulation(step).is_last
            if over or self._is_checkpoint(step + 1):
                self.fits.settle()
                self.state.save(step + 1)
            if over:
                break
            waiting = time.perf_counter()
        if log is not None:
            log.close()

    def _show(self, log: MetricsLog | None, step: int) -> None:
        """Pictures, and weights for validation, when it is time: the first worker's task."""
        config = self.config
        if log is None:
            return
        if step % config.picture_steps == 0 or step == self.last_step:
            log.picture(step, self.pictures.draw(self.state.bare, self.fits, self.device))
        if config.eval_datasets and (step % config.test_steps == 0 or step == self.last_step):
            weights = self.settings.run.to_validate / f"step_{step:08d}.pt"
            save_checkpoint(weights, Checkpoint(self.state.bare.state_dict(), config={"img_res": config.img_res}))

    def _time_is_up(self) -> bool:
        """Whether --time-to-run has passed: of all workers in the same step, as the first one's clock says."""
        if self.config.time_to_run is None:
            return False
        over = torch.tensor(time.time() >= self.settings.begun + self.config.time_to_run, device=self.device)
        if self.world > 1:
            torch.distributed.broadcast(over, 0)
        return bool(over)

    # ---- a step -----------------------------------------------------------------------------------------------------

    def _goes_on(self, step: int) -> bool:
        """Whether the next step's records may be asked for before this step's fits are offered.

        Not those of another epoch, as another worker may still hold fits of them; nor beyond a checkpoint: resuming there
        would see what is offered now.
        """
        return self.plan.place(step + 1).batch > 0 and not self._is_checkpoint(step + 1)

    def _look_up(self, step: int) -> LookUp:
        place = self.plan.place(step)
        if place.batch == 0:
            self.fits.settle()
            self.state.barrier()
        samples = self.plan.indices(place)
        return self.fits.look_up(self.data.dataset[samples], self.data.row[samples])

    def _step(self, item: LoadedBatch, records: Fits, step: int) -> StepResult:
        # Dropout's numbers are a function of (seed, step, rank) too.
        torch.manual_seed((self.config.seed * 1_000_003 + step) * 4096 + self.rank)
        try:
            return self._train_step(item, records, step)
        except TrainingError as error:
            kept = self.settings.run.root / f"failed-batch-step{step}-worker{self.rank}.pt"
            try:
                torch.save({"step": step, "batch": _as_plain(item.batch)}, kept)
            except (OSError, RuntimeError):  # torch's own writer raises the latter on a full disk
                raise error from None
            raise TrainingError(f"{error}; the batch is kept in {kept}") from error

    def _train_step(self, item: LoadedBatch, records: Fits, step: int) -> StepResult:
        batch, fit = item.batch, None
        if self.loop is not None:
            batch, held_out = self.loop.hold_out(batch)
            fit = self.loop.of_batch(self.data.crops.take(torch.from_numpy(item.sample)), held_out)
        result = train_step(
            self.state.network,
            self.state.optimiser,
            self.body,
            to_device(batch, self.device),
            fit,
            to_device(stored_fits(records, item.teaches), self.device),
            self.config.step,
            step=step,
            mesh=self.mesh,
            accumulation=self._accumulation(step),
        )
        if self.loop is not None:
            self.loop.learn()
        return result

    def _accumulation(self, step: int) -> Accumulation:
        return Accumulation(self.config.accumulate, step % self.config.accumulate)

    def _offer(self, item: LoadedBatch, before: Fits, result: StepResult, step: int) -> None:
        """Sends the fits that beat the stored ones."""
        if self.loop is None or result.new_fits is None:
            return
        assert isinstance(result.new_fits, NewFits)
        better = np.flatnonzero((result.improved & result.new_fits.valid).cpu().numpy())
        fits = self.loop.records(result.new_fits, better, before, step)
        self.fits.offer(item.dataset[better], item.row[better], fits)

    def _note_unreadable(self, item: LoadedBatch, step: int) -> None:
        """Lists images that can't be read. StageError at the end of an epoch or the run if there was no other."""
        self.readable += int(item.readable.sum())
        over = item.place.batch == self.plan.batches_per_epoch - 1 or step + 1 == self.last_step
        if over and not self.readable:
            raise StageError(f"none of the images so far could be read: {item.unreadable[0]}")
        for problem in item.unreadable:
            journal.append(self.settings.run.skipped, {"step": step + 1, "problem": problem})


def _as_plain(batch: Any) -> Any:
    """Dataclasses as dicts: `torch.load(weights_only=True)` reads those back."""
    return {name: _as_plain(value) for name, value in vars(batch).items()} if is_dataclass(batch) else batch
