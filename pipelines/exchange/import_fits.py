"""Import of another program's bodies into the fit store: given a camera if they have none, and scored like every fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.errors import UsageError
from pipelines.exchange.assignment import assign, axis_angles
from pipelines.exchange.cameras import Cameras, cameras_of
from pipelines.fits.records import put, records_of_view
from pipelines.fitting.assets import FittingFiles
from pipelines.fitting.from_annotations import groups_of, observations_of
from pipelines.fitting.without_3d import run_name
from pipelines.folders import DataFolder
from pipelines.progress import progress
from pipelines.readers.base import SMPL
from pipelines.rejections import write_rejections
from spin.body import load_body
from spin.fitting.fitter import FitConfig
from spin.fitting.objective import OBJECTIVES, Objective
from spin.fitting.verdicts import KEPT, VERDICTS
from store.annotations.table import Annotations
from store.errors import FitStoreNotFoundError
from store.exchange import StaticFits, read_fits_file
from store.fits.records import Fits, Solver, Source
from store.fits.store import FitStore

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from spin.body import BodyData
    from spin.fitting.fitter import BatchFitter

BATCH = 256
_FILE = "file"


@dataclass(frozen=True)
class ImportSummary:
    """Counts of an import. `better`: rows that became their sample's fit; the others did not improve on the stored one."""

    rows: int
    offered: int
    better: int
    with_camera: int
    rejected: dict[str, int]  # reason -> count
    rejected_list: Path | None
    assigned_by: str  # how rows were assigned to samples


def check_body(file: Path, named: str, body: BodyData, root: Path, *, same_body: bool) -> None:
    """Raise UsageError if a file's bodies belong to another body model than the one in use.

    A file that names no body model is assumed to hold SMPL's.
    """
    if belongs(named, body, same_body=same_body):
        return
    if named:
        raise UsageError(
            f"{file}: expected bodies of {body.fingerprint}, the body in use, found {named}; pose and shape have another "
            "meaning there: use a data folder with that body"
        )
    raise UsageError(
        f"{file}: names no body model, so its bodies are assumed to be SMPL's, but the body in use is "
        f"{body.fingerprint}: put SMPL_NEUTRAL.pkl into {root}, or add --same-body if they belong to the body in use"
    )


def belongs(named: str, body: BodyData, *, same_body: bool) -> bool:
    """Return whether a file that names this body model holds bodies of the one in use."""
    if named == body.fingerprint:
        return True
    if body.name.startswith(SMPL) and (not named or named.startswith(SMPL)):
        return True
    return same_body and not named


def import_fits(
    data: DataFolder,
    dataset: str,
    file: Path,
    *,
    same_body: bool = False,
    objective: str | None = None,
    ignore_3d: bool = False,
) -> ImportSummary:
    """Add a file's bodies to the data set's store, created if missing, where they are better than the stored fits.

    `objective`: its name, by default the store's own. Raise UsageError if the bodies belong to another body model, StoreError
    if the format is unknown, StageError if most of the bodies don't fit their people.
    """
    annotations, body = Annotations.read(data.annotations(dataset)), load_body(data.body)
    found = read_fits_file(file)
    check_body(file, found.body, body, data.root, same_body=same_body)
    assigned = assign(data, dataset, file, found, annotations)
    rows, samples, problems = assigned.rows, assigned.samples, dict(assigned.problems)
    row_of = np.full(len(annotations), -1)
    row_of[samples] = rows
    given = _given(found, row_of, annotations)
    minimised = Objective.named(objective) if objective else _objective_of(data.fits(dataset))
    config = FitConfig("adam", 0, minimised, ())  # nothing is solved: 'lm' would be compiled for that
    files = FittingFiles.of(data, config)
    store = FitStore.open_or_create(
        data.fits(dataset), samples=len(annotations), writer="import-fits",
        fingerprint=files.fingerprint(minimised, annotations),
    )  # fmt: skip
    fitter, better, offered = files.fitter(config), 0, 0
    with progress(len(samples), f"import-fits {dataset}", "fit") as bar:
        code = np.uint64(store.name_run(run_name("import-fits", True)) if ignore_3d else 0)
        for ids, people, groups in _batches(annotations, given.known, ignore_3d):
            fits, verdicts = score_bodies(fitter, people, groups, given.take(ids), ignore_3d=ignore_3d)
            known = given.known[ids]
            keep = np.isin(verdicts, KEPT) & known
            fits.epoch[:], fits.run[:] = store.get(ids).epoch, code
            better += int(store.merge(ids[keep], fits.take(keep)).sum())
            offered += int(keep.sum())
            rejected = known & ~keep
            problems |= dict(zip(row_of[ids[rejected]].tolist(), (VERDICTS[v] for v in verdicts[rejected])))
            bar.update(int(known.sum()))
    store.flush()
    store.compact()
    entries = [{"row": row, "reason": reason} for row, reason in sorted(problems.items())]
    listing = write_rejections(data.rejected_rows(dataset), entries, {"file": str(file)})
    reasons = dict(Counter(problems.values()).most_common())
    return ImportSummary(len(found), offered, better, int(given.cameras.known.sum()), reasons, listing, assigned.by)


@dataclass(frozen=True)
class _Given:
    """A file's bodies in the data set's order."""

    pose: np.ndarray
    betas: np.ndarray
    known: np.ndarray
    cameras: Cameras

    def take(self, rows: np.ndarray) -> _Given:
        return _Given(self.pose[rows], self.betas[rows], self.known[rows], self.cameras.take(rows))


def _given(found: StaticFits, row_of: Int[np.ndarray, " n"], annotations: Annotations) -> _Given:
    """Arrange a file's bodies by sample. `row_of`: the file's row of each sample, -1 for none."""
    known = row_of >= 0
    pose, betas = np.zeros((len(known), 72), np.float32), np.zeros((len(known), 10), np.float32)
    pose[known], betas[known] = axis_angles(found)[row_of[known]], found.betas[row_of[known]]
    return _Given(pose, betas, known, cameras_of(found, row_of[known], np.flatnonzero(known), annotations))


def _objective_of(path: Path | str) -> Objective:
    """Return the objective of a store's fits, so that imported fits compare with them; without a store the default."""
    try:
        stored = FitStore.open(path).fingerprint.objective
    except FitStoreNotFoundError:
        stored = ""
    named = (o for o in OBJECTIVES.values() if stored.startswith(f"{o.fingerprint},prior="))
    return next(named, OBJECTIVES["anchored"])


def _batches(
    annotations: Annotations, known: Bool[np.ndarray, " n"], ignore_3d: bool
) -> Iterator[tuple[np.ndarray, Annotations, list[np.ndarray]]]:
    """Yield batches: sample numbers, their annotations, and the groups of them that show one pose."""
    groups = [group for group in groups_of(annotations, ignore_3d=ignore_3d) if known[group].any()]
    batch: list[np.ndarray] = []
    for place, group in enumerate(groups):
        batch.append(group)
        if place + 1 == len(groups) or sum(map(len, batch)) >= BATCH:
            ids = np.concatenate(batch)
            ends = np.cumsum([len(g) for g in batch])
            yield ids, annotations.take(ids), np.split(np.arange(len(ids)), ends[:-1])
            batch = []


def score_bodies(
    fitter: BatchFitter, people: Annotations, groups: list[np.ndarray], given: _Given, *, ignore_3d: bool = False
) -> tuple[Fits, np.ndarray]:
    """Return records of the unchanged bodies, and verdicts; like fits, each row is scored with all views of its pose."""
    fits, verdicts = Fits.empty(len(people)), np.zeros(len(people), np.int64)
    for views in sorted({len(group) for group in groups}):
        rows = np.stack([group for group in groups if len(group) == views])
        observations = observations_of(people, rows, ignore_3d=ignore_3d)
        prepared = fitter.prepare(observations)
        for view in range(views):
            mine = rows[:, view]
            pose, betas = torch.from_numpy(given.pose[mine]), torch.from_numpy(given.betas[mine])
            placed = torch.from_numpy(given.cameras.known[mine] & (views == 1))
            if views == 1:
                camera = torch.from_numpy(given.cameras.translation_m[mine])
                start = fitter.given(pose, betas, prepared, kind=_FILE)
                start = start.at(torch.where(placed[:, None], camera, start.camera_m))
            else:
                of_view = torch.full((len(mine),), view)
                there = torch.from_numpy(given.known[mine])
                start = fitter.given_in_view(pose, betas, prepared, of_view, there, kind=_FILE, fallback=[])
            result = fitter.as_given(start, prepared, placed)
            records = records_of_view(fitter, result, observations, view, Source.IMPORTED, Solver.UNKNOWN)
            put(fits, mine, records)
            verdicts[mine] = result.verdict.cpu().numpy()
    fits.pose[:], fits.betas[:] = (
        given.pose,
        given.betas,
    )  # to the bit, though a view's root was turned and back
    return fits, verdicts
