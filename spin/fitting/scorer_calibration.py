"""Calibrates the scorer of a lifter: fits made in many ways, of people whose true body is known, against their scores.

Fits that a network had a hand in are not among them: how good a network is no scorer can know beforehand. Training measures
it, and corrects their scores to the same scale (`spin.training.trust`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.lifter import JUDGE_NUMBERS
from spin.fitting.objective import OBJECTIVES
from spin.fitting.observations import Observations
from spin.fitting.sampling import detect, draw_people, orbit
from spin.fitting.scorer import FitScorer, aligned_distance_mm
from spin.fitting.starts import lifter_start
from spin.joints import JOINTS, LSP_POINTS

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.lifter import Lifter
    from spin.fitting.prior import PosePrior
    from spin.fitting.sampling import People, PoseSource

    Bodies = tuple[Tensor, Tensor, Tensor]  # pose, betas, camera

PEOPLE = 2048


def calibrate(body: CompactBody, prior: PosePrior, lifter: Lifter, source: PoseSource, seed: int, people: int = PEOPLE) -> None:
    """Fill the lifter's `judge_*` numbers, in place. The same seed gives the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    scorer = FitScorer(body, lifter)
    with torch.no_grad():
        drawn = draw_people(body, source, people, generator)
        single = Observations.of(detect(drawn.pixels, generator))
        lift = lifter.lift(body, single.keypoints_px[:, 0])
        numbers = {
            "single": _weights("single", scorer, drawn, single, made_fits(scorer, prior, single)),
            "views": _weights("views", scorer, drawn, *_fits_of_views(scorer, prior, drawn, generator)),
            "joints3d": _weights("joints3d", scorer, drawn, *_fits_to_joints3d(scorer, prior, drawn, single, generator)),
            "expects": np.array([float(lift.error_mm.mean())]),
        }
        for name in JUDGE_NUMBERS:
            lifter.get_buffer(f"judge_{name}").copy_(torch.from_numpy(numbers[name]))


def made_fits(scorer: FitScorer, prior: PosePrior, observations: Observations) -> Iterator[Bodies]:
    """Fits of one view from different starts and objectives."""
    body, lifter = scorer.body, scorer.lifter
    anchored = BatchFitter(body, prior, FitConfig(), lifter)
    published = BatchFitter(body, prior, FitConfig(objective=OBJECTIVES["published"], init=("multistart",)))
    lifted = lifter_start(body, lifter, observations)
    yield lifted.pose_aa, lifted.betas, lifted.camera_m
    for fitter, starts in ((anchored, [lifted]), (published, [lifted]), (published, None)):
        fit = fitter.fit(observations, starts)
        yield fit.pose_aa, fit.betas, fit.camera_m


def _fits_of_views(
    scorer: FitScorer, prior: PosePrior, people: People, generator: torch.Generator
) -> tuple[Observations, Iterator[Bodies]]:
    """Fits of two to four views round the person, with COCO's keypoints."""
    views = orbit(people, 4)
    pixels = views.project(scorer.body.keypoints(people.points_m) + people.camera_m[:, None])
    sigma = 5.0 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    pixels = pixels + sigma * torch.randn(pixels.shape, generator=generator)
    named = torch.zeros(JOINTS.count)
    named[list(JOINTS.coco)] = 1
    seen = torch.rand(len(pixels), 4, 1, generator=generator) < 0.7
    seen[:, :2] = True
    observations = Observations(torch.cat([pixels, (named * seen)[..., None]], -1), views)
    return observations, _plain_fits(scorer, prior, observations)


def _fits_to_joints3d(
    scorer: FitScorer,
    prior: PosePrior,
    people: People,
    observations: Observations,
    generator: torch.Generator,
) -> tuple[Observations, Iterator[Bodies]]:
    """Fits to 3D joints that are a centimetre or two off, and to one view's keypoints."""
    joints = scorer.body.keypoints(people.points_m)[:, JOINTS.superset]
    sigma = 0.02 * torch.rand(len(joints), 1, 1, generator=generator)
    joints = joints + sigma * torch.randn(joints.shape, generator=generator)
    known = (torch.rand(*joints.shape[:2], 1, generator=generator) < 0.9).to(joints)
    full = Observations(observations.keypoints_px, observations.views, torch.cat([joints * known, known], -1))
    return full, _plain_fits(scorer, prior, full)


def _plain_fits(scorer: FitScorer, prior: PosePrior, observations: Observations) -> Iterator[Bodies]:
    """Fits cut short, and whole ones."""
    for iterations in (3, 20):
        fitter = BatchFitter(scorer.body, prior, FitConfig(iterations=iterations), scorer.lifter)
        fit = fitter.fit(observations)
        yield fit.pose_aa, fit.betas, fit.camera_m


def _weights(
    kind: str, scorer: FitScorer, people: People, observations: Observations, fits: Iterator[Bodies]
) -> Float[np.ndarray, " F"]:
    basis = scorer.basis(observations)
    rows = basis.rows[kind]
    signs, errors = [], []
    for pose, betas, camera in fits:
        points = scorer.body(pose, betas)
        signs.append(scorer.terms(basis, points, camera, kind).numpy())
        true, found = (p[:, list(LSP_POINTS)] for p in (people.points_m, points))
        errors.append(aligned_distance_mm(found[rows], true[rows]).numpy())
    return calibrated_weights(np.concatenate(signs), np.concatenate(errors))


# ---- weights ------------------------------------------------------------------------------------------------------------


def calibrated_weights(
    signs: Float[np.ndarray, "N F"], error_mm: Float[np.ndarray, " N"], rounds: int = 30
) -> Float[np.ndarray, " F"]:
    """Non-negative weights with E = sqrt(signs · weights) near the errors, each weighted relative to its size.

    Iteratively reweighted least squares on squared errors; the result is scaled so that the mean expectation is right.
    """
    target = error_mm.astype(np.float64) ** 2
    scale = np.maximum(signs.mean(0), 1e-12)
    columns = signs.astype(np.float64) / scale
    weights = np.full(columns.shape[1], target.mean() / columns.shape[1])
    for _ in range(rounds):
        trust = 1 / np.maximum(columns @ weights, 1.0)
        weights = _nonnegative_least_squares(columns * trust[:, None], target * trust)
    expected = np.sqrt(columns @ weights)
    return weights / scale * (error_mm.mean() / expected.mean()) ** 2


def _nonnegative_least_squares(a: Float[np.ndarray, "N F"], b: Float[np.ndarray, " N"]) -> np.ndarray:
    """Coordinate descent: a handful of unknowns."""
    normal, right = a.T @ a, a.T @ b
    x = np.zeros(len(right))
    for _ in range(500):
        for i in range(len(x)):
            x[i] = max(0.0, x[i] + (right[i] - normal[i] @ x) / max(normal[i, i], 1e-12))
    return x
