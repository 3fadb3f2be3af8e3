"""The first fits: SMPLify over a whole data set, by Ray tasks, into the fit store.

Batches are fixed lists of groups (a group is one row, or the views of one pose). A batch's fits become durable together, and
a batch is done again as a whole if any of its samples is missing; so a run that was killed, at any moment and in any
process, ends with the same store as one that was not.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.cluster.nodes import require_seen
from pipelines.cluster.session import cpu_count, ray_session
from pipelines.cluster.waiting import first_done
from pipelines.fits.doubt import doubtful_fits, in_mm
from pipelines.fits.open import STATIC_TAG, require_reachable
from pipelines.fits.records import SOLVERS, put, records_of_view
from pipelines.fits.service import start_service
from pipelines.fitting.assets import FittingFiles
from pipelines.fitting.from_annotations import groups_of, observations_of
from pipelines.fitting.without_3d import run_name
from pipelines.folders import DataFolder
from pipelines.progress import progress, say
from pipelines.rejections import RejectedLedger
from spin.fitting.fitter import FitConfig
from spin.fitting.verdicts import KEPT, VALID, VERDICTS
from store.annotations.table import Annotations
from store.fits.records import Fits, Source

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from spin.fitting.fitter import BatchFitter
    from spin.fitting.observations import PreparedObservations
    from spin.fitting.starts import Start

BATCH = 256
_IN_FLIGHT = 2  # batches given out for each core, so that it never waits
_LOOK_S = 5.0  # between looks at how many cores a cluster has


@dataclass(frozen=True)
class GivenBodies:
    """Bodies to start from, of a file or of the store; rows without one have `known` False."""

    kind: str  # of spin.fitting.starts.START_KINDS
    pose_aa: Float[np.ndarray, "n 72"]
    betas: Float[np.ndarray, "n 10"]
    known: Bool[np.ndarray, " n"]

    def take(self, rows: Int[np.ndarray, " k"]) -> GivenBodies:
        return GivenBodies(self.kind, self.pose_aa[rows], self.betas[rows], self.known[rows])


@dataclass(frozen=True)
class Work:
    """A batch: its sample numbers, their annotations, which of them are fitted together, and bodies to start from.

    epoch: of the samples' records in the store, which their fits carry on (see store.fits.merge); None: no fit was retracted.
    """

    ids: Int[np.ndarray, " n"]
    people: Annotations
    groups: list[Int[np.ndarray, " v"]]  # places in `ids`
    given: tuple[GivenBodies, ...]
    epoch: Int[np.ndarray, " n"] | None = None


@dataclass(frozen=True)
class FittedBatch:
    """Fits of one batch that may be stored, and the verdict of every sample of it."""

    ids: Int[np.ndarray, " n"]
    fits: Fits
    all_ids: Int[np.ndarray, " m"]
    verdicts: Int[np.ndarray, " m"]


@dataclass(frozen=True)
class FitSummary:
    """Counts of a run. `done` samples had a fit before it. `doubtful`, of those valid: None where scores are not in mm."""

    samples: int
    done: int
    fitted: int
    valid: int
    doubtful: int | None
    verdicts: dict[str, int]
    rejected_list: Path | None


class StaticFitter:
    """Fits batches of one data set. Runs in a Ray task, or in the process."""

    def __init__(self, files: FittingFiles, config: FitConfig, ignore_3d: bool, device: str = "cpu") -> None:
        torch.set_num_threads(1)
        self.ignore_3d = ignore_3d
        self.fitter: BatchFitter = files.fitter(config, torch.device(device))

    def fit(self, work: Work) -> FittedBatch:
        fits, solver = Fits.empty(len(work.ids)), SOLVERS[self.fitter.config.solver]
        verdicts = np.zeros(len(work.ids), np.int64)
        for views in sorted({len(group) for group in work.groups}):
            rows = np.stack([group for group in work.groups if len(group) == views])
            observations = observations_of(work.people, rows, ignore_3d=self.ignore_3d)
            prepared = self.fitter.prepare(observations)
            starts = self.fitter.starts(prepared)
            starts += [self._given(given, rows, prepared, starts) for given in work.given]
            result = self.fitter.fit(prepared, starts)
            for view in range(views):
                records = records_of_view(self.fitter, result, observations, view, Source.STATIC, solver)
                put(fits, rows[:, view], records)
                verdicts[rows[:, view]] = result.verdict.cpu().numpy()
        if work.epoch is not None:
            fits.epoch[:] = work.epoch
        keep = np.isin(verdicts, KEPT)
        return FittedBatch(work.ids[keep], fits.take(keep), work.ids, verdicts)

    def _given(
        self,
        given: GivenBodies,
        rows: Int[np.ndarray, "n v"],
        prepared: PreparedObservations,
        starts: list[Start],
    ) -> Start:
        """The first body that a group's rows are given; where there is none, the first other start, or a mean pose."""
        known = given.known[rows]
        chosen = rows[np.arange(len(rows)), known.argmax(1)]
        pose, betas = torch.from_numpy(given.pose_aa[chosen]), torch.from_numpy(given.betas[chosen])
        first = torch.from_numpy(known.argmax(1))
        return self.fitter.given_in_view(
            pose, betas, prepared, first, torch.from_numpy(known.any(1)), kind=given.kind, fallback=starts
        )


def fit_static(
    data: DataFolder,
    dataset: str,
    config: FitConfig,
    *,
    workers: int | None = None,
    batch: int = BATCH,
    address: str | None = None,
    given: tuple[GivenBodies, ...] = (),
    ignore_3d: bool = False,
    again: bool = False,
) -> FitSummary:
    """Fits what has no fit yet, and tags the state 'static'. Raises StoreError if the store belongs to other data.

    `again` fits every sample, also those with a fit; a fit replaces another only if its score is lower. `ignore_3d`: by one
    view's keypoints alone, and the fits' run is marked so.
    """
    annotations = Annotations.read(data.annotations(dataset))
    require_reachable(data.fits(dataset))
    files = FittingFiles.of(data, config)
    fingerprint = files.fingerprint(config.objective, annotations)
    groups = groups_of(annotations, ignore_3d=ignore_3d)
    tried = f"{fingerprint.to_text()} {config} ignore_3d={ignore_3d} {_digest(given)}"
    ledger = RejectedLedger(data.rejected_fits(dataset), tried, annotations)
    compile_solver(files, config)
    with ray_session(address, cpus=max(cpu_count(), workers or 0)):
        import ray

        if address is not None:
            require_seen(data.annotations(dataset), files.body)
        run = run_name("fit-static", ignore_3d)
        service = start_service(data.fits(dataset), len(annotations), fingerprint, "fit-static", run=run)
        records = ray.get(service.get.remote(np.arange(len(annotations))))
        stored, epoch = records.source != Source.NONE, records.epoch.copy()
        ledger.drop(stored)
        settled = stored | ledger.rejected(len(annotations))
        todo = pending_batches(np.zeros_like(settled) if again else settled, groups, batch)
        task: Any = ray.remote(num_cpus=1, max_retries=-1)(fit_batch)
        ahead = _Ahead(workers, changing=address is not None)
        verdicts: Counter[int] = Counter()
        doubtful = 0
        total = int(sum(len(group) for groups in todo for group in groups))
        batches = (_work(annotations, groups, given, epoch) for groups in todo)
        work = _through_store(
            lambda b: task.remote(files, config, ignore_3d, b),
            service,
            batches,
            ahead,
            f"fit-static {dataset}",
        )
        with progress(total, f"fit-static {dataset}", "fit") as bar:
            for fitted in work:
                verdicts.update(fitted.verdicts.tolist())
                doubtful += int(doubtful_fits(fitted.fits, fingerprint.score_rule).sum())
                ledger.record(fitted.all_ids, fitted.verdicts)
                bar.update(len(fitted.all_ids))
                bar.set_postfix_str(f"{verdicts[VALID] / verdicts.total():.1%} valid", refresh=False)
        ray.get(service.compact.remote())
        ray.get(service.tag.remote(STATIC_TAG))
        ray.get(service.close.remote())
    return FitSummary(
        samples=len(annotations),
        done=int(stored.sum()),
        fitted=sum(verdicts[v] for v in KEPT),
        valid=verdicts[VALID],
        doubtful=doubtful if in_mm(fingerprint.score_rule) else None,
        verdicts={VERDICTS[v]: n for v, n in sorted(verdicts.items())},
        rejected_list=ledger.path if ledger.reasons else None,
    )


def _digest(given: tuple[GivenBodies, ...]) -> str:
    """Tells bodies to start from apart."""
    digest = hashlib.sha256()
    for bodies in given:
        for array in (bodies.pose_aa, bodies.betas, bodies.known):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12] if given else ""


def compile_solver(files: FittingFiles, config: FitConfig) -> None:
    """Has the solver compiled once, here, before many processes would each do it; from the second time on it is on disk."""
    fitter = files.fitter(config)
    if fitter.needs_compiling:
        say("compiling the solver (once on this machine, half a minute)")
        unseen = torch.zeros(1, 49, 3)
        fitter.refine(torch.zeros(1, 72), torch.zeros(1, 10), unseen)


def pending_batches(
    settled: Bool[np.ndarray, " n"], groups: list[Int[np.ndarray, " v"]], batch: int
) -> list[list[Int[np.ndarray, " v"]]]:
    """Fixed batches of groups, about `batch` samples each, in which at least one sample is not settled, in order."""
    batches: list[list[np.ndarray]] = [[]]
    size = 0
    for group in groups:
        if size + len(group) > batch and batches[-1]:
            batches.append([])
            size = 0
        batches[-1].append(group)
        size += len(group)
    return [b for b in batches if b and not settled[np.concatenate(b)].all()]


def _work(
    annotations: Annotations,
    groups: list[Int[np.ndarray, " v"]],
    given: tuple[GivenBodies, ...],
    epoch: Int[np.ndarray, " n"],
) -> Work:
    ids = np.concatenate(groups)
    ends = np.cumsum([len(group) for group in groups])
    places = np.split(np.arange(len(ids)), ends[:-1])
    return Work(ids, annotations.take(ids), places, tuple(g.take(ids) for g in given), epoch[ids])


@lru_cache(maxsize=1)
def _fitter_of(files: FittingFiles, config: FitConfig, ignore_3d: bool) -> StaticFitter:
    return StaticFitter(files, config, ignore_3d)


def fit_batch(files: FittingFiles, config: FitConfig, ignore_3d: bool, work: Work) -> FittedBatch:
    """A Ray task; its process keeps the fitter for the next one.

    Tasks, not actors: they wait for no node in particular, so a lost node costs its batches only, and a new one is used.
    """
    return _fitter_of(files, config, ignore_3d).fit(work)


class _Ahead:
    """How many batches are given out at once: as many as were asked for, or two a core, so that none waits.

    On a cluster cores come and go, and batches that wait are what brings more.
    """

    def __init__(self, asked: int | None, changing: bool) -> None:
        self._asked, self._changing = asked, changing
        self._next_look_s, self._count = 0.0, 0

    def __call__(self) -> int:
        import ray

        if not self._count or (self._changing and time.monotonic() > self._next_look_s):
            cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
            self._count = self._asked or _IN_FLIGHT * cores
            self._next_look_s = time.monotonic() + _LOOK_S
        return self._count


def _through_store(
    fit: Callable[[Work], Any], service: Any, work: Iterator[Work], ahead: Callable[[], int], what: str
) -> Iterator[FittedBatch]:
    """Yield every batch once it is durable, in any order. Fits go from fitter to store, not through here."""
    import ray

    fitting: list[Any] = []
    committing: dict[Any, Any] = {}  # acknowledgement -> fitted batch
    while True:
        room = min(ahead() - len(fitting), 2 * ahead() - len(fitting) - len(committing))
        fitting += [fit(item) for _, item in zip(range(room), work)]
        if not fitting and not committing:
            return
        ready = first_done([*committing, *fitting], what, {"CPU": 1})
        if ready in committing:
            ray.get(ready)  # raises what the store raised
            yield ray.get(committing.pop(ready))
        else:
            fitting.remove(ready)
            committing[service.commit.remote(ready)] = ready
