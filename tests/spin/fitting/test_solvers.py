"""The compiled and the batched Levenberg-Marquardt, and Adam's two stages: on one view, and on everything at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from spin.body import BodyData, CompactBody
from spin.camera import project
from spin.fitting import adam
from spin.fitting.compiled import descend
from spin.fitting.compiled.solve import is_compiled, solve
from spin.fitting.compiled.tables import make_body
from spin.fitting.levenberg_marquardt import Solution, solve_batched
from spin.fitting.objective import total_cost
from spin.fitting.observations import Observations
from spin.fitting.prior import load_pose_prior
from spin.fitting.starts import Start
from spin.joints import JOINTS
from tests.spin.fit_cases import anchored, doubled, joints3d, same_bits, surround, tensors_of
from tests.spin.fit_problems import ANCHORED, EVERY_JOINT, PUBLISHED, Problem

CASES = ("one view", "everything")


def case_of(people: Problem, case: str) -> tuple[Start, Observations]:
    """Noisy keypoints of one view; or three views, 3D joints of which some are known, and an anchor."""
    if case == "one view":
        return people.near_truth(), Observations.of(people.noisy(JOINTS.coco, 2.0))
    joints = joints3d(people)
    joints[::2, 7:, 3] = 0
    observations = replace(surround(people, 3, noise_px=2.0), joints3d_m=joints)
    return anchored(people.near_truth()), observations


@pytest.fixture(scope="module")
def machine(compact, prior):
    """Solves in float32, as machine code, with the objective that suits the start."""
    body = make_body(compact, prior)

    def run(
        start: Start,
        observations: Observations,
        iterations: int = 20,
        tolerance: float = 1e-3,
        threads: int = 1,
    ) -> Solution:
        objective = PUBLISHED if start.anchor is None else ANCHORED
        return solve(body, objective, start, observations, iterations=iterations, tolerance=tolerance, threads=threads)

    return run


@pytest.mark.parametrize("case", CASES)
def test_both_end_at_the_same_cost_which_is_the_objectives(body: BodyData, compact, prior, case: str) -> None:
    compact64, prior64 = CompactBody(body, torch.float64), load_pose_prior(dtype=torch.float64)
    start, observations = (doubled(part) for part in case_of(Problem(compact, prior, 5), case))
    objective = PUBLISHED if start.anchor is None else ANCHORED
    settings = {"iterations": 15, "tolerance": 1e-6}
    one = solve(make_body(compact64, prior64), objective, start, observations, threads=1, **settings)
    other = solve_batched(compact64, prior64, objective, start, observations, **settings)
    assert torch.allclose(one.cost, other.cost, rtol=1e-9)
    assert torch.equal(one.iterations, other.iterations)
    assert torch.equal(one.converged, other.converged)
    body_of_one = (one.pose_aa, one.betas, one.camera_m)
    again = total_cost(compact64, prior64, objective, *body_of_one, observations, start.anchor)
    assert torch.allclose(again, one.cost, rtol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_more_iterations_never_cost_more_and_a_converged_sample_stays(machine, problem, case: str) -> None:
    start, observations = case_of(problem, case)
    limits = (0, 1, 2, 3, 5, 8, 20, 40)
    solutions = [machine(start, observations, limit) for limit in limits]
    assert torch.equal(solutions[0].pose_aa, start.pose_aa)
    for limit, solution in zip(limits, solutions):
        assert (solution.iterations[~solution.converged] == limit).all()
        assert (solution.iterations <= limit).all()
    for earlier, later in pairwise(solutions):
        assert (later.cost <= earlier.cost).all()
        assert (later.cost < earlier.cost)[~earlier.converged].any() or earlier.converged.all()
        stays = earlier.converged.nonzero()[:, 0]
        assert same_bits(earlier.take(stays), later.take(stays))
    assert not solutions[1].converged.all() and solutions[-1].converged.all()


def test_a_step_that_gains_less_than_the_tolerance_is_the_last(machine, problem) -> None:
    start, observations = case_of(problem, "one view")
    easy = machine(start, observations, tolerance=1e9)
    assert easy.converged.all()
    assert (easy.iterations == 1).all()  # the first step gained something
    loose, tight = (machine(start, observations, 60, tolerance) for tolerance in (1e-2, 1e-4))
    assert (tight.iterations >= loose.iterations).all()
    assert (tight.iterations > loose.iterations).any()
    # Where it ended, another step would have gained no more than that: the cost is a few per cent from the lowest.
    assert (loose.cost <= 1.1 * tight.cost).all()


@pytest.mark.parametrize("case", CASES)
def test_neither_neighbours_nor_threads_change_a_bit(machine, problem, case: str) -> None:
    """More samples than a thread takes at a time."""
    start, observations = case_of(problem, case)
    rows = torch.randint(24, (150,), generator=torch.Generator().manual_seed(0))
    start, observations = start.take(rows), observations.take(rows)
    together = machine(start, observations, 6)
    for threads in (2, 3, 7):
        assert same_bits(together, machine(start, observations, 6, threads=threads))
    for row in (0, 63, 64, 149):
        one = torch.tensor([row])
        assert same_bits(machine(start.take(one), observations.take(one), 6), together, one)


def test_the_batched_solver_is_nearly_as_independent(body: BodyData, compact, prior) -> None:
    compact64, prior64 = CompactBody(body, torch.float64), load_pose_prior(dtype=torch.float64)
    start, observations = (doubled(part) for part in case_of(Problem(compact, prior, 4), "everything"))
    observations.keypoints_px[1, :, 30:] = 0  # sees less than the others
    settings = {"iterations": 4, "tolerance": 1e-6}
    together = solve_batched(compact64, prior64, ANCHORED, start, observations, **settings)
    for i in range(4):
        one = torch.tensor([i])
        alone = solve_batched(compact64, prior64, ANCHORED, start.take(one), observations.take(one), **settings)
        assert torch.allclose(alone.pose_aa[0], together.pose_aa[i], atol=1e-7)
        assert torch.allclose(alone.cost[0], together.cost[i], rtol=1e-8)


@pytest.mark.parametrize("solver", ["compiled", "batched", "adam"])
def test_no_solver_changes_what_it_is_given(machine, compact, prior, problem, solver: str) -> None:
    start, observations = case_of(problem, "everything")
    before = [t.clone() for t in tensors_of(start, observations)]
    if solver == "compiled":
        machine(start, observations, 3)
    elif solver == "batched":
        solve_batched(compact, prior, ANCHORED, start, observations, iterations=2, tolerance=1e-3)
    else:
        adam.solve(compact, prior, ANCHORED, start, observations, iterations=2)
    assert all(torch.equal(now, then) for now, then in zip(tensors_of(start, observations), before, strict=True))


def test_machine_code_is_at_hand_once_it_ran(machine, compact, prior, problem) -> None:
    machine(*case_of(problem, "one view"), iterations=1)
    assert is_compiled(make_body(compact, prior))


# ---- Adam ---------------------------------------------------------------------------------------------------------------


def run_adam(compact, prior, people: Problem, keypoints: torch.Tensor, iterations: int) -> Solution:
    return adam.solve(compact, prior, PUBLISHED, people.near_truth(), Observations.of(keypoints), iterations=iterations)


def test_one_iteration_of_adam_is_one_step_of_each_stage(compact, prior, problem) -> None:
    """Adam's first step is its step size, for any gradient: twice for the root, once for all else."""
    start, keypoints = problem.near_truth(), problem.noisy(EVERY_JOINT, 2.0)
    none, one = (run_adam(compact, prior, problem, keypoints, n) for n in (0, 1))
    assert torch.equal(none.pose_aa, start.pose_aa)
    assert torch.equal(none.camera_m, start.camera_m)
    assert torch.equal(none.betas, start.betas)
    assert (one.iterations == 2).all() and one.converged.all()

    def steps(now: torch.Tensor, then: torch.Tensor) -> torch.Tensor:
        return (now - then).abs() / adam.STEP_SIZE

    # A camera's depth is large, so that a step of 1 cm is rounded in float32.
    assert torch.allclose(steps(one.camera_m, start.camera_m), torch.ones(24, 3), atol=5e-3)
    assert torch.allclose(steps(one.betas, start.betas), torch.ones(24, 10), atol=1e-3)
    assert torch.allclose(steps(one.pose_aa, start.pose_aa)[:, 3:], torch.ones(24, 69), atol=1e-3)
    root = steps(one.pose_aa, start.pose_aa)[:, :3]
    assert torch.minimum(root, (root - 2).abs()).max() < 1e-3
    assert (root > 1.9).any()


def test_only_the_torso_moves_the_camera_in_stage_one(compact, prior, problem) -> None:
    keypoints = problem.noisy(EVERY_JOINT, 2.0)
    limbs, torso = keypoints.clone(), keypoints.clone()
    others = [j for j in range(49) if j not in JOINTS.torso]
    limbs[:, others, :2] += 30.0
    torso[:, list(JOINTS.torso), 2] = 0
    usual, same, still = (run_adam(compact, prior, problem, k, 3) for k in (keypoints, limbs, torso))
    assert torch.equal(same.camera_m, usual.camera_m)
    assert not torch.equal(same.pose_aa, usual.pose_aa)
    assert torch.equal(still.camera_m, problem.camera)


OPENPOSE_TORSO, ANNOTATED_TORSO = list(JOINTS.torso[:4]), list(JOINTS.torso[4:])


def published_camera(compact, people: Problem, keypoints: torch.Tensor, iterations: int) -> torch.Tensor:
    """Return the translation that stage one of the published code ends at (smplify.py, losses.py: camera_fitting_loss)."""
    start = people.near_truth()
    root, camera = start.pose_aa[:, :3].clone().requires_grad_(), start.camera_m.clone().requires_grad_()
    optimiser = torch.optim.Adam([root, camera], lr=1e-2)
    all_detected = (keypoints[:, OPENPOSE_TORSO, 2].min(-1)[0][:, None, None] > 0).float()
    for _ in range(iterations):
        points = compact.keypoints(compact(torch.cat([root, start.pose_aa[:, 3:]], 1), start.betas))
        error = (keypoints[..., :2] - project(points, camera)) ** 2
        error = all_detected * error[:, OPENPOSE_TORSO] + (1 - all_detected) * error[:, ANNOTATED_TORSO]
        loss = error.sum((1, 2)) + 100**2 * (camera[:, 2] - start.camera_m[:, 2]) ** 2
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    return camera.detach()


def test_stage_one_is_the_published_one(compact, prior, problem) -> None:
    """With OpenPose's four joints, and with the annotated ones where one of those is missing, with any confidence."""
    keypoints = problem.noisy(EVERY_JOINT, 4.0)
    keypoints[..., 2] = torch.rand(keypoints.shape[:2], generator=torch.Generator().manual_seed(6)).clamp_min(0.1)
    missing = torch.arange(len(keypoints)) % 3 == 0
    keypoints[missing, OPENPOSE_TORSO[1], 2] = 0
    found = run_adam(compact, prior, problem, keypoints, 8).camera_m
    assert torch.allclose(found, published_camera(compact, problem, keypoints, 8), atol=2e-4)
    # Which four count can be seen: the others may be anywhere.
    for ours, joints in ((missing, OPENPOSE_TORSO), (~missing, ANNOTATED_TORSO)):
        moved = keypoints.clone()
        moved[:, joints, :2] += 40.0
        again = run_adam(compact, prior, problem, moved, 8).camera_m
        assert torch.equal(again[ours], found[ours])
        assert not (again[~ours] == found[~ours]).all(1).any()


def test_in_stage_one_what_was_not_seen_does_not_count(compact, prior, problem) -> None:
    keypoints = problem.noisy(EVERY_JOINT, 4.0)
    keypoints[:, OPENPOSE_TORSO[0], 2] = 0
    keypoints[:, ANNOTATED_TORSO[0]] = 0  # published: pulled to the crop's corner
    moved = keypoints.clone()
    moved[:, ANNOTATED_TORSO[0], :2] = 300.0
    one, other = (run_adam(compact, prior, problem, k, 5).camera_m for k in (keypoints, moved))
    assert torch.equal(one, other)
    # Files of OpenPose alone: three joints are better than none.
    keypoints[:, ANNOTATED_TORSO] = 0
    detected = run_adam(compact, prior, problem, keypoints, 5).camera_m
    assert not (detected[:, :2] == problem.camera[:, :2]).all(1).any()


@pytest.mark.parametrize("case", CASES)
def test_compiled_adam_is_adam(body: BodyData, compact, prior, case: str) -> None:
    """Both stages, step by step: 12 steps of each in double precision, on one view and on everything at once."""
    compact64, prior64 = CompactBody(body, torch.float64), load_pose_prior(dtype=torch.float64)
    start, observations = (doubled(part) for part in case_of(Problem(compact, prior, 4), case))
    objective = PUBLISHED if start.anchor is None else ANCHORED
    slow = adam.solve(compact64, prior64, objective, start, observations, iterations=12)
    machine = make_body(compact64, prior64)
    for threads in (1, 3):
        fast = descend.solve(machine, objective, start, observations, iterations=12, threads=threads)
        for name in ("pose_aa", "betas", "camera_m"):
            assert torch.allclose(getattr(fast, name), getattr(slow, name), atol=1e-7)
        assert torch.allclose(fast.cost, slow.cost, rtol=1e-8)
        assert torch.equal(fast.iterations, slow.iterations)
    assert descend.is_compiled(machine)
