"""Starts, solvers, the fitter and its verdicts."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spin.body import BodyData, BodyMesh, CompactBody
from spin.camera import project
from spin.crop import keypoints_to_crop
from spin.errors import KeypointError
from spin.evaluation.metrics import pa_mpjpe_mm
from spin.fitting import levenberg_marquardt
from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.objective import BETA_LIMIT, reprojection_loss
from spin.fitting.observations import Observations, Views
from spin.fitting.prior import PosePrior, load_pose_prior
from spin.fitting.sampling import PoseSource, draw_people, orbit
from spin.fitting.starts import (
    START_KINDS,
    Start,
    best_of,
    camera_start,
    component_starts,
    confident_joints,
    lifter_start,
    mean_pose_starts,
)
from spin.fitting.verdicts import (
    BEHIND_CAMERA,
    CONFIDENCE_OUT_OF_RANGE,
    JOINTS_COINCIDE,
    NOT_CONVERGED,
    NOT_FINITE,
    OUTSIDE_CROP,
    SHAPE_OUT_OF_RANGE,
    TOO_FEW_JOINTS,
    VERDICTS,
)
from spin.joints import H36M_TO_J14, JOINTS
from spin.rotations import axis_angle_to_matrix
from tests.spin.fit_problems import EVERY_JOINT, PUBLISHED, Problem


def published(solver: str = "lm", iterations: int = 20, tolerance: float = 1e-3) -> FitConfig:
    return FitConfig(solver, iterations, PUBLISHED, ("multistart",), tolerance)  # type: ignore[arg-type]


# ---- starts -----------------------------------------------------------------------------------------------------------


def test_camera_start_recovers_the_camera_of_the_true_body(problem) -> None:
    found = camera_start(problem.points_m, problem.observations)
    # A ratio of spreads knows no perspective within the body: good to a percent or two.
    assert ((found - problem.camera).abs() / problem.camera[:, 2:]).max() < 0.02
    openpose_only = Observations.of(problem.noisy(tuple(range(25)), 0.0))
    found = camera_start(problem.points_m, openpose_only)
    assert ((found - problem.camera).abs() / problem.camera[:, 2:]).max() < 0.02


def test_camera_start_knows_other_cameras(problem) -> None:
    turn = axis_angle_to_matrix(torch.tensor([0.3, -0.8, 0.2])).expand(24, 1, 3, 3)
    centre = (problem.points_m.mean(1) + problem.camera)[:, None, :, None]
    ahead = torch.tensor([0.3, 0.1, 40.0]) - (turn @ centre)[..., 0]
    views = Views(turn, ahead, torch.full((24, 1), 9000.0), torch.full((24, 1, 2), 70.0))
    pixels = views.project(problem.points_m + problem.camera[:, None])
    seen = Observations(torch.cat([pixels, torch.ones(24, 1, 49, 1)], -1), views)
    found = views.place(problem.points_m + camera_start(problem.points_m, seen)[:, None])
    true = views.place(problem.points_m + problem.camera[:, None])
    assert ((found - true).abs().amax((1, 2)) / true[..., 2].amin((1, 2))[:, None]).max() < 0.02


def test_several_views_meet_in_a_point(compact, prior) -> None:
    people = draw_people(compact, PoseSource(prior), 5, torch.Generator().manual_seed(0))
    views = orbit(people, 3)
    points = compact.keypoints(people.points_m)
    pixels = views.project(points + people.camera_m[:, None])
    seen = Observations(torch.cat([pixels, torch.ones(5, 3, 49, 1)], -1), views)
    assert torch.allclose(camera_start(points, seen), people.camera_m, rtol=1e-3, atol=5e-3)
    # The middle of the body is in the middle of every view.
    middle = views.project((people.points_m.mean(1) + people.camera_m)[:, None])
    assert torch.allclose(middle, torch.tensor(112.0), atol=0.1)


def test_joints_that_both_halves_name_count_once(problem) -> None:
    assert (confident_joints(problem.keypoints) == 29).all()  # 31 places, less the two hips
    assert (confident_joints(problem.noisy(JOINTS.coco, 0.0)) == 15).all()


def test_multistart_has_every_component_from_every_side(compact, prior, problem) -> None:
    starts = component_starts(compact, prior, problem.observations)
    assert len(starts) == 4 * len(prior.means_np)
    assert len({tuple(s.pose_aa[0].tolist()) for s in starts}) == len(starts)


def test_best_of_picks_sample_by_sample() -> None:
    starts = [Start(torch.full((2, 72), float(i)), torch.zeros(2, 10), torch.zeros(2, 3)) for i in range(3)]
    costs = torch.tensor([[3.0, torch.nan], [1.0, 2.0], [2.0, 1.0]])
    first, second = best_of(starts, costs, 2)
    assert first.pose_aa[:, 0].tolist() == [1.0, 2.0]
    assert second.pose_aa[:, 0].tolist() == [2.0, 1.0]


def test_a_lifted_body_turns_with_its_view(compact, lifter, problem) -> None:
    straight = lifter_start(compact, lifter, problem.observations)
    turn = axis_angle_to_matrix(torch.tensor([0.0, 0.7, 0.0])).expand(24, 1, 3, 3)
    turned = lifter_start(
        compact,
        lifter,
        replace(problem.observations, views=replace(problem.observations.views, rotation=turn)),
    )
    root, other = (axis_angle_to_matrix(s.pose_aa[:, :3]) for s in (straight, turned))
    assert torch.allclose(turn[:, 0] @ other, root, atol=1e-4)
    assert torch.allclose(straight.pose_aa[:, 3:], turned.pose_aa[:, 3:], atol=1e-4)


# ---- solvers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["lm", "adam"])
def test_a_fit_that_starts_near_the_truth_finds_the_keypoints(compact, prior, problem, solver) -> None:
    fitter = BatchFitter(compact, prior, published(solver, {"lm": 8, "adam": 60}[solver]))
    start = problem.near_truth()
    points = compact.keypoints(compact(start.pose_aa, start.betas))
    before = reprojection_loss(PUBLISHED, points, start.camera_m, problem.observations)
    result = fitter.fit(problem.keypoints, [start])
    assert (result.loss < 100).all()
    assert result.loss.mean() < 0.3 * before.mean()


def test_levenberg_marquardt_never_costs_more_and_beats_adam(compact, prior, problem) -> None:
    keypoints, start = problem.noisy(JOINTS.coco, 2.0), problem.near_truth()
    results = [BatchFitter(compact, prior, published("lm", n, 1e-5)).fit(keypoints, [start]) for n in (0, 1, 3, 12)]
    for earlier, later in pairwise(results):
        assert (later.cost <= earlier.cost + 1e-2).all()
        assert (later.iterations >= earlier.iterations).all()
    adam = BatchFitter(compact, prior, published("adam", 100)).fit(keypoints, [start])
    assert results[-1].cost.mean() < adam.cost.mean()
    assert (results[1].verdict == NOT_CONVERGED).any()
    assert results[1].storable[results[1].verdict == NOT_CONVERGED].all()


def test_the_torch_solver_ends_where_the_compiled_one_does(body: BodyData) -> None:
    compact, prior = CompactBody(body, torch.float64), load_pose_prior(dtype=torch.float64)
    small = Problem(CompactBody(body), load_pose_prior(), 6)
    start = small.near_truth()
    start = Start(start.pose_aa.double(), start.betas.double(), start.camera_m.double())
    observations = Observations.of(small.noisy(JOINTS.coco, 2.0).double())
    compiled = BatchFitter(compact, prior, published(tolerance=1e-6)).fit(observations, [start])
    batched = levenberg_marquardt.solve_batched(compact, prior, PUBLISHED, start, observations, iterations=20, tolerance=1e-6)
    assert torch.allclose(compiled.cost, batched.cost, rtol=1e-9)
    assert torch.allclose(compiled.pose_aa, batched.pose_aa, atol=1e-6)
    assert torch.equal(compiled.iterations, batched.iterations)


@pytest.mark.parametrize("solver", ["lm", "adam"])
def test_inputs_are_not_changed(compact, prior, problem, solver) -> None:
    keypoints, start = problem.noisy(JOINTS.coco, 2.0), problem.near_truth()
    copies = [t.clone() for t in (keypoints, start.pose_aa, start.betas, start.camera_m)]
    BatchFitter(compact, prior, published(solver, 3)).fit(keypoints, [start])
    for now, then in zip((keypoints, start.pose_aa, start.betas, start.camera_m), copies):
        assert torch.equal(now, then)


def test_a_fit_does_not_depend_on_its_neighbours_or_on_threads(compact, prior, problem) -> None:
    """Bit for bit: the compiled solver takes one sample at a time."""
    fitter = BatchFitter(compact, prior, published("lm", 8))
    keypoints, start = problem.noisy(JOINTS.coco, 2.0).repeat(4, 1, 1), problem.near_truth()
    start = start.take(torch.arange(24).repeat(4))
    together = fitter.fit(keypoints, [start])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        threaded = fitter.fit(keypoints, [start])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together.pose_aa, threaded.pose_aa)
    for i in (0, 7, 95):
        alone = fitter.fit(keypoints[i : i + 1], [start.take(torch.tensor([i]))])
        assert torch.equal(alone.pose_aa[0], together.pose_aa[i])
        assert torch.equal(alone.camera_m[0], together.camera_m[i])


def test_adam_batched_equals_one_at_a_time(body: BodyData) -> None:
    """In float64, where rounding has no room to grow along the way."""
    compact, prior = CompactBody(body, torch.float64), load_pose_prior(dtype=torch.float64)
    keypoints = Problem(CompactBody(body), load_pose_prior(), 3).noisy(JOINTS.coco, 2.0).double()
    fitter = BatchFitter(compact, prior, published("adam", 4))
    starts = mean_pose_starts(compact, prior, Observations.of(keypoints), (0.0,))
    together = fitter.fit(keypoints, starts)
    for i in range(3):
        alone = fitter.fit(keypoints[i : i + 1], [starts[0].take(torch.tensor([i]))])
        assert torch.allclose(alone.pose_aa[0], together.pose_aa[i], atol=1e-6)


# ---- the fitter -------------------------------------------------------------------------------------------------------


def test_the_cheapest_start_wins_without_a_scorer(compact, prior, problem) -> None:
    keypoints = problem.noisy(JOINTS.coco, 2.0)
    fitter = BatchFitter(compact, prior, published("lm", 6))
    starts = mean_pose_starts(compact, prior, Observations.of(keypoints))
    singles = torch.stack([fitter.fit(keypoints, [s]).cost for s in starts])
    together = fitter.fit(keypoints, starts)
    assert torch.allclose(together.cost, singles.min(0).values)
    assert len(singles.argmin(0).unique()) > 1  # no yaw is right for everyone


def test_the_start_that_won_is_told(compact, prior, lifter, problem) -> None:
    keypoints = problem.noisy(JOINTS.coco, 2.0)
    fitter = BatchFitter(compact, prior, FitConfig(init=("lifter", "multistart")), lifter)
    result = fitter.fit(keypoints)
    kinds = {START_KINDS[i] for i in result.start.tolist()}
    assert "lifter" in kinds and kinds <= {"lifter", "multistart"}
    alone = BatchFitter(compact, prior, FitConfig(), lifter).fit(keypoints)
    assert (result.score <= alone.score + 1e-3).all()


def test_refining_starts_where_it_is_told(compact, prior, problem) -> None:
    fitter = BatchFitter(compact, prior, published("lm", 0))
    result = fitter.refine(problem.pose, problem.betas, problem.keypoints)
    assert torch.equal(result.pose_aa, problem.pose)
    assert torch.equal(result.camera_m, camera_start(problem.points_m, problem.observations))
    assert (result.start == START_KINDS.index("network")).all()


def test_exact_keypoints_in_four_views_give_the_body(compact, prior, lifter) -> None:
    people = draw_people(compact, PoseSource(prior), 8, torch.Generator().manual_seed(0), wild_share=0)
    views = orbit(people, 4)
    pixels = views.project(compact.keypoints(people.points_m) + people.camera_m[:, None])
    observations = Observations(torch.cat([pixels, torch.ones(8, 4, 49, 1)], -1), views)
    fitter = BatchFitter(compact, prior, FitConfig(), lifter)
    result = fitter.fit(observations)
    found = compact(result.pose_aa, result.betas)
    assert pa_mpjpe_mm(found.numpy(), people.points_m.numpy()).mean() < 12
    for view in range(4):
        seen = fitter.seen_from(result, observations, view)
        points = compact.keypoints(compact(seen.pose_aa, seen.betas))
        here = project(points, seen.camera_m, focal_px=1500.0)
        there = views.project(compact.keypoints(found) + result.camera_m[:, None])[:, view]
        assert torch.allclose(here, there, atol=0.02)


BAD: dict[str, Any] = {
    "no joint": (lambda k: k * torch.tensor([1, 1, 0.0]), TOO_FEW_JOINTS),
    "three joints": (lambda k: torch.where(torch.arange(49)[:, None] < 46, k * torch.tensor([1, 1, 0.0]), k), TOO_FEW_JOINTS),
    "one place": (lambda k: k * torch.tensor([0, 0, 1.0]) + torch.tensor([100.0, 90, 0]), JOINTS_COINCIDE),
    "NaN": (lambda k: torch.where(torch.arange(49)[:, None] == 30, torch.nan, k), NOT_FINITE),
    "infinite": (lambda k: torch.where(torch.arange(49)[:, None] == 30, torch.inf, k), NOT_FINITE),
    "far outside": (lambda k: k * torch.tensor([1e4, 1e4, 1.0]), OUTSIDE_CROP),
    "huge": (lambda k: k * torch.tensor([1e30, 1e30, 1.0]), OUTSIDE_CROP),
    "negative confidence": (lambda k: k * torch.tensor([1, 1, -1.0]), CONFIDENCE_OUT_OF_RANGE),
    "confidence of two": (lambda k: k * torch.tensor([1, 1, 2.0]), CONFIDENCE_OUT_OF_RANGE),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_sample_says_why_and_leaves_its_neighbours_alone(compact, prior, lifter, problem, case) -> None:
    spoil, verdict = BAD[case]
    keypoints = problem.noisy(JOINTS.coco, 2.0)
    spoiled = keypoints.clone()
    spoiled[5] = spoil(problem.keypoints[5])
    fitter = BatchFitter(compact, prior, FitConfig(), lifter)
    clean, mixed = fitter.fit(keypoints), fitter.fit(spoiled)
    assert mixed.verdict[5] == verdict, VERDICTS[int(mixed.verdict[5])]
    assert not mixed.storable[5]
    others = [i for i in range(len(keypoints)) if i != 5]
    assert torch.equal(mixed.verdict[others], clean.verdict[others])
    assert torch.allclose(mixed.pose_aa[others], clean.pose_aa[others], atol=1e-3)
    assert torch.allclose(mixed.loss[others], clean.loss[others], rtol=0.01, atol=0.01)


NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 112.0, 1e4, 1e30, -1e30, float("nan"), float("inf"), float("-inf"), 0.5])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_that_stands_in_a_sample_disturbs_the_next(compact, prior, problem, data) -> None:
    """With any numbers in a sample: a verdict, no exception, no warning, and neighbours unchanged, bit for bit."""
    fitter = BatchFitter(compact, prior, published("lm", 3))
    keypoints, start = problem.noisy(JOINTS.coco, 2.0)[:3], problem.near_truth().take(torch.arange(3))
    spoiled = keypoints.clone()
    for _ in range(data.draw(st.integers(1, 12))):
        joint = data.draw(st.one_of(st.integers(0, 48), st.just(slice(None))))
        spoiled[1, joint, data.draw(st.integers(0, 2))] = data.draw(NUMBERS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean, mixed = fitter.fit(keypoints, [start]), fitter.fit(spoiled, [start])
    for i in (0, 2):
        assert torch.equal(clean.pose_aa[i], mixed.pose_aa[i])
        assert clean.verdict[i] == mixed.verdict[i]
    if mixed.storable[1]:
        assert torch.isfinite(torch.cat([mixed.pose_aa[1], mixed.betas[1], mixed.camera_m[1], mixed.loss[1:2]])).all()


def test_a_box_without_size_is_no_number(compact, prior) -> None:
    with np.errstate(all="ignore"):
        keypoints = keypoints_to_crop(np.ones((1, 49, 3), np.float32), np.zeros((1, 2)), np.zeros(1))
    result = BatchFitter(compact, prior, published("lm", 1)).fit(torch.from_numpy(keypoints))
    assert result.verdict[0] == NOT_FINITE


def test_a_fit_behind_the_camera_is_no_fit(compact, prior, problem) -> None:
    fitter = BatchFitter(compact, prior, published("lm", 0))
    behind = problem.camera * torch.tensor([1, 1, -1.0])
    result = fitter.refine(problem.pose, problem.betas, problem.keypoints, behind)
    assert (result.verdict == BEHIND_CAMERA).all()
    assert not result.storable.any()


def test_a_start_beyond_the_limit_of_shape_begins_at_it_and_a_given_body_is_not_changed(compact, prior, problem) -> None:
    fitter = BatchFitter(compact, prior, published("lm", 0))
    wild = problem.betas.clone()
    wild[:, 0] = 3.5
    points = compact.keypoints(compact(problem.pose, wild))
    exact = torch.cat([project(points, problem.camera), torch.ones(len(wild), 49, 1)], -1)
    cheap, kept = Start(problem.pose, wild, problem.camera, "store"), problem.near_truth()
    result = fitter.fit(exact, [cheap, kept])
    assert (result.start == START_KINDS.index("store")).all()
    assert result.storable.all() and (result.betas[:, 0] == BETA_LIMIT).all()
    assert torch.equal(result.betas[:, 1:], wild[:, 1:])
    given = fitter.as_given(cheap, exact, torch.ones(len(wild), dtype=torch.bool))
    assert (given.verdict == SHAPE_OUT_OF_RANGE).all() and torch.equal(given.betas, wild)


def test_hips_and_neck_alone_are_too_few(compact, prior, problem) -> None:
    seen = (*JOINTS.ignored_in_body_term, JOINTS.index["nose"], JOINTS.index["left knee"])
    result = BatchFitter(compact, prior, published("lm", 1)).fit(problem.noisy(seen, 0.0))
    assert (result.verdict == TOO_FEW_JOINTS).all()


def test_wrong_shapes_and_options_are_refused(compact, prior, problem) -> None:
    with pytest.raises(KeypointError, match="expected \\(B, 49, 3\\)"):
        BatchFitter(compact, prior, published()).fit(torch.zeros(2, 24, 3))
    with pytest.raises(ValueError, match="solver"):
        FitConfig("newton")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iterations"):
        FitConfig("lm", -1)
    with pytest.raises(ValueError, match="init"):
        FitConfig(init=("luck",))
    with pytest.raises(ValueError, match="lifter"):
        BatchFitter(compact, prior, FitConfig())
    with pytest.raises(ValueError, match="start"):
        BatchFitter(compact, prior, published()).fit(problem.keypoints, [])


# ---- accuracy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("joints", "noise_px", "limit_mm"), [(JOINTS.coco, 2.0, 70.0), (EVERY_JOINT, 0.0, 55.0)])
def test_static_fits_are_near_the_truth(
    compact: CompactBody, mesh: BodyMesh, prior: PosePrior, lifter, joints, noise_px, limit_mm
) -> None:
    """The small version of tools/bench/fit_accuracy.py: poses of the prior itself, not of held-out clips."""
    people = Problem(compact, prior, 96, seed=3)
    observations = Observations.of(people.noisy(joints, noise_px))
    result = BatchFitter(compact, prior, FitConfig(), lifter).fit(observations)
    start = lifter_start(compact, lifter, observations)
    lsp = list(H36M_TO_J14)
    with torch.no_grad():
        true = mesh(people.pose, people.betas).joints17_m[:, lsp].numpy()
        found, lifted = (pa_mpjpe_mm(mesh(b.pose_aa, b.betas).joints17_m[:, lsp].numpy(), true).mean() for b in (result, start))
    assert result.valid.float().mean() > 0.95
    assert found < limit_mm
    assert found < lifted
