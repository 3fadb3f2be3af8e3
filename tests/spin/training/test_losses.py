"""The terms of the training loss, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spin.joints import JOINTS
from spin.rotations import axis_angle_to_matrix
from spin.training import losses as terms
from spin.training.config import LossWeights


def test_keypoint_loss_by_hand() -> None:
    """One annotated keypoint of confidence 0.5 is off by a half-width in x: 0.5 · 1² / (2 · 49 · 2)."""
    projected = torch.full((2, 49, 2), 50.0)
    keypoints = torch.cat([projected, torch.zeros(2, 49, 1)], -1)
    keypoints[0, 30] = torch.tensor([50.0 + 112.0, 50.0, 0.5])
    keypoints[0, 3] = torch.tensor([500.0, 50.0, 1.0])  # OpenPose: weight 0 by default
    keypoints[1, 40, :2] = torch.nan  # not seen
    weights = LossWeights()
    assert terms.keypoint_loss(projected, keypoints, weights).item() == pytest.approx(0.5 / (2 * 49 * 2))
    with_openpose = terms.keypoint_loss(projected, keypoints, LossWeights(openpose=2.0, ground_truth=0.0))
    assert with_openpose.item() == pytest.approx(2 * (450 / 112) ** 2 / (2 * 49 * 2), rel=1e-5)


def test_joint_loss_is_centred_between_the_hips() -> None:
    keypoints = torch.randn(2, 49, 3)
    joints = torch.cat([keypoints[:, JOINTS.superset] + 5.0, torch.ones(2, 24, 1)], -1)
    known = torch.tensor([True, True])
    assert terms.joint_loss(keypoints, joints, known).item() == pytest.approx(0, abs=1e-9)
    joints[0, 0, 1] += 0.3  # an ankle
    assert terms.joint_loss(keypoints, joints, known).item() == pytest.approx(0.09 / (2 * 24 * 3), rel=1e-3)
    joints[0, 2, 3] = 0.0  # without its right hip, the sample can't be centred
    assert terms.joint_loss(keypoints, joints, known).item() == pytest.approx(0, abs=1e-9)


def test_body_losses_average_over_valid_samples_only() -> None:
    rotations = axis_angle_to_matrix(torch.randn(3, 24, 3))
    target = axis_angle_to_matrix(torch.randn(3, 24, 3))
    valid = torch.tensor([True, False, True])
    expected = ((rotations - target)[valid] ** 2).mean()
    assert torch.allclose(terms.pose_loss(rotations, target, valid), expected)
    betas, true = torch.randn(2, 3, 10)
    assert torch.allclose(terms.betas_loss(betas, true, valid), ((betas - true)[valid] ** 2).mean())
    v, w = torch.randn(2, 3, 50, 3)
    assert torch.allclose(terms.shape_loss(v, w, valid), (v - w)[valid].abs().mean())


def test_camera_loss_pushes_the_scale_up() -> None:
    camera = torch.tensor([[0.05, 0, 0], [0.9, 0, 0]], requires_grad=True)
    loss = terms.camera_loss(camera)
    loss.backward()
    assert loss.item() == pytest.approx((np.exp(-1.0) + np.exp(-18.0)) / 2)
    assert camera.grad is not None
    assert camera.grad[0, 0] < 0


def test_nothing_valid_gives_zero_and_zero_gradients() -> None:
    """Also when what stands in for the unknown targets is NaN."""
    none = torch.zeros(2, dtype=torch.bool)
    rotations = torch.randn(2, 24, 3, 3, requires_grad=True)
    betas = torch.randn(2, 10, requires_grad=True)
    points = torch.randn(2, 49, 3, requires_grad=True)
    total = (
        terms.pose_loss(rotations, torch.full((2, 24, 3, 3), torch.nan), none)
        + terms.betas_loss(betas, torch.full((2, 10), torch.nan), none)
        + terms.joint_loss(points, torch.full((2, 24, 4), torch.nan), none)
        + terms.keypoint_loss(points[..., :2], torch.zeros(2, 49, 3), LossWeights())
        + terms.shape_loss(points, torch.full((2, 49, 3), torch.nan), none)
    )
    total.backward()
    assert total.item() == 0
    for tensor in (rotations, betas, points):
        assert tensor.grad is not None
        assert not tensor.grad.any()


def test_total_is_the_published_sum() -> None:
    one = torch.tensor(1.0)
    weights = LossWeights(shape=7.0)
    total = terms.total_loss(
        keypoints=2 * one,
        joints=3 * one,
        pose=5 * one,
        betas=11 * one,
        shape=13 * one,
        camera=17 * one,
        weights=weights,
    ).total
    assert total.item() == pytest.approx(60 * (5 * (2 + 3) + 5 + 0.001 * 11 + 7 * 13 + 17))
