"""The lifter, its training, its files, and the scorer that it makes possible."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from spin.body import BodyData, CompactBody
from spin.body.model_file import OPEN_BODY
from spin.errors import ModelFileError
from spin.fitting.lifter import (
    OPEN_LIFTER,
    Lifter,
    LifterInfo,
    find_lifter,
    load_lifter,
    merge_places,
    save_lifter,
)
from spin.fitting.lifter_training import train_lifter
from spin.fitting.observations import Observations
from spin.fitting.prior import PosePrior
from spin.fitting.sampling import MIN_VISIBLE, PoseSource, detect, draw_people
from spin.fitting.scorer import FitScorer, aligned_distance_mm
from spin.fitting.scorer_calibration import calibrated_weights
from spin.joints import JOINTS, KEYPOINT_TO_MODEL, PLACE_MIRROR, PLACES
from spin.rotations import axis_angle_to_matrix, mirror_pose
from tests.spin.fit_problems import Problem


def test_places_are_what_keypoints_name_and_have_mirror_images() -> None:
    assert len(PLACES) == 34 and set(PLACES) == set(KEYPOINT_TO_MODEL)
    assert [PLACE_MIRROR[i] for i in PLACE_MIRROR] == list(range(34))


def test_keypoints_of_one_place_are_merged_by_confidence() -> None:
    keypoints = torch.zeros(1, 49, 3)
    openpose, superset = JOINTS.named_twice[0]
    keypoints[0, openpose] = torch.tensor([10.0, 0.0, 0.75])
    keypoints[0, superset] = torch.tensor([20.0, 4.0, 0.25])
    place = merge_places(keypoints)[0, PLACES.index(KEYPOINT_TO_MODEL[openpose])]
    assert place.tolist() == pytest.approx([12.5, 1.0, 0.75])
    assert (merge_places(keypoints)[0, :, 2] > 0).sum() == 1


def test_the_mirror_image_is_lifted_to_the_mirrored_body(compact, lifter, problem) -> None:
    keypoints = problem.noisy(JOINTS.coco, 2.0)
    mirrored = keypoints[:, list(JOINTS.mirror)] * torch.tensor([-1.0, 1, 1])
    straight, other = lifter.lift(compact, keypoints), lifter.lift(compact, mirrored)
    wanted = axis_angle_to_matrix(mirror_pose(straight.pose_aa).view(-1, 24, 3))
    assert torch.allclose(axis_angle_to_matrix(other.pose_aa.view(-1, 24, 3)), wanted, atol=1e-4)
    assert torch.allclose(straight.error_mm, other.error_mm, rtol=1e-4)


def test_place_size_and_batch_do_not_matter(compact, lifter, problem) -> None:
    keypoints = problem.noisy(JOINTS.lsp, 2.0)
    moved = keypoints * torch.tensor([3.0, 3, 1]) + torch.tensor([40.0, -9, 0])
    moved[keypoints[..., 2] == 0] = 0
    whole = lifter.lift(compact, keypoints)
    assert torch.allclose(lifter.lift(compact, moved).betas, whole.betas, atol=1e-3)
    assert torch.allclose(lifter.lift(compact, keypoints[3:4]).betas, whole.betas[3:4], atol=1e-5)
    nothing = lifter.lift(compact, torch.zeros(2, 49, 3))
    assert torch.isfinite(nothing.pose_aa).all() and (nothing.error_mm > whole.error_mm.mean()).all()


def tiny(body: BodyData, seed: int = 0, steps: int = 80) -> LifterInfo:
    return LifterInfo(body.fingerprint, steps, seed, "test", 32, 1)


def test_training_lowers_the_loss_and_repeats(body: BodyData, compact: CompactBody, prior: PosePrior) -> None:
    seen: list[dict[str, float]] = []

    def train(seed: int, steps: int) -> Lifter:
        return train_lifter(
            compact,
            PoseSource(prior),
            tiny(body, seed, steps),
            progress=lambda _, figures: seen.append(figures),
        )

    first, again, other = train(0, 3), train(0, 3), train(1, 3)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    seen.clear()
    train(0, 301)
    assert seen[-1]["points_mm"] < 0.7 * seen[0]["points_mm"]


def test_a_file_keeps_a_lifter(body: BodyData, compact, lifter, problem, tmp_path: Path) -> None:
    path = tmp_path / "lifter.npz"
    with path.open("wb") as handle:
        save_lifter(handle, lifter)
    again = load_lifter(path, body.fingerprint)
    keypoints = problem.noisy(JOINTS.coco, 2.0)
    a, b = lifter.lift(compact, keypoints), again.lift(compact, keypoints)
    assert torch.allclose(a.pose_aa, b.pose_aa, atol=0.05)
    with pytest.raises(ModelFileError, match=r"another-body.*train-lifter|train one with"):
        load_lifter(path, "another-body")


@pytest.mark.parametrize("content", ["nothing", "cut", "other", "pickled", "uncalibrated", "negative"])
def test_what_is_no_lifter_is_refused(body: BodyData, tmp_path: Path, content: str) -> None:
    path = tmp_path / "lifter.npz"
    whole = OPEN_LIFTER.read_bytes()
    if content == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "other":
        np.savez(path, a=np.zeros(3))
    elif content == "pickled":
        buffer = io.BytesIO()
        np.savez(buffer, info_body=np.array([{"a": 1}], object))
        path.write_bytes(buffer.getvalue())
    elif content in ("uncalibrated", "negative"):
        arrays = dict(np.load(OPEN_LIFTER, allow_pickle=False))
        np.savez(path, **arrays | {"judge_views": arrays["judge_views"] * (0 if content == "uncalibrated" else -1)})
    with pytest.raises(ModelFileError):
        load_lifter(path, body.fingerprint)


def test_which_lifter_a_body_has(tmp_path: Path) -> None:
    assert find_lifter(tmp_path, OPEN_BODY) == OPEN_LIFTER
    with pytest.raises(ModelFileError, match="spin-pipe train-lifter"):
        find_lifter(tmp_path, tmp_path / "SMPL_NEUTRAL.pkl")
    (tmp_path / "lifter.npz").touch()
    assert find_lifter(tmp_path, tmp_path / "SMPL_NEUTRAL.pkl") == tmp_path / "lifter.npz"


def test_detections_are_some_of_a_sets_joints(compact, prior) -> None:
    people = draw_people(compact, PoseSource(prior), 64, torch.Generator().manual_seed(0))
    found = detect(people.pixels, torch.Generator().manual_seed(1))
    again = detect(people.pixels, torch.Generator().manual_seed(1))
    assert torch.equal(found, again)
    assert ((found[..., 2] > 0).sum(1) >= MIN_VISIBLE).all()
    assert (found[..., 2] >= 0).all() and (found[..., 2] <= 1).all()
    assert (found[found[..., 2] == 0] == 0).all()


# ---- the scorer ----------------------------------------------------------------------------------------------------------


def test_the_scorer_prefers_the_true_body_and_knows_no_neighbours(compact, prior, lifter) -> None:
    people = Problem(compact, prior, 96, seed=4)
    scorer, observations = FitScorer(compact, lifter), Observations.of(people.noisy(JOINTS.coco, 2.0))
    basis = scorer.basis(observations)
    generator = torch.Generator().manual_seed(0)
    wrong = people.pose + 0.4 * torch.randn(people.pose.shape, generator=generator)
    scores = [scorer.expected_error_mm(basis, compact(pose, people.betas), people.camera) for pose in (people.pose, wrong)]
    assert (scores[0] < scores[1]).float().mean() > 0.85
    alone = scorer.basis(observations.take(torch.tensor([5])))
    points = compact(people.pose[5:6], people.betas[5:6])
    one = scorer.expected_error_mm(alone, points, people.camera[5:6])
    assert one.item() == pytest.approx(scores[0][5].item(), rel=1e-3)
    signs = scorer.terms(basis, compact(people.pose, people.betas), people.camera, "single")
    assert (signs >= 0).all()
    assert (lifter.get_buffer("judge_single") >= 0).all()


def test_aligned_distance_is_that_of_the_metrics(compact, problem) -> None:
    from spin.evaluation.metrics import pa_mpjpe_mm

    a, b = compact(problem.pose, problem.betas), compact(problem.pose.flip(0), problem.betas)
    expected = pa_mpjpe_mm(a.numpy(), b.numpy())
    assert np.allclose(aligned_distance_mm(a, b).numpy(), expected, rtol=1e-3)


def test_calibration_finds_the_weights_that_made_the_errors() -> None:
    rng = np.random.default_rng(0)
    signs = rng.uniform(0, 1000, (4000, 3))
    weights = np.array([0.5, 0.0, 2.0])
    errors = np.sqrt(signs @ weights) * rng.uniform(0.9, 1.1, 4000)
    assert np.allclose(calibrated_weights(signs, errors), weights, atol=0.08)
