"""Augmentation: a body, its keypoints and 3D joints are turned, mirrored and scaled alike, and turned back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from spin.body import CompactBody, load_body
from spin.camera import project
from spin.errors import TrainingError
from spin.joints import JOINTS, KEYPOINT_TO_MODEL
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from spin.training.augment import (
    Augmentations,
    augment_joints,
    augment_keypoints,
    augment_pose,
    sample_augmentations,
    to_augmented,
    to_canonical,
)
from spin.training.config import AugmentationConfig, LossWeights, StepConfig
from tests.spin.training.made_batches import (
    augmentations,
    random_body,
)


@pytest.fixture(scope="module")
def body() -> CompactBody:
    return CompactBody(load_body())


def test_augmentations_depend_on_seed_epoch_and_sample_alone() -> None:
    config = AugmentationConfig()
    ids = [f"coco:{i}" for i in range(20)]
    whole = sample_augmentations(1, 2, ids, config)
    alone = sample_augmentations(1, 2, ids[7:8], config)
    assert alone.scale[0] == whole.scale[7]
    assert torch.equal(alone.channel_gain[0], whole.channel_gain[7])
    for seed, epoch in ((1, 3), (2, 2)):
        assert not torch.equal(sample_augmentations(seed, epoch, ids, config).scale, whole.scale)


def test_augmentations_have_the_published_distributions() -> None:
    a = sample_augmentations(0, 0, [str(i) for i in range(4000)], AugmentationConfig())
    assert abs(a.flip.float().mean() - 0.5) < 0.03
    turned = a.rotation_deg[a.rotation_deg != 0]
    assert abs(len(turned) / 4000 - 0.4) < 0.03
    assert turned.abs().max() == 60
    assert abs(turned.std() - 30 * 0.96) < 1.5  # cutting at 2 σ takes 4 % off the deviation
    assert (a.scale.min(), a.scale.max()) == (0.75, 1.25)
    assert abs(((a.scale - 1).abs() < 0.2499).float().mean() - 0.683) < 0.03
    assert a.channel_gain.min() >= 0.6 - 1e-6
    assert a.channel_gain.max() <= 1.4 + 1e-6
    assert a.channel_gain[:, 0].std() == pytest.approx(0.8 / 12**0.5, abs=0.01)


def test_every_augmentation_can_be_turned_off() -> None:
    off = AugmentationConfig(rotation_deg=0, scale=0, noise=0, flip=0)
    a = sample_augmentations(0, 0, ["a", "b", "c"], off)
    none = Augmentations.none(3)
    for name in ("flip", "rotation_deg", "scale", "channel_gain"):
        assert torch.equal(getattr(a, name), getattr(none, name)), name
    assert sample_augmentations(0, 0, [], off).channel_gain.shape == (0, 3)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 25.0, -60.0])
def test_augmented_body_projects_on_augmented_keypoints(body: CompactBody, flip: bool, rotation: float) -> None:
    """Two ways to the same pixels: move the image's keypoints, or move the body and project it."""
    body64 = CompactBody(load_body(), dtype=torch.float64)
    pose, betas, camera = random_body(4, dtype=torch.float64)
    points = body64(pose, betas)
    pixels = project(body64.keypoints(points), camera)
    keypoints = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
    a = augmentations(flip, rotation, 1.0)
    a = replace(a, rotation_deg=a.rotation_deg.double(), scale=a.scale.double())
    new_pose, new_camera = to_augmented(pose, camera, points[:, 0], a)
    projected = project(body64.keypoints(body64(new_pose, betas)), new_camera)
    difference = projected - augment_keypoints(keypoints, a)[..., :2]
    assert difference.abs().max() < 1e-3


@pytest.mark.parametrize(("flip", "rotation", "scale"), [(False, 0.0, 1.25), (True, 40.0, 0.75)])
def test_scaling_is_exact_for_the_pelvis_and_nearly_for_the_rest(
    body: CompactBody, flip: bool, rotation: float, scale: float
) -> None:
    """Scale becomes depth, so the perspective within the body stays that of the other distance."""
    pose, betas, camera = random_body(4)
    points = body(pose, betas)
    pixels = project(body.keypoints(points), camera)
    keypoints = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
    a = augmentations(flip, rotation, scale)
    new_pose, new_camera = to_augmented(pose, camera, points[:, 0], a)
    assert torch.allclose(new_camera[:, 2] + points[:, 0, 2], scale * (camera[:, 2] + points[:, 0, 2]))
    projected = project(body.keypoints(body(new_pose, betas)), new_camera)
    error = (projected - augment_keypoints(keypoints, a)[..., :2]).norm(dim=-1)
    assert error[:, JOINTS.index["OpenPose mid hip"]].max() < 2e-3
    assert error.max() < 1


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [0.75, 1.0, 1.25])
def test_to_canonical_undoes_to_augmented(body: CompactBody, flip: bool, scale: float) -> None:
    pose, betas, camera = random_body(4, seed=3)
    pelvis = body(pose, betas)[:, 0]
    a = augmentations(flip, -35.0, scale)
    back_pose, back_camera = to_canonical(*to_augmented(pose, camera, pelvis, a), pelvis, a)
    turn = axis_angle_to_matrix(pose.view(4, 24, 3))
    assert torch.allclose(axis_angle_to_matrix(back_pose.view(4, 24, 3)), turn, atol=1e-5)
    assert torch.allclose(back_camera, camera, rtol=1e-6, atol=1e-5)


def test_each_sample_gets_its_own_augmentation() -> None:
    pose, _, camera = random_body(3)
    pelvis = torch.randn(3, 3)
    mixed = Augmentations(
        flip=torch.tensor([True, False, True]),
        rotation_deg=torch.tensor([0.0, 20.0, -50.0]),
        scale=torch.tensor([1.0, 0.8, 1.2]),
        channel_gain=torch.ones(3, 3),
    )
    together = to_augmented(pose, camera, pelvis, mixed)
    for i in range(3):
        row = slice(i, i + 1)
        one = Augmentations(mixed.flip[row], mixed.rotation_deg[row], mixed.scale[row], mixed.channel_gain[row])
        for whole, single in zip(together, to_augmented(pose[row], camera[row], pelvis[row], one)):
            assert torch.allclose(whole[row], single, atol=1e-6)


def test_mirrored_keypoints_swap_sides_and_keep_confidence() -> None:
    keypoints = torch.rand(1, 49, 3) * 200
    out = augment_keypoints(keypoints, augmentations(True, 0.0, 1.0, count=1))
    left, right = JOINTS.index["left wrist"], JOINTS.index["right wrist"]
    assert out[0, left, 0] == pytest.approx(224 - keypoints[0, right, 0].item(), abs=1e-4)
    assert torch.equal(out[0, left, 2], keypoints[0, right, 2])


@pytest.mark.parametrize("flip", [False, True])
def test_3d_joints_follow_the_body(body: CompactBody, flip: bool) -> None:
    """The superset's 3D joints of an augmented body are the augmented 3D joints, but for the translation."""
    pose, betas, _ = random_body(4)
    a = augmentations(flip, 30.0, 1.0)
    joints = body.keypoints(body(pose, betas))[:, JOINTS.superset]
    moved = augment_joints(torch.cat([joints, torch.ones(4, 24, 1)], -1), a)[..., :3]
    target = body.keypoints(body(augment_pose(pose, a), betas))[:, JOINTS.superset]
    assert torch.allclose(moved - moved[:, :1], target - target[:, :1], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LossWeights(pose=-1), "LossWeights.pose is -1"),
        (lambda: LossWeights(total=float("nan")), "LossWeights.total is nan"),
        (lambda: AugmentationConfig(scale=1.0), "AugmentationConfig.scale is 1.0, expected a share"),
        (lambda: AugmentationConfig(flip=2), "AugmentationConfig.flip"),
        (lambda: StepConfig(accept_beta=-3), "StepConfig.accept_beta"),
    ],
)
def test_wrong_settings_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make()


def test_keypoints_are_points_of_the_model() -> None:
    """`points_m[:, 0]`, the pelvis that augmentation turns about, is OpenPose's mid hip."""
    assert KEYPOINT_TO_MODEL[JOINTS.index["OpenPose mid hip"]] == 0


def test_axis_angle_of_a_prediction_is_finite_at_half_turns() -> None:
    """The mean root is turned by pi exactly; the published conversion needed patching there."""
    rotations = axis_angle_to_matrix(torch.tensor([[torch.pi, 0, 0], [0, torch.pi, 0], [0, 0, 0]]))
    assert torch.isfinite(matrix_to_axis_angle(rotations)).all()
