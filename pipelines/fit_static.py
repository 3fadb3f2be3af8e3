"""The first fits: SMPLify over a whole data set, by a pool of Ray actors, into the fit store.

Batches are fixed ranges of the data set. A batch's fits become durable together, and a batch is done again as a whole
if any of its samples is missing; so a run that was killed, at any moment and in any process, ends with the same store as
one that was not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.layout import DataFolder
from pipelines.progress import progress
from pipelines.ray_session import cpu_count, ray_session
from pipelines.store_service import fingerprint_of, start_service
from spin.body import CompactBody, load_body
from spin.crop import keypoints_to_crop
from spin.fitting.fitter import LOSS_TOO_HIGH, VALID, VERDICTS, FitConfig, Fitter
from spin.fitting.prior import load_pose_prior
from store.annotations import Annotations
from store.durable import write_file
from store.records import Fits, Source

if TYPE_CHECKING:
    from jaxtyping import Float, Int

STATIC_TAG = "static"
BATCH = 256
_IN_FLIGHT = 2  # batches handed to an actor ahead of time, so that it never waits


@dataclass(frozen=True)
class FittedBatch:
    """Fits of one batch that may be stored, and the verdict of every sample of it."""

    ids: Int[np.ndarray, " n"]
    fits: Fits
    all_ids: Int[np.ndarray, " m"]
    verdicts: Int[np.ndarray, " m"]


@dataclass(frozen=True)
class FitSummary:
    """Counts of a run. `done` samples had a fit before it."""

    samples: int
    done: int
    fitted: int
    valid: int
    verdicts: dict[str, int]
    refused_list: Path | None


class StaticFitter:
    """Fits batches of one data set. Runs as a Ray actor, or in the process."""

    def __init__(self, body: Path, prior: Path, config: FitConfig, device: str = "cpu") -> None:
        torch.set_num_threads(1)
        self.device = torch.device(device)
        compact = CompactBody(load_body(body)).to(self.device)
        self.fitter = Fitter(compact, load_pose_prior(prior).to(self.device), config)

    def fit(self, ids: Int[np.ndarray, " n"], keypoints_crop_px: Float[np.ndarray, "n 49 3"]) -> FittedBatch:
        result = self.fitter.fit(torch.as_tensor(keypoints_crop_px, device=self.device))
        keep = result.storable.cpu().numpy()
        fits = Fits(
            pose=result.pose_aa.cpu().numpy()[keep],
            betas=result.betas.cpu().numpy()[keep],
            camera=result.camera_m.cpu().numpy()[keep],
            loss=result.loss.cpu().numpy()[keep],
            score=result.score.cpu().numpy()[keep],
            source=np.full(keep.sum(), Source.STATIC, np.uint8),
            step=np.zeros(keep.sum(), np.int64),
            improvements=np.zeros(keep.sum(), np.uint32),
        )
        return FittedBatch(ids[keep], fits, ids, result.verdict.cpu().numpy())


def fit_static(
    data: DataFolder,
    dataset: str,
    config: FitConfig,
    *,
    workers: int | None = None,
    batch: int = BATCH,
    address: str | None = None,
) -> FitSummary:
    """Fits what has no fit yet, and tags the state 'static'. Raises StoreError if the store belongs to other data."""
    annotations = Annotations.read(data.annotations(dataset))
    body, prior = data.body, data.prior
    fingerprint = fingerprint_of(load_body(body), config.objective, annotations)
    keypoints = keypoints_to_crop(annotations.keypoints_px, annotations.center_px, annotations.scale)
    ledger = RefusedLedger(data.refused_fits(dataset), f"{fingerprint.to_text()} {config}", annotations)
    with ray_session(address):
        import ray

        service = start_service(data.fits(dataset), len(annotations), fingerprint, "fit-static")
        stored = ray.get(service.get.remote(np.arange(len(annotations)))).source != Source.NONE
        ledger.drop(stored)
        todo = pending_batches(stored | ledger.refused(len(annotations)), batch)
        count = min(workers or cpu_count(), max(len(todo), 1))
        actor = ray.remote(StaticFitter).options(num_cpus=1, max_restarts=-1, max_task_retries=-1)
        pool = [actor.remote(body, prior, config) for _ in range(count)]
        verdicts: Counter[int] = Counter()
        work = _through_pool(pool, service, [(ids, keypoints[ids]) for ids in todo])
        with progress(int(sum(map(len, todo))), f"fit-static {dataset}", "fit") as bar:
            for fitted in work:
                verdicts.update(fitted.verdicts.tolist())
                ledger.record(fitted)
                bar.update(len(fitted.all_ids))
                bar.set_postfix_str(f"{verdicts[VALID] / verdicts.total():.1%} valid", refresh=False)
        ray.get(service.compact.remote())
        ray.get(service.tag.remote(STATIC_TAG))
    return FitSummary(
        samples=len(annotations),
        done=int(stored.sum()),
        fitted=verdicts[VALID] + verdicts[LOSS_TOO_HIGH],
        valid=verdicts[VALID],
        verdicts={VERDICTS[v]: n for v, n in sorted(verdicts.items())},
        refused_list=ledger.path if ledger.reasons else None,
    )


def pending_batches(settled: np.ndarray, batch: int) -> list[Int[np.ndarray, " n"]]:
    """Fixed ranges of `batch` samples in which at least one is not settled, in order."""
    starts = range(0, len(settled), batch)
    return [np.arange(s, min(s + batch, len(settled))) for s in starts if not settled[s : s + batch].all()]


def _through_pool(
    pool: list[Any], service: Any, work: list[tuple[np.ndarray, np.ndarray]]
) -> Iterator[FittedBatch]:
    """Every batch once it is durable, in whatever order they finish. Fits go from actor to store, not through here."""
    import ray

    waiting: dict[Any, tuple[Any, Any]] = {}  # acknowledgement -> (fitted batch, actor)
    remaining = iter(work)

    def submit(actor: Any) -> None:
        for item in remaining:
            fitted = actor.fit.remote(*item)
            waiting[service.commit.remote(fitted)] = (fitted, actor)
            return

    for actor in [a for _ in range(_IN_FLIGHT) for a in pool]:
        submit(actor)
    while waiting:
        (acknowledged, *_), _ = ray.wait(list(waiting), num_returns=1)
        ray.get(acknowledged)  # raises what the store raised
        fitted, actor = waiting.pop(acknowledged)
        submit(actor)
        yield ray.get(fitted)


class RefusedLedger:
    """Samples that have no fit, and why: so that running again doesn't try them again, and a person can look."""

    def __init__(self, path: Path, key: str, annotations: Annotations) -> None:
        """`key`: what was tried. A list of what something else refused is left aside."""
        self.path, self._key = path, key
        self._source, self._image = annotations.source, annotations.image
        self.reasons: dict[int, str] = {}
        if path.is_file():
            try:
                content = json.loads(path.read_text())
                if content["tried"] == self._key:
                    self.reasons = {int(e["sample"]): e["reason"] for e in content["refused"]}
            except (ValueError, KeyError, TypeError):
                self.reasons = {}  # a damaged list costs a second try, nothing else

    def refused(self, count: int) -> np.ndarray:
        out = np.zeros(count, bool)
        out[list(self.reasons)] = True
        return out

    def drop(self, stored: np.ndarray) -> None:
        """Forgets samples that have a fit by now."""
        self.reasons = {i: reason for i, reason in self.reasons.items() if not stored[i]}

    def record(self, fitted: FittedBatch) -> None:
        new = {
            int(i): VERDICTS[v]
            for i, v in zip(fitted.all_ids, fitted.verdicts)
            if v not in (VALID, LOSS_TOO_HIGH)
        }
        if not new:
            return
        self.reasons |= new
        entries = [
            {"sample": i, "source": self._source[i], "image": self._image[i], "reason": reason}
            for i, reason in sorted(self.reasons.items())
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, json.dumps({"tried": self._key, "refused": entries}, indent=1).encode())
