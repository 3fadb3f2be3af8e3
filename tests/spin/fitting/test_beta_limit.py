"""Betas stay within the limit that a stored fit has: at an end of it all else is still as good as can be, by every solver."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spin.body import BodyData, CompactBody
from spin.evaluation.metrics import pa_mpjpe_mm
from spin.fitting import adam
from spin.fitting.compiled import descend
from spin.fitting.compiled.solve import solve
from spin.fitting.compiled.tables import make_body
from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.levenberg_marquardt import Solution, solve_batched
from spin.fitting.lifter import OPEN_LIFTER, load_lifter
from spin.fitting.objective import BETA_LIMIT, total_cost
from spin.fitting.observations import Observations
from spin.fitting.prior import load_pose_prior
from spin.fitting.starts import Start
from spin.fitting.verdicts import VALID
from spin.joints import LSP_POINTS
from tests.spin.fit_cases import doubled, joints3d
from tests.spin.fit_problems import PUBLISHED, Problem

# So heavy a term of the 3D joints, and so light a prior, that shapes go where the joints say.
FREE = replace(PUBLISHED, joints3d=3000.0, shape_prior=0.1)
SOLVERS = ("compiled", "batched", "adam", "compiled adam")


class Unusual(Problem):
    """People of whom the first two betas are beyond the limit."""

    def __init__(self, body: CompactBody, prior, count: int, beyond: float) -> None:
        super().__init__(body, prior, count)
        self.betas[:, 0], self.betas[:, 1] = -BETA_LIMIT - beyond, BETA_LIMIT + beyond
        self.points_m = body.keypoints(body(self.pose, self.betas))

    def everything(self) -> Observations:
        return Observations.of(self.keypoints * torch.tensor([1.0, 1.0, 0.0]), joints3d(self))


@pytest.fixture(scope="module")
def solvers(body: BodyData):
    """Every solver in float64: from a start, so many iterations."""
    compact, prior = CompactBody(body, torch.float64), load_pose_prior(dtype=torch.float64)
    machine = make_body(compact, prior)

    def run(name: str, start: Start, observations: Observations, iterations: int) -> Solution:
        if name == "compiled":
            return solve(machine, FREE, start, observations, iterations=iterations, tolerance=1e-8, threads=1)
        if name == "batched":
            return solve_batched(compact, prior, FREE, start, observations, iterations=iterations, tolerance=1e-8)
        if name == "adam":
            return adam.solve(compact, prior, FREE, start, observations, iterations=iterations)
        return descend.solve(machine, FREE, start, observations, iterations=iterations, threads=1)

    return run


def gradient_at(body: BodyData, solution: Solution, observations: Observations) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the objective's gradient by pose and by betas."""
    compact, prior = CompactBody(body, torch.float64), load_pose_prior(dtype=torch.float64)
    pose, betas = (t.clone().requires_grad_() for t in (solution.pose_aa, solution.betas))
    total_cost(compact, prior, FREE, pose, betas, solution.camera_m, observations).sum().backward()
    assert pose.grad is not None and betas.grad is not None
    return pose.grad, betas.grad


def test_at_the_limit_nothing_else_could_be_better(body: BodyData, compact, prior, solvers) -> None:
    """The conditions of a constrained minimum: only a beta at its limit has a slope, and that points beyond it."""
    people = Unusual(compact, prior, 6, beyond=1.0)
    start, observations = doubled(people.near_truth()), doubled(people.everything())
    for name in ("compiled", "batched"):
        found = solvers(name, start, observations, 200)
        assert found.converged.all()
        assert found.betas.abs().max() == BETA_LIMIT
        assert (found.betas[:, 0] == -BETA_LIMIT).all() and (found.betas[:, 1] == BETA_LIMIT).all()
        by_pose, by_betas = gradient_at(body, found, observations)
        held = found.betas.abs() == BETA_LIMIT
        assert (by_betas * found.betas.sign() < 0)[held].all()
        size = by_betas[held].abs().min()
        assert by_betas[~held].abs().max() < 1e-3 * size
        assert by_pose.abs().max() < 0.1 * size


def test_compiled_and_batched_take_the_same_steps(compact, prior, solvers) -> None:
    people = Unusual(compact, prior, 6, beyond=0.5)
    start, observations = doubled(people.near_truth()), doubled(people.everything())
    outside = replace(start, betas=start.betas + 5.0)  # which begins at the limit
    for begin in (start, outside):
        for iterations in (0, 1, 4, 20):
            one, other = (solvers(name, begin, observations, iterations) for name in ("compiled", "batched"))
            assert torch.allclose(one.betas, other.betas, atol=1e-8)
            assert torch.allclose(one.cost, other.cost, rtol=1e-8)
            assert torch.equal(one.iterations, other.iterations)
            assert torch.equal(one.converged, other.converged)
            assert one.betas.abs().max() <= BETA_LIMIT


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_stays_within(compact, prior, solvers, name: str) -> None:
    people = Unusual(compact, prior, 4, beyond=1.0)
    observations, start = doubled(people.everything()), doubled(people.near_truth())
    start = replace(start, betas=doubled(people.betas))
    before = start.betas.clone()
    for iterations in (0, 3, 30):
        found = solvers(name, start, observations, iterations)
        assert found.betas.abs().max() <= BETA_LIMIT
        assert torch.equal(start.betas, before)
    assert (found.betas[:, 0] == -BETA_LIMIT).all()


@pytest.mark.parametrize("solver", ["lm", "adam"])
def test_a_person_of_known_joints_and_an_unusual_shape_has_a_valid_fit(body: BodyData, compact, prior, solver: str) -> None:
    """Beyond the limit by a little: the fit was rejected, and exported as zeros."""
    people = Unusual(compact, prior, 8, beyond=0.2)
    config = FitConfig(solver, {"lm": 20, "adam": 100}[solver])  # type: ignore[arg-type]
    fitter = BatchFitter(compact, prior, config, load_lifter(OPEN_LIFTER, body.fingerprint))
    found = fitter.fit(Observations.of(people.keypoints, joints3d(people)))
    assert (found.verdict == VALID).all()
    assert found.betas.abs().max() <= BETA_LIMIT
    if solver == "lm":
        points, true = (
            compact(p, b)[:, list(LSP_POINTS)] for p, b in ((found.pose_aa, found.betas), (people.pose, people.betas))
        )
        assert pa_mpjpe_mm(points.numpy(), true.numpy()).mean() < 15
