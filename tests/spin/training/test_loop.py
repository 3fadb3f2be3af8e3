"""How far the loop believes the network: as far as it has earned, and how that is measured, kept and added up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spin.fitting.fitter import BatchFitter, FitConfig, FitResult
from spin.fitting.observations import Observations
from spin.fitting.scorer import aligned_distance_mm
from spin.joints import JOINTS, LSP_POINTS
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from spin.training.augment import Augmentations
from spin.training.loop import LoopFitter, hold_out, no_truth
from spin.training.step import Batch
from spin.training.targets import GroundTruth
from spin.training.trust import HELD_OUT_SHARE, MEMORY, PARTS, BodyParameters, Trust, held_out, interpolate
from tests.spin.fit_problems import PUBLISHED, Problem

COUNT = 96


@pytest.fixture(scope="module")
def people(compact, prior) -> Problem:
    return Problem(compact, prior, COUNT, seed=4)


@pytest.fixture(scope="module")
def observations(people: Problem) -> Observations:
    return Observations.of(people.noisy(JOINTS.coco, 5.0))


@pytest.fixture
def loop(compact, prior, lifter) -> LoopFitter:
    return LoopFitter(BatchFitter(compact, prior, FitConfig(iterations=10), lifter))


def truth_of(people: Problem, known: torch.Tensor | None = None) -> GroundTruth:
    return GroundTruth(people.pose, people.betas, torch.ones(COUNT, dtype=torch.bool) if known is None else known)


def network(people: Problem, error_rad: float, seed: int = 0) -> BodyParameters:
    """A prediction that is off by so much in every angle, for any keypoints."""
    generator = torch.Generator().manual_seed(seed)
    turn = error_rad * torch.randn(COUNT, 24, 3, generator=generator)
    rotations = axis_angle_to_matrix(people.pose.view(-1, 24, 3)) @ axis_angle_to_matrix(turn)
    return BodyParameters(matrix_to_axis_angle(rotations).flatten(1), people.betas)


def error_mm(compact, people: Problem, fits: FitResult) -> float:
    lsp = list(LSP_POINTS)
    found, true = compact(fits.pose_aa, fits.betas), compact(people.pose, people.betas)
    return float(aligned_distance_mm(found[:, lsp], true[:, lsp]).mean())


def taught(loop: LoopFitter, people: Problem, observations: Observations, error_rad: float) -> FitResult:
    """Fits of one batch after the loop has met three others."""
    for seed in (1, 2, 3):
        _, measured = loop.fit(network(people, error_rad, seed), observations, truth_of(people))
        loop.trust = loop.trust.after(measured)
    return loop.fit(network(people, error_rad), observations, no_truth(truth_of(people)))[0]


def test_before_anything_is_measured_fits_are_the_lifters(loop, people, observations) -> None:
    fits, measured = loop.fit(network(people, 0.1), observations, no_truth(truth_of(people)))
    plain = loop.fitter.fit(observations)
    assert torch.allclose(fits.pose_aa, plain.pose_aa, atol=1e-3)
    assert torch.allclose(fits.score, plain.score, atol=0.05)
    assert float(measured.count) == 0
    assert torch.equal(loop.trust.after(measured).to_vector(), Trust.none().to_vector())


@pytest.mark.parametrize(
    ("error_rad", "least", "most", "gain_mm"),
    [(0.05, 0.7, 1.0, 15.0), (0.2, 0.15, 0.7, 2.0), (1.5, 0.0, 0.06, -1.0)],
)
def test_a_network_is_believed_as_far_as_it_has_earned(
    loop, compact, people, observations, error_rad: float, least: float, most: float, gain_mm: float
) -> None:
    before = loop.fitter.fit(observations)
    fits = taught(loop, people, observations, error_rad)
    share = float(loop.trust.share[:24].mean())
    assert least <= share <= most
    assert error_mm(compact, people, before) - error_mm(compact, people, fits) >= gain_mm


def test_scores_follow_what_was_measured(loop, compact, people, observations) -> None:
    """A good network's fits beat the lifter's in most samples; a bad one's are not taken for better on the whole."""
    before = loop.fitter.fit(observations)
    good = taught(loop, people, observations, 0.05)
    assert float((good.score < before.score).float().mean()) > 0.85
    assert 0 < float(loop.trust.score_factor) < 0.9


def test_a_network_that_repeats_the_lifter_gains_nothing(loop, people, observations) -> None:
    lift = loop.fitter.starts(observations)[0].lift
    same = BodyParameters(lift.pose_aa, lift.betas)
    for _ in range(3):
        loop.trust = loop.trust.after(loop.fit(same, observations, truth_of(people))[1])
    fits, _ = loop.fit(same, observations, truth_of(people))
    assert torch.allclose(fits.pose_aa, loop.fitter.fit(observations).pose_aa, atol=0.05)
    assert float(loop.trust.score_factor) == pytest.approx(1.0, abs=0.02)


def test_only_known_samples_measure_and_others_do_not_matter(loop, people, observations) -> None:
    known = torch.arange(COUNT) % 3 == 0
    prediction = network(people, 0.2)
    _, some = loop.fit(prediction, observations, truth_of(people, known))
    elsewhere = truth_of(people, known)
    elsewhere = replace(elsewhere, pose_aa=torch.where(known[:, None], elsewhere.pose_aa, torch.nan))
    _, again = loop.fit(prediction, observations, elsewhere)
    assert float(some.count) == int(known.sum())
    assert torch.equal(some.to_vector(), again.to_vector())


def test_sums_of_ranks_add_up(loop, people, observations) -> None:
    """Two halves of a batch, added as ranks do, measure what the whole batch measures."""
    prediction = network(people, 0.2)
    half = torch.arange(COUNT) < COUNT // 2
    parts = [loop.fit(prediction, observations, truth_of(people, known))[1].to_vector() for known in (half, ~half)]
    whole = loop.fit(prediction, observations, truth_of(people))[1]
    assert torch.allclose(parts[0] + parts[1], whole.to_vector(), rtol=1e-4)
    again = Trust.of_vector(whole.to_vector())
    assert torch.equal(again.to_vector(), whole.to_vector()) and torch.equal(again.share, whole.share)


def test_the_sums_forget(loop, people, observations) -> None:
    bad = loop.fit(network(people, 1.5), observations, truth_of(people))[1]
    good = loop.fit(network(people, 0.05), observations, truth_of(people))[1]
    trust = Trust.none()
    for _ in range(10):
        trust = trust.after(bad)
    assert float(trust.count) <= MEMORY + COUNT
    poor = float(trust.share.mean())
    for _ in range(10):
        trust = trust.after(good)
    assert poor < 0.1 < 0.6 < float(trust.share.mean())


def test_interpolation_leads_from_one_body_to_the_other(compact, people) -> None:
    start, end = network(people, 0.3), BodyParameters(people.pose, people.betas)
    there = interpolate(compact, start, end, torch.ones(PARTS))
    nowhere = interpolate(compact, start, end, torch.zeros(PARTS))
    for found, expected in ((there, end), (nowhere, start)):
        matrices = (axis_angle_to_matrix(g.pose_aa.view(-1, 24, 3)) for g in (found, expected))
        assert torch.allclose(*matrices, atol=1e-4) and torch.allclose(found.betas, expected.betas, atol=1e-6)


def test_who_is_held_out_depends_on_the_name_alone() -> None:
    names = [f"world:{i}" for i in range(4000)]
    chosen = held_out(names)
    assert torch.equal(held_out(names[7:9]), chosen[7:9])
    assert abs(float(chosen.float().mean()) - HELD_OUT_SHARE) < 0.02
    assert not held_out(names, 0.0).any() and held_out(names, 1.0).all()


def test_holding_out_hides_all_truth_of_some_and_changes_nothing_else(people) -> None:
    known = torch.arange(COUNT) % 2 == 0
    joints = torch.zeros(COUNT, 24, 4)
    names = tuple(f"world:{i}" for i in range(COUNT))
    batch = Batch(
        names, torch.zeros(COUNT, 3, 8, 8), people.keypoints, Augmentations.none(COUNT), truth_of(people, known), joints,
        torch.ones(COUNT, dtype=torch.bool),
    )  # fmt: skip
    shown, kept = hold_out(batch)
    chosen = held_out(names) & known
    assert chosen.any() and torch.equal(kept.known, chosen)
    assert torch.equal(shown.truth.known, known & ~chosen)
    assert torch.equal(shown.joints_known, ~chosen)
    assert shown.images is batch.images and batch.truth.known.equal(known)


def test_as_published_nothing_is_weighed(compact, prior, people, observations) -> None:
    loop = LoopFitter(BatchFitter(compact, prior, FitConfig("adam", 3, PUBLISHED, init=("network",))))
    prediction = network(people, 0.2)
    fits, measured = loop.fit(prediction, observations, truth_of(people), people.camera)
    same = loop.fitter.refine(prediction.pose_aa, prediction.betas, observations, people.camera)
    assert not loop.weighs and float(measured.count) == 0
    assert torch.equal(fits.pose_aa, same.pose_aa) and torch.equal(fits.score, fits.loss)
