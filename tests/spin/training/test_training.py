from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from spin.body import BodyMesh, CompactBody, load_body
from spin.camera import project, weak_to_translation
from spin.errors import TrainingError
from spin.joints import JOINTS, KEYPOINT_TO_MODEL
from spin.network.hmr import HMR, MeanParameters, Prediction
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from spin.training import losses as terms
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
from spin.training.device import to_device
from spin.training.step import Batch, step_losses, train_step
from spin.training.targets import GroundTruth, StoredFits, Targets, select_targets

CONFIG = StepConfig()


@pytest.fixture(scope="module")
def body() -> CompactBody:
    return CompactBody(load_body())


def random_body(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Poses (upright, facing anywhere), betas, and cameras that fill most of the crop."""
    g = torch.Generator().manual_seed(seed)
    pose = 0.3 * torch.randn(count, 72, generator=g, dtype=dtype)
    pose[:, 0] += torch.pi
    betas = torch.randn(count, 10, generator=g, dtype=dtype)
    weak = torch.tensor([0.9, 0.0, 0.0], dtype=dtype) + 0.1 * torch.randn(count, 3, generator=g, dtype=dtype)
    return pose, betas, weak_to_translation(weak)


def augmentations(flip: bool, rotation: float, scale: float, count: int = 4) -> Augmentations:
    none = Augmentations.none(count)
    return replace(
        none,
        flip=torch.full((count,), flip),
        rotation_deg=torch.full((count,), rotation),
        scale=torch.full((count,), scale),
    )


# ---- augmentation --------------------------------------------------------------------------------------


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


# ---- losses --------------------------------------------------------------------------------------------


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


# ---- targets -------------------------------------------------------------------------------------------


def fits(value: float, score: list[float]) -> StoredFits:
    """Fits whose pose and betas hold `value`, whose loss is their score."""
    n = len(score)
    return StoredFits(
        pose_aa=torch.full((n, 72), value),
        betas=torch.full((n, 10), value),
        camera_m=torch.zeros(n, 3),
        loss=torch.tensor(score),
        score=torch.tensor(score),
        valid=torch.ones(n, dtype=torch.bool),
    )


def no_truth(count: int) -> GroundTruth:
    nan = torch.full((count, 72), torch.nan)
    return GroundTruth(nan, nan[:, :10], torch.zeros(count, dtype=torch.bool))


def test_the_lower_score_wins_and_ties_stay() -> None:
    targets = select_targets(fits(1.0, [10, 50, 30]), fits(2.0, [20, 40, 30]), no_truth(3), CONFIG)
    assert targets.pose_aa[:, 0].tolist() == [1, 2, 1]
    assert targets.betas[:, 0].tolist() == [1, 2, 1]
    assert targets.improved.tolist() == [False, True, False]
    assert targets.valid.all()


def test_score_decides_and_loss_accepts() -> None:
    """A fit can have the better score and still not be good enough to supervise."""
    new = replace(fits(2.0, [1.0, 1.0]), loss=torch.tensor([150.0, 99.9]))
    targets = select_targets(fits(1.0, [5.0, 5.0]), new, no_truth(2), CONFIG)
    assert targets.improved.tolist() == [True, True]
    assert targets.valid.tolist() == [False, True]
    assert torch.equal(targets.pose_aa[0], torch.zeros(72))


@pytest.mark.parametrize(
    "spoiled",
    [
        {"pose_aa": torch.full((1, 72), torch.nan)},
        {"betas": torch.full((1, 10), 3.1)},
        {"betas": torch.full((1, 10), torch.nan)},
        {"score": torch.tensor([torch.nan])},
        {"loss": torch.tensor([torch.inf])},
        {"valid": torch.tensor([False])},
    ],
)
def test_a_spoiled_fit_never_wins_nor_blocks(spoiled: dict) -> None:
    bad = replace(fits(2.0, [0.0]), **spoiled)
    kept = select_targets(fits(1.0, [50.0]), bad, no_truth(1), CONFIG)
    assert (kept.pose_aa[0, 0], kept.improved, kept.valid) == (1.0, False, True)
    replaced = select_targets(bad, fits(1.0, [50.0]), no_truth(1), CONFIG)
    assert (replaced.pose_aa[0, 0].item(), replaced.improved.item(), replaced.valid.item()) == (
        1.0,
        True,
        True,
    )
    neither = select_targets(bad, bad, no_truth(1), CONFIG)
    assert not neither.valid.item()
    assert torch.isfinite(neither.pose_aa).all()


def test_truth_overrides_even_a_perfect_fit() -> None:
    truth = GroundTruth(torch.full((2, 72), 9.0), torch.full((2, 10), 9.0), torch.tensor([True, False]))
    targets = select_targets(fits(1.0, [0.0, 0.0]), None, truth, CONFIG)
    assert targets.pose_aa[:, 0].tolist() == [9, 1]
    assert targets.betas[:, 0].tolist() == [9, 1]
    hopeless = select_targets(fits(1.0, [500.0, 500.0]), None, truth, CONFIG)
    assert hopeless.valid.tolist() == [True, False]


# ---- the step ------------------------------------------------------------------------------------------

BATCH = 4


@dataclass
class Recorder:
    """A fitter that answers with given fits and remembers what it was asked."""

    answer: StoredFits
    asked: tuple[torch.Tensor, ...] | None = None

    def __call__(self, *arguments: torch.Tensor) -> StoredFits:
        self.asked = arguments
        return self.answer


def make_batch(body: CompactBody, a: Augmentations) -> Batch:
    pose, betas, camera = random_body(BATCH, seed=5)
    pixels = project(body.keypoints(body(pose, betas)), camera)
    torch.manual_seed(0)
    return Batch(
        sample_ids=tuple(f"coco:{i}" for i in range(BATCH)),
        images=torch.randn(BATCH, 3, 32, 32),
        keypoints_crop_px=torch.cat([pixels, torch.ones(BATCH, 49, 1)], -1),
        augmentations=a,
        truth=no_truth(BATCH),
        joints_m=torch.zeros(BATCH, 24, 4),
        joints_known=torch.zeros(BATCH, dtype=torch.bool),
    )


def make_network() -> tuple[HMR, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = HMR("resnet18", mean=MeanParameters.from_body_pose(torch.zeros(69)))
    return network, torch.optim.Adam(network.parameters(), lr=1e-4)


def true_fits(score: float) -> StoredFits:
    pose, betas, camera = random_body(BATCH, seed=5)
    return replace(fits(0.0, [score] * BATCH), pose_aa=pose, betas=betas.clamp(-3, 3), camera_m=camera)


def test_step_learns_from_the_better_fit_and_reports(body: CompactBody) -> None:
    network, optimiser = make_network()
    batch = make_batch(body, sample_augmentations(0, 0, ["a", "b", "c", "d"], AugmentationConfig()))
    fitter = Recorder(true_fits(2.0))
    stored = replace(true_fits(0.0), score=torch.tensor([1.0, 3.0, 1.0, 3.0]))
    before = network.decpose.weight.clone()
    result = train_step(network, optimiser, body, batch, fitter, stored, CONFIG, step=0)
    assert result.new_fits is fitter.answer
    assert result.improved.tolist() == [False, True, False, True]
    assert (result.share_improved, result.share_valid) == (0.5, 1.0)
    assert set(result.losses) == {"keypoints", "joints", "pose", "betas", "shape", "camera", "total"}
    assert set(result.timings_s) == {"forward", "fit", "backward"}
    assert result.gradient_norm > 0
    assert network.training
    assert not torch.equal(network.decpose.weight, before)


def test_fitter_is_asked_in_the_canonical_frame(body: CompactBody) -> None:
    """Its start, taken to the augmented frame, is the prediction; its keypoints are the batch's."""
    network, optimiser = make_network()
    network.drop1.p = network.drop2.p = 0.0
    a = augmentations(True, 30.0, 1.2, BATCH)
    batch = make_batch(body, a)
    expected = make_network()[0].train()
    expected.drop1.p = expected.drop2.p = 0.0
    with torch.no_grad():
        prediction = expected(batch.images)
        pelvis = body.from_rotations(prediction.rotations, prediction.betas)[:, 0]
    fitter = Recorder(true_fits(2.0))
    train_step(network, optimiser, body, batch, fitter, true_fits(1.0), CONFIG, step=0)
    assert fitter.asked is not None
    pose, betas, camera, keypoints = fitter.asked
    assert not any(t.requires_grad for t in fitter.asked)
    assert torch.equal(keypoints, batch.keypoints_crop_px)
    new_pose, new_camera = to_augmented(pose, camera, pelvis, a)
    rotations = axis_angle_to_matrix(new_pose.view(-1, 24, 3))
    assert torch.allclose(rotations, prediction.rotations, atol=1e-4)
    assert torch.allclose(new_camera, weak_to_translation(prediction.weak_camera), rtol=1e-4, atol=1e-4)
    assert torch.allclose(betas, prediction.betas, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_the_right_answer_costs_nothing(body: CompactBody, flip: bool) -> None:
    """A prediction of the true augmented body has no loss: targets, keypoints, joints share a frame."""
    pose, betas, camera = random_body(BATCH, seed=5)
    points = body(pose, betas)
    a = augmentations(flip, -40.0, 1.0, BATCH)
    batch = replace(
        make_batch(body, a),
        joints_m=torch.cat([body.keypoints(points)[:, JOINTS.superset], torch.ones(BATCH, 24, 1)], -1),
        joints_known=torch.ones(BATCH, dtype=torch.bool),
    )
    new_pose, new_camera = to_augmented(pose, camera, points[:, 0], a)
    weak = torch.stack([2 * 5000 / 224 / new_camera[:, 2], new_camera[:, 0], new_camera[:, 1]], 1)
    prediction = Prediction(axis_angle_to_matrix(new_pose.view(-1, 24, 3)), betas, weak)
    everything = torch.ones(BATCH, dtype=torch.bool)
    targets = Targets(pose, betas, everything, ~everything)
    config = StepConfig(weights=LossWeights(shape=1.0, openpose=1.0))
    mesh = BodyMesh(load_body())
    result = step_losses(body, prediction, body(new_pose, betas), targets, batch, config, mesh)
    for name, value in result.as_floats().items():
        assert value < 1e-4, name
    with pytest.raises(TrainingError, match="needs the full mesh"):
        step_losses(body, prediction, body(new_pose, betas), targets, batch, config)


def test_without_a_fitter_stored_fits_teach(body: CompactBody) -> None:
    network, optimiser = make_network()
    batch = make_batch(body, Augmentations.none(BATCH))
    result = train_step(network, optimiser, body, batch, None, true_fits(1.0), CONFIG, step=0)
    assert result.new_fits is None
    assert (result.share_improved, result.share_valid) == (0.0, 1.0)
    assert result.losses["pose"] > 0


def test_samples_without_any_target_still_teach_by_their_keypoints(body: CompactBody) -> None:
    network, optimiser = make_network()
    batch = make_batch(body, Augmentations.none(BATCH))
    missing = replace(fits(float("nan"), [float("nan")] * BATCH), valid=torch.zeros(BATCH, dtype=torch.bool))
    result = train_step(network, optimiser, body, batch, None, missing, CONFIG, step=0)
    assert (result.losses["pose"], result.losses["betas"], result.share_valid) == (0.0, 0.0, 0.0)
    assert result.losses["keypoints"] > 0


def test_repeated_steps_lower_the_loss(body: CompactBody) -> None:
    network, optimiser = make_network()
    batch = make_batch(body, Augmentations.none(BATCH))
    history = [
        train_step(network, optimiser, body, batch, None, true_fits(1.0), CONFIG, step=i).losses["total"] for i in range(8)
    ]
    assert np.mean(history[-3:]) < 0.8 * history[0]


def test_step_changes_none_of_its_inputs(body: CompactBody) -> None:
    network, optimiser = make_network()
    batch = make_batch(body, augmentations(True, 10.0, 0.9, BATCH))
    stored = replace(true_fits(1.0), score=torch.tensor([1.0, 3.0, 1.0, 3.0]))
    kept_keypoints, kept_pose = batch.keypoints_crop_px.clone(), stored.pose_aa.clone()
    train_step(network, optimiser, body, batch, Recorder(fits(0.5, [2.0] * BATCH)), stored, CONFIG, step=0)
    assert torch.equal(batch.keypoints_crop_px, kept_keypoints)
    assert torch.equal(stored.pose_aa, kept_pose)


def test_an_image_of_nan_is_named_and_nothing_is_learnt(body: CompactBody) -> None:
    """BatchNorm spreads one NaN image over the whole batch; the error still names the one."""
    network, optimiser = make_network()
    batch = make_batch(body, Augmentations.none(BATCH))
    batch.images[2, 0, 5, 5] = torch.nan
    before = network.fc2.weight.clone()
    with pytest.raises(TrainingError, match=r"step 41: the image is not a number for samples coco:2;"):
        train_step(network, optimiser, body, batch, None, true_fits(1.0), CONFIG, step=41)
    assert torch.equal(network.fc2.weight, before)


def test_a_loss_of_nan_is_named_with_its_term(body: CompactBody) -> None:
    network, optimiser = make_network()
    batch = make_batch(body, Augmentations.none(BATCH))
    batch.keypoints_crop_px[1, 30, 0] = torch.nan
    before = network.fc2.weight.clone()
    with pytest.raises(TrainingError, match=r"step 7: loss is not a number \(keypoints nan, total nan\).*coco:1"):
        train_step(network, optimiser, body, batch, None, true_fits(1.0), CONFIG, step=7)
    assert torch.equal(network.fc2.weight, before)


def test_a_batch_moves_whole(body: CompactBody) -> None:
    batch = make_batch(body, Augmentations.none(BATCH))
    moved = to_device(batch, "meta")
    for tensor in (moved.images, moved.truth.known, moved.augmentations.flip, moved.joints_m):
        assert tensor.device.type == "meta"
    assert moved.sample_ids == batch.sample_ids
    assert batch.images.device.type == "cpu"


def test_an_empty_batch_is_an_error(body: CompactBody) -> None:
    network, optimiser = make_network()
    batch = replace(make_batch(body, Augmentations.none(BATCH)), sample_ids=())
    with pytest.raises(TrainingError, match="step 0: the batch is empty"):
        train_step(network, optimiser, body, batch, None, true_fits(1.0), CONFIG, step=0)


def test_keypoints_are_points_of_the_model() -> None:
    """`points_m[:, 0]`, the pelvis that augmentation turns about, is OpenPose's mid hip."""
    assert KEYPOINT_TO_MODEL[JOINTS.index["OpenPose mid hip"]] == 0


def test_axis_angle_of_a_prediction_is_finite_at_half_turns() -> None:
    """The mean root is turned by pi exactly; the published conversion needed patching there."""
    rotations = axis_angle_to_matrix(torch.tensor([[torch.pi, 0, 0], [0, torch.pi, 0], [0, 0, 0]]))
    assert torch.isfinite(matrix_to_axis_angle(rotations)).all()
