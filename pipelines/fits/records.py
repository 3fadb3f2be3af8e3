"""Fits as the store keeps them: the one place where a fitter's result becomes records."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spin.fitting.objective import reprojection_loss
from store.fits.records import COLUMNS, Fits, Solver, Source

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from spin.fitting.fitter import BatchFitter, FitResult, PosedBody
    from spin.fitting.observations import Observations

SOLVERS = {"lm": Solver.LM, "adam": Solver.ADAM}


def records_of(
    result: FitResult,
    source: Source,
    solver: Solver,
    *,
    body: PosedBody | FitResult | None = None,
    loss: Tensor | None = None,
) -> Fits:
    """Return a record for each fit of a result, in its order, as `source` made it.

    `body` and `loss` stand in for the result's own where a view of several is meant. Step, improvements and epoch are 0.
    """
    body = result if body is None else body
    columns = {
        "pose": body.pose_aa,
        "betas": body.betas,
        "camera": body.camera_m,
        "loss": result.loss if loss is None else loss,
        "score": result.score,
        "start": result.start + 1,  # StartKind has UNKNOWN before START_KINDS
        "verdict": result.verdict,
        "iterations": result.iterations,
        "coverage": result.coverage,
        "prior_cost": result.prior_cost,
    }
    records = Fits.empty(len(result))
    for name, values in columns.items():
        getattr(records, name)[:] = values.detach().cpu().numpy()
    records.source[:], records.solver[:] = int(source), int(solver)
    return records


def records_of_view(
    fitter: BatchFitter, result: FitResult, observations: Observations, view: int, source: Source, solver: Solver
) -> Fits:
    """Return one view's records: the body in that view's camera, and how well it meets that view's keypoints."""
    if observations.keypoints_px.shape[1] == 1:
        return records_of(result, source, solver)
    points = fitter.body.keypoints(fitter.body(result.pose_aa, result.betas))
    loss = reprojection_loss(fitter.config.objective, points, result.camera_m, observations.view(view))
    return records_of(result, source, solver, body=fitter.seen_from(result, observations, view), loss=loss)


def put(into: Fits, rows: Int[np.ndarray, " n"], records: Fits) -> None:
    """Write records into some rows of others."""
    for name in COLUMNS:
        getattr(into, name)[rows] = getattr(records, name)
