from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from spin.errors import KeypointError
from spin.evaluation.metrics import (
    auc,
    error_2d_px,
    mpjpe_mm,
    pa_mpjpe_mm,
    pck,
    per_vertex_error_mm,
    procrustes_align,
)
from spin.evaluation.procrustes import align, similarity
from spin.evaluation.protocols import H36M_J14, H36M_TO_J17, PROTOCOLS, Protocol, pose_errors
from spin.joints import H36M_NAMES


def rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return q


def reference_procrustes(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """One sample, by the textbook: SVD of the covariance, the last axis flipped if the map would reflect."""
    p, t = predicted - predicted.mean(0), true - true.mean(0)
    u, s, vt = np.linalg.svd(p.T @ t)
    flip = np.eye(3)
    flip[2, 2] = np.sign(np.linalg.det(vt.T @ u.T))
    r = vt.T @ flip @ u.T
    scale = np.trace(flip @ np.diag(s)) / np.sum(p**2)
    return np.stack([scale * r @ point for point in p]) + true.mean(0)


def test_mpjpe_of_a_shift_is_its_length() -> None:
    true = np.random.default_rng(0).standard_normal((3, 14, 3))
    predicted = true + np.array([[[0.003, 0.004, 0.0]], [[0, 0, 0]], [[0, 0, -0.1]]])
    assert mpjpe_mm(predicted, true) == pytest.approx([5.0, 0.0, 100.0])
    assert per_vertex_error_mm(predicted, true) == pytest.approx([5.0, 0.0, 100.0])
    assert pa_mpjpe_mm(predicted, true) == pytest.approx([0, 0, 0], abs=1e-9)


def test_one_wrong_joint_counts_for_its_share() -> None:
    true = np.random.default_rng(0).standard_normal((1, 10, 3))
    predicted = true.copy()
    predicted[0, 3, 1] += 0.1
    assert mpjpe_mm(predicted, true) == pytest.approx([10.0])


def test_similarity_is_undone_exactly() -> None:
    rng = np.random.default_rng(1)
    true = rng.standard_normal((20, 14, 3))
    predicted = np.stack([rng.uniform(0.2, 3) * x @ rotation(rng).T + rng.standard_normal(3) for x in true])
    assert np.allclose(procrustes_align(predicted, true), true, atol=1e-12)


def test_reflection_is_not_undone() -> None:
    true = np.random.default_rng(2).standard_normal((4, 14, 3))
    mirrored = true * [-1, 1, 1]
    assert (pa_mpjpe_mm(mirrored, true) > 100).all()


def test_batch_equals_the_reference_sample_by_sample() -> None:
    rng = np.random.default_rng(3)
    true, predicted = rng.standard_normal((2, 50, 14, 3))
    predicted[::2] *= [-1, 1, 1]  # so that both signs of the determinant occur
    expected = np.stack([reference_procrustes(p, t) for p, t in zip(predicted, true)])
    assert np.abs(procrustes_align(predicted, true) - expected).max() < 1e-6
    error = 1000 * np.linalg.norm(expected - true, axis=-1).mean(1)
    assert np.abs(pa_mpjpe_mm(predicted, true) - error).max() < 1e-6


def test_alignment_is_the_best_one() -> None:
    """No nearby similarity has a smaller sum of squares."""
    rng = np.random.default_rng(4)
    true, predicted = rng.standard_normal((2, 1, 14, 3))
    best = procrustes_align(predicted, true)
    least = ((best - true) ** 2).sum()
    for _ in range(50):
        angle = rng.standard_normal(3) * 0.02
        turn = np.eye(3) + np.cross(np.eye(3), angle)
        moved = (1 + 0.02 * rng.standard_normal()) * best @ turn.T + 0.02 * rng.standard_normal(3)
        assert ((moved - true) ** 2).sum() > least


def test_coinciding_points_go_to_the_centre() -> None:
    true = np.random.default_rng(5).standard_normal((1, 14, 3))
    aligned = procrustes_align(np.ones((1, 14, 3)), true)
    assert np.allclose(aligned, true.mean(1, keepdims=True))


def test_2d_error_is_weighted_and_absent_where_nothing_is_seen() -> None:
    true = np.zeros((2, 3, 2))
    true[:, 2] = np.nan
    predicted = np.zeros((2, 3, 2))
    predicted[:, 0] = [3, 4]
    error = error_2d_px(predicted, true, np.array([[1.0, 3.0, 0.0], [0, 0, 0]]))
    assert error[0] == pytest.approx(5 / 4)
    assert np.isnan(error[1])


def test_not_a_number_is_an_error_that_names_the_sample() -> None:
    good, bad = np.zeros((3, 14, 3)), np.zeros((3, 14, 3))
    bad[1, 5, 2] = np.nan
    with pytest.raises(KeypointError, match=r"predicted points of 1 of 3 samples .*first: sample 1"):
        mpjpe_mm(bad, good)
    with pytest.raises(KeypointError, match="true points"):
        pa_mpjpe_mm(good, bad)
    with pytest.raises(KeypointError, match=r"predicted \(3, 14, 3\) and true \(3, 17, 3\)"):
        mpjpe_mm(good, np.zeros((3, 17, 3)))
    with pytest.raises(KeypointError, match="confidences"):
        error_2d_px(good[..., :2], good[..., :2], np.full((3, 14), np.nan))


def test_protocol_takes_the_pelvis_before_it_selects() -> None:
    """The published rule: joint 0 of the 17 is subtracted, although it is not one of the 14."""
    rng = np.random.default_rng(6)
    predicted, true = rng.standard_normal((2, 8, 17, 3))
    scores = pose_errors(predicted, true)
    j14 = list(H36M_J14.joints)
    assert 0 not in j14
    p, t = predicted[:, j14] - predicted[:, [0]], true[:, j14] - true[:, [0]]
    expected = 1000 * np.sqrt(((p - t) ** 2).sum(-1)).mean(1)
    assert np.allclose(scores.mpjpe_mm, expected, atol=1e-6)
    aligned = np.stack([reference_procrustes(a, b) for a, b in zip(p, t)])
    assert np.allclose(scores.pa_mpjpe_mm, 1000 * np.linalg.norm(aligned - t, axis=-1).mean(1), atol=1e-6)


def test_moving_the_person_changes_nothing_but_its_pelvis_does() -> None:
    rng = np.random.default_rng(7)
    predicted, true = rng.standard_normal((2, 4, 17, 3))
    scores = pose_errors(predicted, true)
    moved = pose_errors(predicted + 3.0, true - 2.0)
    assert np.allclose(moved.mpjpe_mm, scores.mpjpe_mm)
    predicted[:, 0] += 0.5
    assert not np.allclose(pose_errors(predicted, true).mpjpe_mm, scores.mpjpe_mm)
    assert np.allclose(pose_errors(predicted, true).pa_mpjpe_mm, scores.pa_mpjpe_mm)


def test_card_states_the_protocol_and_goes_into_json() -> None:
    card = H36M_J14.card()
    assert json.loads(json.dumps(card)) == card
    assert card["joints"] == [H36M_NAMES[i] for i in H36M_J14.joints]
    assert "pelvis (joint 0 of" in str(card["pelvis"])


def test_j14_are_lsps_joints_in_its_order() -> None:
    assert [H36M_NAMES[i] for i in H36M_J14.joints] == [
        *("right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle"),
        *("right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist"),
        *("neck", "head top"),
    ]


def test_wrong_shapes_and_joints_are_named() -> None:
    with pytest.raises(KeypointError, match=r"shape \(2, 14, 3\), expected \(N, 17, 3\)"):
        pose_errors(np.zeros((2, 14, 3)), np.zeros((2, 17, 3)))
    with pytest.raises(KeypointError, match=r"\[17\]"):
        Protocol("mine", joints=(1, 17))


def test_the_seventeen_are_the_published_order() -> None:
    """MPI-INF-3DHP: LSP's fourteen, then pelvis, spine and jaw."""
    assert H36M_TO_J17 == (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10, 0, 7, 9)
    assert PROTOCOLS["mpi-inf-3dhp-valid"].joints == H36M_TO_J17
    assert all(PROTOCOLS[name].joints == H36M_TO_J17[:14] for name in ("h36m-p1", "h36m-p2", "3dpw"))


def test_pck_and_auc_by_hand() -> None:
    errors = np.array([[0.0, 149.9, 150.0, 1000.0], [4.9, 5.0, 74.0, 76.0]])
    assert pck(errors) == pytest.approx([50.0, 100.0])
    # thresholds 0, 5, …, 150: an error counts from the first one above it
    assert auc(errors) == pytest.approx([100 * (30 + 1) / 31 / 4, 100 * (30 + 29 + 16 + 15) / 31 / 4])
    thresholds = np.arange(0, 155, 5)
    random = np.random.default_rng(0).uniform(0, 200, (50, 17))
    by_loop = [100 * np.mean([(sample < t).mean() for t in thresholds]) for sample in random]
    assert auc(random) == pytest.approx(by_loop)


def test_procrustes_of_every_kind_of_points_is_the_svds() -> None:
    """Random, near, flat, on a line, in one place, reflected, tiny and large sets in one call."""
    rng = np.random.default_rng(8)
    true = rng.standard_normal((400, 14, 3))
    predicted = true + rng.standard_normal(true.shape) * rng.choice([1e-6, 0.1, 3.0], (400, 1, 1))
    predicted[:40, :, 2] = 0
    true[20:60, :, 1] = 0
    predicted[60:70] = predicted[60:70, :, :1] * [1.0, -0.5, 2.0]
    predicted[70:75] = 2.0
    predicted[75:120] = true[75:120] * [1.0, 1.0, -1.0]
    true[120:130] *= 1e-4
    true[130:140] *= 1e4
    aligned = align(torch.from_numpy(predicted), torch.from_numpy(true)).numpy()
    unique = np.r_[0:60, 75:400]  # of a line's points only the error is unique
    expected = np.stack([reference_procrustes(p, t) for p, t in zip(predicted[unique], true[unique])])
    size = np.linalg.norm(true[unique], axis=(1, 2))
    residual, expected_residual = (np.linalg.norm(x - true[unique], axis=(1, 2)) / size for x in (aligned[unique], expected))
    assert residual == pytest.approx(expected_residual, abs=1e-12)
    assert np.allclose(aligned[70:75], true[70:75].mean(1, keepdims=True))
    found = similarity(torch.from_numpy(predicted), torch.from_numpy(true))
    assert np.allclose(found.apply(torch.from_numpy(predicted)), aligned, atol=1e-9 * size.max())
    eye = (found.rotation @ found.rotation.transpose(1, 2)).numpy()
    assert np.allclose(eye, np.eye(3), atol=1e-10)
    assert torch.det(found.rotation) == pytest.approx(np.ones(400))


def test_a_line_is_laid_on_a_line() -> None:
    rng = np.random.default_rng(9)
    along = rng.standard_normal((5, 14, 1))
    true = 0.3 * along * [0.0, 0.6, 0.8] + 1.0
    assert np.allclose(procrustes_align(along * [1.0, 0.0, 0.0], true), true, atol=1e-12)
