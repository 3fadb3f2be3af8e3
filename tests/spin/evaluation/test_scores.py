"""Numbers of many samples against sums by hand, and intervals against what statistics promises."""

from __future__ import annotations

import numpy as np
import pytest

from spin.errors import KeypointError
from spin.evaluation.bootstrap import compare, resampled
from spin.evaluation.protocols import H36M_J14, PROTOCOLS, PoseErrors
from spin.evaluation.scores import Scores, concatenate
from spin.evaluation.segmentation import UNDECIDED, PixelCounts, count_pixels, f1


def pose_scores(errors_mm: np.ndarray) -> Scores:
    return Scores(H36M_J14, len(errors_mm), PoseErrors(errors_mm, errors_mm / 2))


def published_part_counts(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, int, int]:
    """A loop over the classes, by the rules of UP-3D's evaluation: undecided pixels count for no class, and as background."""
    counts = np.zeros((7, 3), int)
    for label in range(7):
        is_true, is_predicted = true == label, (predicted == label) & (true != 255)
        counts[label] = [
            (is_true & is_predicted).sum(), (~is_true & is_predicted).sum(), (is_true & ~is_predicted).sum()
        ]  # fmt: skip
    background = np.where(true == 255, 0, true)
    return counts, int((background == predicted).sum()), true.size


def test_pixels_by_hand() -> None:
    true = np.array([[0, 1, 1, UNDECIDED], [0, 0, 2, UNDECIDED]], np.uint8)
    predicted = np.array([[0, 1, 2, 1], [1, 0, 2, 0]], np.uint8)
    counts = count_pixels(predicted, true, 7)
    assert counts.by_class[0, :4].tolist() == [[2, 0, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert (counts.right[0], counts.all[0]) == (5, 8)
    assert f1(counts.by_class[0]) == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)


def test_pixels_are_the_published_loops() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        true = rng.choice([0, 1, 2, 3, 4, 5, 6, 255], (40, 30)).astype(np.uint8)
        predicted = rng.integers(0, 7, (40, 30)).astype(np.uint8)
        counts = count_pixels(predicted, true, 7)
        by_class, right, size = published_part_counts(predicted, true)
        assert np.array_equal(counts.by_class[0], by_class)
        assert (counts.right[0], counts.all[0]) == (right, size)


def test_foreign_labels_and_sizes_are_refused() -> None:
    good = np.zeros((4, 5), np.uint8)
    with pytest.raises(KeypointError, match="true labels hold 9"):
        count_pixels(good, good + 9, 7)
    with pytest.raises(KeypointError, match=r"\(4, 5\) pixels and true ones of \(5, 4\)"):
        count_pixels(good, good.T, 2)


def test_counts_are_added_up_before_they_are_divided() -> None:
    """A large person weighs more than a small one."""
    first, second = np.array([[90, 10, 0], [80, 0, 10]]), np.array([[1, 0, 3], [0, 3, 0]])
    counts = PixelCounts(np.stack([first, second]), np.array([170, 1]), np.array([180, 4]))
    metrics = Scores(H36M_J14, 2, mask=counts).metrics()
    assert metrics["mask_accuracy"] == pytest.approx(171 / 184)
    assert metrics["mask_f1"] == pytest.approx((182 / (182 + 10 + 3) + 160 / (160 + 3 + 10)) / 2)


def test_means_leave_out_what_is_not_known() -> None:
    errors = np.array([[10.0] * 14, [30.0] * 14, [np.nan] * 14])
    scores = Scores(H36M_J14, 3, PoseErrors(errors, errors / 2), np.array([5.0, np.nan, np.nan]))
    assert scores.metrics() == pytest.approx({"mpjpe_mm": 20, "pa_mpjpe_mm": 10, "per_vertex_error_mm": 5})
    assert scores.take(np.array([2])).metrics() == {}


def test_pck_is_of_the_protocols_that_have_it_also_on_fourteen_joints() -> None:
    protocol = PROTOCOLS["mpi-inf-3dhp-valid"]
    errors = np.full((2, 17), 200.0)
    errors[:, protocol.joints.index(0)] = 0.0  # the pelvis, which alignment puts on its place
    metrics = Scores(protocol, 2, PoseErrors(errors, errors)).metrics()
    assert metrics["pck_percent"] == pytest.approx(100 / 17)
    assert metrics["pck_14_percent"] == 0
    assert "pck_percent" not in pose_scores(errors[:, :14]).metrics()


def test_scores_go_into_arrays_and_back_and_together() -> None:
    rng = np.random.default_rng(1)
    counts = PixelCounts(rng.integers(0, 9, (5, 2, 3)), rng.integers(0, 9, 5), rng.integers(9, 20, 5))
    errors = rng.uniform(0, 99, (5, 14))
    scores = Scores(H36M_J14, 5, PoseErrors(errors, errors), rng.uniform(0, 9, 5), counts)
    back = Scores.of_arrays(H36M_J14, scores.arrays(), 5)
    halves = concatenate([scores.take(np.array([0, 1])), scores.take(np.array([2, 3, 4]))])
    assert back.metrics() == halves.metrics() == scores.metrics()
    with pytest.raises(ValueError, match="expected 4"):
        Scores.of_arrays(H36M_J14, scores.arrays(), 4)


def test_intervals_are_those_of_a_normal_mean_and_repeat() -> None:
    rng = np.random.default_rng(2)
    errors = np.repeat(rng.normal(100, 20, (400, 1)), 14, 1)
    groups = np.arange(400)
    draws = resampled(pose_scores(errors), groups, seed=3, draws=1000)["mpjpe_mm"]
    assert draws.std() == pytest.approx(20 / np.sqrt(400), rel=0.15)
    assert np.array_equal(draws, resampled(pose_scores(errors), groups, seed=3, draws=1000)["mpjpe_mm"])
    # Ten copies of each sample are no new observations if they are drawn together.
    copies, together = np.repeat(errors, 10, 0), np.repeat(groups, 10)
    grouped = resampled(pose_scores(copies), together, seed=3, draws=1000)["mpjpe_mm"]
    alone = resampled(pose_scores(copies), np.arange(4000), seed=3, draws=1000)["mpjpe_mm"]
    assert grouped.std() == pytest.approx(draws.std(), rel=1e-9)
    assert alone.std() < grouped.std() / 2


def test_pairing_sees_a_small_difference_that_chance_hides_otherwise() -> None:
    rng = np.random.default_rng(4)
    first = rng.normal(100, 30, (200, 1)) * np.ones(14)
    second = first - 1 + rng.normal(0, 1, (200, 1))
    groups = np.arange(200)
    scores = pose_scores(first), pose_scores(second)
    paired = compare(*scores, groups, groups, paired=True, seed=0, draws=500)["mpjpe_mm"]
    apart = compare(*scores, groups, groups, paired=False, seed=0, draws=500)["mpjpe_mm"]
    assert paired.difference.high < 0 < apart.difference.high
    assert paired.below_zero == 1.0
    assert paired.difference.value == pytest.approx(second.mean() - first.mean())
