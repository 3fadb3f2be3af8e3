from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from spin.body import BodyData, BodyMesh, CompactBody
from spin.camera import project
from spin.errors import KeypointError
from spin.evaluation.metrics import pa_mpjpe_mm
from spin.fitting import levenberg_marquardt
from spin.fitting.fitter import (
    BEHIND_CAMERA,
    LOSS_TOO_HIGH,
    NOT_FINITE,
    SHAPE_OUT_OF_RANGE,
    TOO_FEW_JOINTS,
    VALID,
    FitConfig,
    Fitter,
)
from spin.fitting.objective import (
    Objective,
    bending_cost,
    body_weights,
    geman_mcclure,
    prior_cost,
    reprojection_loss,
    total_cost,
)
from spin.fitting.prior import PosePrior, load_pose_prior
from spin.fitting.starts import Start, camera_start, confident_joints, mean_pose_starts, start_from
from spin.joints import H36M_TO_J14, JOINTS
from spin.rotations import rotate_in_plane, upright


class Problem:
    """People of the prior, seen upright from anywhere: the truth, and its exact projection."""

    def __init__(self, body: CompactBody, prior: PosePrior, count: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        roots = np.stack([upright(yaw) for yaw in rng.uniform(0, 360, count)])
        pose = np.concatenate([roots, prior.sample(count, rng)], 1)
        self.pose = rotate_in_plane(
            torch.tensor(pose, dtype=torch.float32),
            torch.tensor(rng.normal(0, 8, count), dtype=torch.float32),
        )
        self.betas = torch.tensor(rng.normal(size=(count, 10)), dtype=torch.float32)
        points = body.keypoints(body(self.pose, self.betas))
        centre = (points.amax(1) + points.amin(1)) / 2
        size = (points[..., :2].amax(1) - points[..., :2].amin(1)).amax(1)
        self.camera = torch.stack([-centre[:, 0], -centre[:, 1], 5000 * size / (0.8 * 224)], 1)
        pixels = project(points, self.camera)
        self.keypoints = torch.cat([pixels, torch.ones(count, 49, 1)], -1)

    def noisy(self, joints: tuple[int, ...], noise_px: float, seed: int = 1) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        out = torch.zeros_like(self.keypoints)
        out[:, joints] = self.keypoints[:, joints]
        out[:, joints, :2] += noise_px * torch.randn(len(out), len(joints), 2, generator=generator)
        return out


@pytest.fixture(scope="module")
def problem(compact: CompactBody, prior: PosePrior) -> Problem:
    return Problem(compact, prior, 24)


def near_truth(problem: Problem, seed: int = 2) -> Start:
    generator = torch.Generator().manual_seed(seed)
    noise = 0.15 * torch.randn(problem.pose.shape, generator=generator)
    return Start(problem.pose + noise, torch.zeros_like(problem.betas), problem.camera)


# ---- the objective ----------------------------------------------------------------------------------------------------


def test_geman_mcclure_by_hand() -> None:
    assert geman_mcclure(torch.tensor(100.0), 100.0) == 5000
    assert geman_mcclure(torch.tensor(1e6), 100.0) == pytest.approx(1e4, rel=1e-4)


def test_bending_cost_by_hand() -> None:
    pose = torch.zeros(1, 69)
    assert bending_cost(pose) == 4  # exp(0)² for two elbows and two knees
    pose[0, 9] = -1.0  # left knee, over-extended: its sign is -1
    assert bending_cost(pose).item() == pytest.approx(3 + np.exp(2.0), rel=1e-6)


def test_reprojection_is_the_mean_over_49_joints_of_squared_confidence_times_error(compact, problem) -> None:
    keypoints = problem.keypoints.clone()
    knee = JOINTS.index["left knee"]
    keypoints[0, knee, 0] += 100.0
    keypoints[0, knee, 2] = 0.5
    loss = reprojection_loss(compact, Objective(), problem.pose, problem.betas, problem.camera, keypoints)
    assert loss[0].item() == pytest.approx(0.5**2 * 5000 / 49, rel=1e-3)
    assert loss[1:].max() < 1e-3


def test_hips_and_neck_are_ignored_and_the_callers_tensor_stays(compact, problem) -> None:
    keypoints = problem.keypoints.clone()
    keypoints[:, list(JOINTS.ignored_in_body_term), :2] += 50
    before = keypoints.clone()
    loss = reprojection_loss(compact, Objective(), problem.pose, problem.betas, problem.camera, keypoints)
    assert loss.max() < 1e-3
    assert (body_weights(keypoints)[:, list(JOINTS.ignored_in_body_term)] == 0).all()
    assert torch.equal(keypoints, before)


def test_pose_prior_by_hand(prior: PosePrior) -> None:
    x = torch.tensor(prior.sample(3, np.random.default_rng(0)), dtype=torch.float64)
    costs = []
    log_det = np.linalg.slogdet(prior.covars_np)[1]
    for mean, covariance, weight, det in zip(prior.means_np, prior.covars_np, prior.weights_np, log_det):
        away = x.numpy() - mean
        mahalanobis = np.einsum("bi,ij,bj->b", away, np.linalg.inv(covariance), away)
        constant = 69 / 2 * np.log(2 * np.pi) + 0.5 * (det - log_det.min())
        costs.append(0.5 * mahalanobis - np.log(weight) + constant)
    assert np.allclose(load_pose_prior(dtype=torch.float64)(x).numpy(), np.min(costs, 0), rtol=1e-9)


def test_the_solvers_gradient_is_that_of_the_objective(body: BodyData) -> None:
    compact, prior = CompactBody(body, torch.float64), load_pose_prior(dtype=torch.float64)
    small = Problem(CompactBody(body), load_pose_prior(), 4)
    keypoints = small.noisy(tuple(range(49)), 20.0).double()
    keypoints[..., 2] = torch.rand(4, 49, generator=torch.Generator().manual_seed(0)).double()
    x = torch.cat([small.pose, small.betas, small.camera], 1).double().requires_grad_()
    system = levenberg_marquardt._System(compact, prior, Objective(), keypoints)
    (gradient,) = torch.autograd.grad(system.cost(x).sum(), x)
    curvature, half = system.linearise(x.detach())
    assert torch.allclose(2 * half, gradient, rtol=1e-6, atol=1e-6 * gradient.abs().max())
    assert (torch.linalg.eigvalsh(curvature) > -1e-6).all()


def test_total_cost_is_the_sum_of_its_terms(compact, prior, problem) -> None:
    o, args = Objective(), (problem.pose, problem.betas, problem.camera, problem.keypoints)
    parts = 49 * reprojection_loss(compact, o, *args) + prior_cost(prior, o, *args[:2])
    assert torch.allclose(total_cost(compact, prior, o, *args), parts)


# ---- starts -----------------------------------------------------------------------------------------------------------


def test_camera_start_recovers_the_camera_of_the_true_body(compact, problem) -> None:
    points = compact.keypoints(compact(problem.pose, problem.betas))
    found = camera_start(points, problem.keypoints)
    # A ratio of spreads knows no perspective within the body: good to a percent or two.
    assert ((found - problem.camera).abs() / problem.camera[:, 2:]).max() < 0.02
    openpose_only = problem.noisy(tuple(range(25)), 0.0)
    assert ((camera_start(points, openpose_only) - problem.camera).abs() / problem.camera[:, 2:]).max() < 0.02


def test_joints_that_both_halves_name_count_once(problem) -> None:
    assert (confident_joints(problem.keypoints) == 29).all()  # 31 places, less the two hips
    assert (confident_joints(problem.noisy(JOINTS.coco, 0.0)) == 15).all()


# ---- solvers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["lm", "adam"])
def test_a_fit_that_starts_near_the_truth_finds_the_keypoints(compact, prior, problem, solver) -> None:
    fitter = Fitter(compact, prior, FitConfig(solver, {"lm": 8, "adam": 60}[solver]))
    start = near_truth(problem)
    before = reprojection_loss(
        compact, Objective(), start.pose_aa, start.betas, start.camera_m, problem.keypoints
    )
    result = fitter.fit(problem.keypoints, [start])
    assert result.valid.all()
    assert result.loss.mean() < 0.3 * before.mean()


def test_levenberg_marquardt_never_costs_more_and_beats_adam(compact, prior, problem) -> None:
    keypoints, start = problem.noisy(JOINTS.coco, 2.0), near_truth(problem)
    costs = [Fitter(compact, prior, FitConfig("lm", n)).fit(keypoints, [start]).cost for n in (0, 1, 3, 8)]
    for earlier, later in pairwise(costs):
        assert (later <= earlier + 1e-2).all()
    adam = Fitter(compact, prior, FitConfig("adam", 100)).fit(keypoints, [start])
    assert costs[-1].mean() < adam.cost.mean()


@pytest.mark.parametrize("solver", ["lm", "adam"])
def test_inputs_are_not_changed(compact, prior, problem, solver) -> None:
    keypoints, start = problem.noisy(JOINTS.coco, 2.0), near_truth(problem)
    copies = [t.clone() for t in (keypoints, start.pose_aa, start.betas, start.camera_m)]
    Fitter(compact, prior, FitConfig(solver, 3)).fit(keypoints, [start])
    for now, then in zip((keypoints, start.pose_aa, start.betas, start.camera_m), copies):
        assert torch.equal(now, then)


@pytest.mark.parametrize("solver", ["lm", "adam"])
def test_batched_equals_one_at_a_time(body: BodyData, solver) -> None:
    """In float64, where rounding has no room to grow along the way."""
    compact, prior = CompactBody(body, torch.float64), load_pose_prior(dtype=torch.float64)
    keypoints = Problem(CompactBody(body), load_pose_prior(), 6).noisy(JOINTS.coco, 2.0).double()
    keypoints[2, 30:] = 0  # a sample that sees less must not make the others compute otherwise
    fitter = Fitter(compact, prior, FitConfig(solver, 4))
    together = fitter.fit(keypoints)
    for i in range(len(keypoints)):
        alone = fitter.fit(keypoints[i : i + 1])
        assert torch.allclose(alone.pose_aa[0], together.pose_aa[i], atol=1e-6)
        assert torch.allclose(alone.loss[0], together.loss[i], rtol=1e-6)


def test_the_cheapest_start_wins(compact, prior, problem) -> None:
    keypoints = problem.noisy(JOINTS.coco, 2.0)
    fitter = Fitter(compact, prior, FitConfig("lm", 6))
    starts = mean_pose_starts(compact, prior, keypoints)
    singles = torch.stack([fitter.fit(keypoints, [s]).cost for s in starts])
    together = fitter.fit(keypoints)
    assert torch.equal(together.start, singles.argmin(0))
    assert torch.allclose(together.cost, singles.min(0).values)
    assert len(together.start.unique()) > 1  # no yaw is right for everyone


def test_refining_starts_where_it_is_told(compact, prior, problem) -> None:
    fitter = Fitter(compact, prior, FitConfig("lm", 0))
    result = fitter.refine(problem.pose, problem.betas, problem.keypoints)
    assert torch.equal(result.pose_aa, problem.pose)
    assert torch.equal(
        result.camera_m, start_from(compact, problem.pose, problem.betas, problem.keypoints).camera_m
    )


BAD: dict[str, Any] = {
    "no joint": (lambda k: k * torch.tensor([1, 1, 0.0]), TOO_FEW_JOINTS),
    "three joints": (lambda k: torch.where(torch.arange(49)[:, None] < 46, k * torch.tensor([1, 1, 0.0]), k), TOO_FEW_JOINTS),
    "NaN": (lambda k: torch.where(torch.arange(49)[:, None] == 30, torch.nan, k), NOT_FINITE),
    "infinite": (lambda k: torch.where(torch.arange(49)[:, None] == 30, torch.inf, k), NOT_FINITE),
    "far outside": (lambda k: k * torch.tensor([1e4, 1e4, 1.0]), LOSS_TOO_HIGH),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_sample_says_why_and_leaves_its_neighbours_alone(compact, prior, problem, case) -> None:
    spoil, verdict = BAD[case]
    keypoints = problem.noisy(JOINTS.coco, 2.0)
    spoiled = keypoints.clone()
    spoiled[5] = spoil(problem.keypoints[5])
    fitter = Fitter(compact, prior, FitConfig("lm", 5))
    clean, mixed = fitter.fit(keypoints), fitter.fit(spoiled)
    assert mixed.verdict[5] == verdict
    others = [i for i in range(len(keypoints)) if i != 5]
    assert (mixed.verdict[others] == VALID).all()
    # Other samples see more joints of the model when a neighbour does; that changes rounding, no more.
    assert torch.allclose(mixed.loss[others], clean.loss[others], rtol=0.05, atol=0.05)


def test_coinciding_joints_end_as_a_fit_with_a_verdict(compact, prior, problem) -> None:
    keypoints = problem.keypoints[:2].clone()
    keypoints[0, :, :2] = 112.0
    result = Fitter(compact, prior, FitConfig("lm", 5)).fit(keypoints)
    assert torch.isfinite(result.pose_aa).all()
    assert result.verdict[1] == VALID


def test_a_fit_behind_the_camera_is_no_fit(compact, prior, problem) -> None:
    fitter = Fitter(compact, prior, FitConfig("lm", 0))
    behind = problem.camera * torch.tensor([1, 1, -1.0])
    result = fitter.refine(problem.pose, problem.betas, problem.keypoints, behind)
    assert (result.verdict == BEHIND_CAMERA).all()
    assert not result.storable.any()


def test_a_start_that_can_be_kept_wins_over_a_cheaper_one_that_cannot(compact, prior, problem) -> None:
    fitter = Fitter(compact, prior, FitConfig("lm", 0))
    wild = problem.betas.clone()
    wild[:, 0] = 3.5
    points = compact.keypoints(compact(problem.pose, wild))
    exact = torch.cat([project(points, problem.camera), torch.ones(len(wild), 49, 1)], -1)
    cheap, kept = Start(problem.pose, wild, problem.camera), near_truth(problem)
    result = fitter.fit(exact, [cheap, kept])
    assert (result.start == 1).all()
    assert (fitter.fit(exact, [cheap]).verdict == SHAPE_OUT_OF_RANGE).all()


def test_hips_and_neck_alone_are_too_few(compact, prior, problem) -> None:
    seen = (*JOINTS.ignored_in_body_term, JOINTS.index["nose"], JOINTS.index["left knee"])
    result = Fitter(compact, prior, FitConfig("lm", 1)).fit(problem.noisy(seen, 0.0))
    assert (result.verdict == TOO_FEW_JOINTS).all()


def test_wrong_shapes_and_options_are_refused(compact, prior) -> None:
    with pytest.raises(KeypointError, match="expected \\(B, 49, 3\\)"):
        Fitter(compact, prior, FitConfig()).fit(torch.zeros(2, 24, 3))
    with pytest.raises(ValueError, match="solver"):
        FitConfig("newton")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iterations"):
        FitConfig("lm", -1)


# ---- accuracy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("joints", "noise_px", "limit_mm"), [(JOINTS.coco, 2.0, 80.0), (tuple(range(49)), 0.0, 65.0)]
)
def test_static_fits_are_near_the_truth(
    compact: CompactBody, mesh: BodyMesh, prior: PosePrior, joints, noise_px, limit_mm
) -> None:
    """The small version of tools/bench/fit_accuracy.py: poses of the prior itself, not of held-out clips."""
    people = Problem(compact, prior, 96, seed=3)
    result = Fitter(compact, prior, FitConfig("lm", 12)).fit(people.noisy(joints, noise_px))
    lsp = list(H36M_TO_J14)
    with torch.no_grad():
        found = mesh(result.pose_aa, result.betas).joints17_m[:, lsp].numpy()
        true = mesh(people.pose, people.betas).joints17_m[:, lsp].numpy()
    assert result.valid.float().mean() > 0.98
    assert pa_mpjpe_mm(found, true).mean() < limit_mm
