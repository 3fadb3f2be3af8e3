"""More of the objective by hand, and derivatives where samples see different things, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from spin.body import BodyData, CompactBody
from spin.fitting import levenberg_marquardt
from spin.fitting.compiled import objective as compiled
from spin.fitting.compiled.tables import Problem as OneSample
from spin.fitting.compiled.tables import Weights, make_body, make_scratch
from spin.fitting.objective import (
    OBJECTIVES,
    Objective,
    bending_cost,
    body_weights,
    joints3d_cost,
    noise_px,
    pose_prior_weight,
    prior_cost,
    reprojection_loss,
)
from spin.fitting.observations import Observations, Views
from spin.fitting.prior import PosePrior, load_pose_prior
from spin.fitting.starts import Start
from spin.joints import JOINTS
from tests.spin.fit_cases import anchored, doubled, joints3d, surround
from tests.spin.fit_problems import EVERY_JOINT, PUBLISHED, Problem


@pytest.mark.parametrize(
    ("hinge", "column", "unnatural"),
    [("left knee", 9, -1), ("right knee", 12, -1), ("left elbow", 52, 1), ("right elbow", 55, -1)],
)
def test_every_hinge_has_its_unnatural_side(hinge: str, column: int, unnatural: int) -> None:
    pose = torch.zeros(2, 69, dtype=torch.float64)
    pose[:, column] = torch.tensor([0.5, -0.5]) * unnatural
    assert torch.allclose(bending_cost(pose), 3 + torch.tensor([1.0, -1.0], dtype=torch.float64).exp())


def test_the_shape_costs_its_square_and_the_root_nothing(prior: PosePrior, problem) -> None:
    o = Objective(pose_prior=2.0, bending_prior=3.0, shape_prior=5.0)
    pose, betas = problem.pose, problem.betas
    whole = prior_cost(prior, o, pose, betas)
    assert torch.allclose(whole - prior_cost(prior, o, pose, 0 * betas), 25 * (betas**2).sum(1), rtol=1e-3)
    assert torch.allclose(prior_cost(prior, o, pose, 0 * betas), 4 * prior(pose[:, 3:]) + 9 * bending_cost(pose[:, 3:]))
    turned = pose.clone()
    turned[:, :3] += 1.0
    assert torch.equal(prior_cost(prior, o, turned, betas), whole)


def test_both_axes_are_robust_by_themselves_and_views_are_averaged(problem) -> None:
    observations = surround(problem, 3, EVERY_JOINT)
    keypoints = observations.keypoints_px.clone()
    keypoints[1, 2, JOINTS.index["nose"], :2] += torch.tensor([100.0, -50.0])
    loss = reprojection_loss(PUBLISHED, problem.points_m, problem.camera, Observations(keypoints, observations.views))
    assert loss[1].item() == pytest.approx((5000 + 2000) / 49 / 3, rel=1e-4)
    assert loss[[0, 2, 3]].max() < 1e-4


def test_joints_without_confidence_may_be_anywhere(problem) -> None:
    joints = joints3d(problem)
    joints[:, 2:, 3] = 0
    joints[:, 2:, :3] = 1e3
    joints[:, 1, 3] = 0.5
    joints[:, 1, 0] += 0.3  # of weights 1 and ¼, w₁w₂ / (w₁ + w₂) d² is left when the centre has moved
    cost = joints3d_cost(problem.points_m, joints)
    assert torch.allclose(cost, torch.full_like(cost, 0.25 / 1.25 * 0.09), rtol=1e-4)
    assert (joints3d_cost(problem.points_m, joints * torch.tensor([1, 1, 1, 0.0])) == 0).all()


def test_noise_weighs_by_confidence_and_lets_nothing_count_beyond_50_px(problem) -> None:
    knee, nose, hip = (JOINTS.index[name] for name in ("left knee", "nose", "left hip"))
    keypoints = torch.zeros_like(problem.keypoints)
    keypoints[:, [knee, nose]] = problem.keypoints[:, [knee, nose]]
    keypoints[:, knee, 1] += 24.0
    keypoints[:, knee, 2], keypoints[:, nose, 2] = 0.25, 0.75

    def noise() -> float:
        return noise_px(problem.points_m, problem.camera, Observations.of(keypoints))[0].item()

    assert noise() == pytest.approx(3 * 4**1.5, rel=1e-3)  # √(¼ 24²) = 12 px
    keypoints[:, hip] = torch.tensor([1e3, 1e3, 1.0])  # hips are ignored
    assert noise() == pytest.approx(3 * 4**1.5, rel=1e-3)
    keypoints[:, knee, 0] += 1e9
    assert noise() == pytest.approx(3 * (25 / 3) ** 1.5, rel=1e-3)
    keypoints[...] = 0
    assert noise() == 3.0


def test_every_weight_tells_objectives_apart() -> None:
    weights = ("sigma_px", "pose_prior", "bending_prior", "shape_prior", "hips", "joints3d")
    changes = [dict[str, float](), *({weight: 7.5} for weight in weights)]
    prints = [replace(o, **c).fingerprint for o in OBJECTIVES.values() for c in changes]
    anchors = [replace(OBJECTIVES["anchored"], **{n: 7.5}).fingerprint for n in ("anchor", "anchored_pose_prior")]
    assert len(set(prints + anchors)) == 2 * 7 + 2


def test_a_view_projects_by_hand() -> None:
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # x to y, y to -x
    focal, principal = torch.tensor([[500.0]]), torch.tensor([[[100.0, 90.0]]])
    views = Views(turn[None, None], torch.tensor([[[0.1, 0.2, 3.0]]]), focal, principal)
    point = torch.tensor([[[0.4, 0.3, 1.0]]])
    assert torch.allclose(views.place(point), torch.tensor([[[[-0.2, 0.6, 4.0]]]]))
    assert torch.allclose(views.project(point), torch.tensor([[[[100 - 25.0, 90 + 75.0]]]]))


# ---- derivatives --------------------------------------------------------------------------------------------------------

MIXED = Objective(anchor=1.5, anchored_pose_prior=0.8, hips=0.6)


@dataclass(frozen=True)
class Terms:
    """Of each sample; gradient and curvature are halves, as the solvers have them."""

    cost: torch.Tensor  # (B,)
    gradient: torch.Tensor  # (B, 85)
    curvature: torch.Tensor  # (B, 85, 85)


def problem_of(compact: CompactBody, prior: PosePrior, case: str) -> tuple[Start, Observations]:
    """Four people: the first without 3D joints, the second without a keypoint, the others with some of both."""
    people = Problem(compact, prior, 4)
    generator = torch.Generator().manual_seed(0)
    observations = surround(people, 3, EVERY_JOINT, noise_px=20.0)
    if case == "one view":
        observations = Observations.of(people.noisy(EVERY_JOINT, 20.0))
    keypoints = observations.keypoints_px.clone()
    confidence = torch.rand(keypoints.shape[:3], generator=generator)
    keypoints[..., 2] = torch.where(confidence < 0.2, 0.0, confidence)
    keypoints[1] = 0
    joints = joints3d(people)
    joints[..., :3] += 0.1 * torch.randn(joints[..., :3].shape, generator=generator) + 1.0
    confidence = torch.rand(joints.shape[:2], generator=generator)
    joints[..., 3] = torch.where(confidence < 0.3, 0.0, confidence)
    joints[0, :, 3] = 0
    start = replace(people.near_truth(), betas=people.betas + 0.5)
    if case == "everything":
        return doubled(anchored(start)), doubled(Observations(keypoints, observations.views, joints))
    return doubled(start), doubled(Observations(keypoints, observations.views))


def by_machine_code(body: CompactBody, prior: PosePrior, start: Start, observations: Observations) -> Terms:
    machine = make_body(body, prior)
    tables, scratch, count = machine.tables[0], make_scratch(machine)[0], len(observations)
    constants = Weights(*(np.float64(w**2) for w in (MIXED.sigma_px, MIXED.bending_prior, MIXED.shape_prior, MIXED.joints3d)))
    held = (torch.zeros(count, 82).double(), torch.zeros(count, 82).double())
    if start.anchor is not None:
        held = torch.cat([start.anchor.pose_aa, start.anchor.betas], 1), start.anchor.precision(MIXED)
    joints = observations.joints3d_m
    weights = body_weights(observations.keypoints_px, MIXED.hips)[..., None]
    v = observations.views
    arrays = [
        np.ascontiguousarray(a.numpy())
        for a in (
            torch.cat([observations.keypoints_px[..., :2], weights], -1), v.rotation, v.translation_m, v.focal_px,
            v.principal_px, torch.zeros(count, 0, 4).double() if joints is None else joints, *held,
            pose_prior_weight(MIXED, start.anchor, start.betas[:, 0]),
        )
    ]  # fmt: skip
    x = levenberg_marquardt.parameters(start).numpy()
    out = Terms(*(torch.zeros(count, *shape, dtype=torch.float64) for shape in ((), (85,), (85, 85))))
    for i in range(count):  # with one scratch: what a sample leaves behind must not reach the next
        one = OneSample(*(a[i] for a in arrays))
        compiled.prepare(tables, one, scratch)
        found, component = compiled.cost(tables, machine.blend, constants, one, x[i], scratch)
        compiled.linearise(tables, machine.blend, constants, one, x[i], component, scratch)
        out.cost[i] = found
        out.gradient[i] = torch.from_numpy(scratch["gradient"][:85].copy())
        out.curvature[i] = torch.from_numpy(scratch["curvature"][:85, :85].copy())
    return out


@pytest.mark.parametrize("case", ["one view", "views", "everything"])
def test_derivatives_of_samples_that_see_different_things(body: BodyData, compact, prior, case: str) -> None:
    compact64, prior64 = CompactBody(body, torch.float64), load_pose_prior(dtype=torch.float64)
    start, observations = problem_of(compact, prior, case)
    system = levenberg_marquardt._System(compact64, prior64, MIXED, start, observations)
    x = levenberg_marquardt.parameters(start).requires_grad_()
    (whole,) = torch.autograd.grad(system.cost(x).sum(), x)
    curvature, half = system.linearise(x.detach())
    largest = whole.abs().amax(1, keepdim=True)
    assert ((2 * half - whole).abs() <= 1e-9 * largest).all()
    assert (torch.linalg.eigvalsh(curvature) > -1e-9 * curvature.abs().amax((1, 2))[:, None]).all()

    machine = by_machine_code(compact64, prior64, start, observations)
    assert torch.allclose(machine.cost, system.cost(x.detach()), rtol=1e-10)
    assert ((machine.gradient - half).abs() <= 1e-9 * largest).all()
    scale = curvature.diagonal(dim1=1, dim2=2).sqrt()
    away = (machine.curvature - curvature).triu().abs()
    assert (away <= 1e-9 * (scale[:, None] * scale[:, :, None] + 1e-9)).all()
