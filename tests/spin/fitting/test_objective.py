"""Each term of the objective by hand, and both solvers' derivatives against the objective itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spin.body import BodyData, CompactBody
from spin.fitting import levenberg_marquardt
from spin.fitting.compiled import objective as compiled
from spin.fitting.compiled.solve import Weights
from spin.fitting.compiled.tables import Problem as OneSample
from spin.fitting.compiled.tables import make_body, make_scratch
from spin.fitting.objective import (
    Anchor,
    Objective,
    anchor_cost,
    bending_cost,
    body_weights,
    geman_mcclure,
    joints3d_cost,
    noise_px,
    pose_prior_weight,
    prior_cost,
    reprojection_loss,
    total_cost,
)
from spin.fitting.observations import Observations, Views
from spin.fitting.prior import PosePrior, load_pose_prior
from spin.fitting.starts import Start
from spin.joints import JOINTS
from spin.rotations import axis_angle_to_matrix
from tests.spin.fit_problems import ANCHORED, EVERY_JOINT, PUBLISHED, Problem


def loss_of(compact: CompactBody, problem: Problem, keypoints: torch.Tensor) -> torch.Tensor:
    points = compact.keypoints(compact(problem.pose, problem.betas))
    return reprojection_loss(PUBLISHED, points, problem.camera, Observations.of(keypoints))


def test_the_published_weights() -> None:
    o = PUBLISHED
    assert (o.sigma_px, o.pose_prior, o.bending_prior, o.shape_prior, o.hips) == (100, 4.78, 15.2, 5, 0)
    assert not o.is_anchored
    assert ANCHORED.fingerprint != PUBLISHED.fingerprint
    with pytest.raises(ValueError, match="anchored or published"):
        Objective.named("new")


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
    loss = loss_of(compact, problem, keypoints)
    assert loss[0].item() == pytest.approx(0.5**2 * 5000 / 49, rel=1e-3)
    assert loss[1:].max() < 1e-3


def test_hips_and_neck_are_ignored_and_the_callers_tensor_stays(compact, problem) -> None:
    keypoints = problem.keypoints.clone()
    keypoints[:, list(JOINTS.ignored_in_body_term), :2] += 50
    before = keypoints.clone()
    assert loss_of(compact, problem, keypoints).max() < 1e-3
    assert (body_weights(keypoints)[:, list(JOINTS.ignored_in_body_term)] == 0).all()
    assert (body_weights(keypoints, 0.5)[:, list(JOINTS.ignored_in_body_term)] == 0.5).all()
    assert torch.equal(keypoints, before)
    # The anchored objective counts them.
    arguments = (problem.pose, problem.betas, problem.camera)
    costs = [
        total_cost(compact, load_pose_prior(), replace(PUBLISHED, hips=h), *arguments, Observations.of(keypoints))
        for h in (0.0, 1.0)
    ]
    expected = 5 * 2 * 1e4 * 2500 / (1e4 + 2500)  # five joints, two coordinates
    assert torch.allclose(costs[1] - costs[0], torch.full_like(costs[0], expected), rtol=1e-3)


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


def test_joints_in_3d_by_hand() -> None:
    points = torch.zeros(1, 49, 3)
    joints = torch.zeros(1, 24, 4)
    joints[0, 0] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    joints[0, 1] = torch.tensor([-1.0, 0.0, 0.0, 1.0])
    assert joints3d_cost(points, joints).item() == pytest.approx(2.0)
    moved = joints.clone()
    moved[..., :3] += torch.tensor([5.0, 6.0, 7.0])  # about any origin
    assert joints3d_cost(points, moved).item() == pytest.approx(2.0, rel=1e-4)
    joints[0, 1, 3] = 0.5  # weights 1 and 1/4: the centre is at 3/5
    assert joints3d_cost(points, joints).item() == pytest.approx(0.4**2 + 0.25 * 1.6**2)


def make_anchor(like: torch.Tensor, noise: float = 3.0) -> Anchor:
    zeros = torch.zeros(len(like), 82).to(like)
    sigma = torch.full_like(zeros, 0.5)
    return Anchor(zeros[:, :72], zeros[:, 72:], sigma[:, :72], sigma[:, 72:], torch.full_like(zeros[:, 0], noise))


def test_anchor_by_hand() -> None:
    pose, betas = torch.zeros(1, 72), torch.zeros(1, 10)
    pose[0, 5], betas[0, 2] = 0.2, 1.0
    objective = Objective(anchor=2.0, anchored_pose_prior=0.5)
    anchor = make_anchor(pose)
    assert anchor_cost(objective, anchor, pose, betas).item() == pytest.approx((2 * 3 / 0.5) ** 2 * (0.04 + 1))
    assert pose_prior_weight(objective, anchor, pose[:, 0]).item() == pytest.approx((0.5 * 3) ** 2)
    assert pose_prior_weight(objective, None, pose[:, 0]).item() == pytest.approx(4.78**2)


def test_noise_is_three_pixels_or_more_where_a_start_disagrees(compact, problem) -> None:
    points = compact.keypoints(compact(problem.pose, problem.betas))
    assert torch.allclose(noise_px(points, problem.camera, problem.observations), torch.tensor(3.0))
    keypoints = problem.keypoints.clone()
    keypoints[..., 0] += 12.0
    noisy = noise_px(points, problem.camera, Observations.of(keypoints))
    assert torch.allclose(noisy, torch.tensor(3 * 4**1.5), rtol=1e-3)


def test_total_cost_is_the_sum_of_its_terms(compact, prior, problem) -> None:
    arguments = (problem.pose, problem.betas, problem.camera)
    keypoints = Observations.of(problem.noisy(EVERY_JOINT, 5.0))
    points = compact.keypoints(compact(problem.pose, problem.betas))
    loss = reprojection_loss(PUBLISHED, points, problem.camera, keypoints)
    published = 49 * loss + prior_cost(prior, PUBLISHED, *arguments[:2])
    assert torch.allclose(total_cost(compact, prior, PUBLISHED, *arguments, keypoints), published)
    joints = torch.cat([points[:, JOINTS.superset] + 0.01 * torch.rand(24, 3), torch.ones(24, 24, 1)], -1)
    anchor, o = make_anchor(problem.pose), replace(ANCHORED, hips=0.0)
    whole = total_cost(compact, prior, o, *arguments, replace(keypoints, joints3d_m=joints), anchor)
    parts = 49 * loss + prior_cost(prior, o, *arguments[:2], anchor)
    parts += o.joints3d**2 * joints3d_cost(points, joints) + anchor_cost(o, anchor, *arguments[:2])
    assert torch.allclose(whole, parts, rtol=1e-5)


# ---- derivatives --------------------------------------------------------------------------------------------------------


class Hard:
    """Two views, confidences at random, 3D joints for some, an anchor: everything at once, in float64."""

    def __init__(self, body: BodyData) -> None:
        self.body, self.prior = CompactBody(body, torch.float64), load_pose_prior(dtype=torch.float64)
        small = Problem(CompactBody(body), load_pose_prior(), 4)
        generator = torch.Generator().manual_seed(0)
        turn = torch.tensor([[[0.0, 0, 0], [0.1, 0.5, -0.2]]], dtype=torch.float64).expand(4, 2, 3)
        views = Views(
            axis_angle_to_matrix(turn),
            torch.tensor([[[0.0, 0, 0], [12.0, 1.0, 5.0]]], dtype=torch.float64).expand(4, 2, 3),
            torch.tensor([[5000.0, 3000.0]], dtype=torch.float64).expand(4, 2),
            torch.full((4, 2, 2), 100.0, dtype=torch.float64),
        )
        pixels = views.project((small.points_m + small.camera[:, None]).double())
        pixels = pixels + 20 * torch.randn(pixels.shape, generator=generator).double()
        confidence = torch.rand(*pixels.shape[:3], 1, generator=generator).double()
        confidence[:, :, 30:34] = 0
        joints = torch.cat([small.points_m[:, JOINTS.superset], torch.rand(4, 24, 1, generator=generator)], -1).double()
        joints[..., :3] += 0.05 * torch.randn(4, 24, 3, generator=generator).double()
        joints[1, :, 3] = 0
        joints[2, 5:, 3] = 0
        self.observations = Observations(torch.cat([pixels, confidence], -1), views, joints)
        pose = (small.pose + 0.1 * torch.randn(small.pose.shape, generator=generator)).double()
        self.start = Start(pose, small.betas.double(), small.camera.double(), "file", make_anchor(pose))

    def x(self) -> torch.Tensor:
        return levenberg_marquardt.parameters(self.start)

    def system(self) -> levenberg_marquardt._System:
        return levenberg_marquardt._System(self.body, self.prior, ANCHORED, self.start, self.observations)

    def compiled(self, row: int) -> tuple[float, np.ndarray, np.ndarray]:
        """Cost, half gradient and half curvature of one sample, by the compiled functions."""
        o, anchor = ANCHORED, self.start.anchor
        assert anchor is not None and self.observations.joints3d_m is not None
        weights = body_weights(self.observations.keypoints_px, o.hips)
        keypoints = torch.cat([self.observations.keypoints_px[..., :2], weights[..., None]], -1)
        v = self.observations.views
        arrays = (
            keypoints, v.rotation, v.translation_m, v.focal_px, v.principal_px, self.observations.joints3d_m,
            torch.cat([anchor.pose_aa, anchor.betas], 1), anchor.precision(o),
        )  # fmt: skip
        prior = pose_prior_weight(o, anchor, self.x()[:, 0])
        one = OneSample(*(np.ascontiguousarray(a[row].numpy()) for a in arrays), prior[row].numpy()[()])
        constants = Weights(*(np.float64(c) for c in (o.sigma_px**2, o.bending_prior**2, o.shape_prior**2, o.joints3d**2)))
        body = make_body(self.body, self.prior)
        scratch, x = make_scratch(body)[0], self.x()[row].numpy()
        tables = body.tables[0]
        compiled.prepare(tables, one, scratch)
        cost, component = compiled.cost(tables, body.blend, constants, one, x, scratch)
        compiled.linearise(tables, body.blend, constants, one, x, component, scratch)
        return cost, scratch["gradient"][:85].copy(), scratch["curvature"][:85, :85].copy()


def test_the_torch_solvers_gradient_is_that_of_the_objective(body: BodyData) -> None:
    hard = Hard(body)
    system, x = hard.system(), hard.x().requires_grad_()
    (gradient,) = torch.autograd.grad(system.cost(x).sum(), x)
    curvature, half = system.linearise(x.detach())
    assert torch.allclose(2 * half, gradient, rtol=1e-6, atol=1e-6 * gradient.abs().max())
    assert (torch.linalg.eigvalsh(curvature) > -1e-6).all()


def test_the_compiled_solver_computes_what_the_torch_one_does(body: BodyData) -> None:
    hard = Hard(body)
    system = hard.system()
    costs, (curvature, gradient) = system.cost(hard.x()), system.linearise(hard.x())
    for row in range(4):
        cost, half, upper = hard.compiled(row)
        assert cost == pytest.approx(costs[row].item(), rel=1e-10)
        scale = gradient[row].abs().max().item()
        assert np.abs(half - gradient[row].numpy()).max() < 1e-9 * scale
        wanted = curvature[row].numpy()
        assert np.abs(np.triu(upper - wanted)).max() < 1e-9 * np.abs(wanted).max()


@pytest.mark.slow
def test_pose_blend_shapes_have_an_exact_gradient_in_the_compiled_solver(body: BodyData) -> None:
    """SMPL has them; the open body doesn't. Their curvature is left out there, by design."""
    rng = np.random.default_rng(0)
    hard = Hard(replace(body, posedirs=0.01 * rng.standard_normal((*body.v_template.shape, 207))))
    system, x = hard.system(), hard.x().requires_grad_()
    (gradient,) = torch.autograd.grad(system.cost(x).sum(), x)
    for row in range(2):
        cost, half, _ = hard.compiled(row)
        assert cost == pytest.approx(system.cost(x)[row].item(), rel=1e-10)
        assert np.abs(2 * half - gradient[row].numpy()).max() < 1e-9 * gradient[row].abs().max().item()
