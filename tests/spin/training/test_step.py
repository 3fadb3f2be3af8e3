"""One step of training: what teaches it, what it reports, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spin.body import BodyMesh, CompactBody, load_body
from spin.camera import weak_to_translation
from spin.errors import TrainingError
from spin.joints import JOINTS
from spin.network.hmr import Prediction
from spin.rotations import axis_angle_to_matrix
from spin.training.augment import (
    Augmentations,
    sample_augmentations,
    to_augmented,
)
from spin.training.config import AugmentationConfig, LossWeights, StepConfig
from spin.training.device import to_device
from spin.training.step import step_losses, train_step
from spin.training.targets import Targets
from tests.spin.training.made_batches import (
    BATCH,
    CONFIG,
    Recorder,
    augmentations,
    fits,
    make_batch,
    make_network,
    random_body,
    true_fits,
)


@pytest.fixture(scope="module")
def body() -> CompactBody:
    return CompactBody(load_body())


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
