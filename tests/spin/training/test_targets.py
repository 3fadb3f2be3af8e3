"""Which body teaches: the better of two fits, unless the truth is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spin.training.targets import GroundTruth, select_targets
from tests.spin.training.made_batches import (
    CONFIG,
    fits,
    no_truth,
)


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
