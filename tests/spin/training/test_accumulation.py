"""The optimiser's step: of one batch or several, of a gradient that may be clipped; what the convolutions compute in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spin.body import CompactBody
from spin.network.hmr import HMR, MeanParameters
from spin.training.augment import Augmentations
from spin.training.step import Accumulation, train_step
from tests.spin.training.made_batches import (
    BATCH,
    CONFIG,
    augmentations,
    make_batch,
    make_network,
    true_fits,
)


def test_first_and_last_of_three() -> None:
    places = [Accumulation(3, i) for i in range(3)]
    assert [p.is_first for p in places] == [True, False, False]
    assert [p.is_last for p in places] == [False, False, True]
    assert Accumulation().is_first
    assert Accumulation().is_last


def test_half_precision_features_stay_near_and_weights_stay_whole() -> None:
    torch.manual_seed(0)
    network = HMR("resnet18", mean=MeanParameters.from_body_pose(torch.zeros(69))).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exact = network(images)
        network.features_dtype = torch.bfloat16
        rough = network(images)
    assert rough.rotations.dtype == torch.float32
    difference = (rough.rotations - exact.rotations).abs().max()
    assert 0 < difference < 0.05
    assert all(p.dtype == torch.float32 for p in network.parameters())
    network.features_dtype = torch.float32
    with torch.no_grad():
        assert torch.equal(network(images).rotations, exact.rotations)


@pytest.mark.parametrize("count", [1, 2])
def test_the_optimiser_follows_the_mean_gradient_at_the_last_batch(count: int, compact: CompactBody) -> None:
    """As of several workers, each with its own batch. Dropout is made to repeat."""
    batches = [
        make_batch(compact, Augmentations.none(BATCH)),
        make_batch(compact, augmentations(True, 10.0, 0.9, BATCH)),
    ]

    def gradients(places: list[tuple[int, Accumulation]]) -> dict[str, torch.Tensor]:
        network, optimiser = make_network()
        start = network.decpose.weight.clone()
        for number, accumulation in places:
            torch.manual_seed(number)
            train_step(
                network,
                optimiser,
                compact,
                batches[number],
                None,
                true_fits(1.0),
                CONFIG,
                step=0,
                accumulation=accumulation,
            )
            assert torch.equal(network.decpose.weight, start) != accumulation.is_last
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    alone = [gradients([(number, Accumulation())]) for number in range(count)]
    together = gradients([(number, Accumulation(count, number)) for number in range(count)])
    for name, gradient in together.items():
        mean = torch.stack([g[name] for g in alone]).mean(0)
        assert torch.allclose(gradient, mean, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("share", [0.25, 4.0])
def test_a_longer_gradient_is_shortened_to_the_limit(share: float, compact: CompactBody) -> None:
    """Plain descent moves the weights by the gradient: by the limit, or by all of a gradient that is shorter."""
    batch, moves = make_batch(compact, Augmentations.none(BATCH)), []
    norm = 0.0
    for clips in (False, True):
        network, _ = make_network()
        start = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
        config = replace(CONFIG, clip_norm=share * norm if clips else 0.0)
        torch.manual_seed(1)  # of the dropout
        descent = torch.optim.SGD(network.parameters(), lr=1e-3)
        found = train_step(network, descent, compact, batch, None, true_fits(1.0), config, step=0)
        norm = found.gradient_norm
        moves.append(torch.cat([p.detach().flatten() for p in network.parameters()]) - start)
    # the norm that is reported is the whole one
    assert moves[0].norm() == pytest.approx(1e-3 * norm, rel=1e-3)
    torch.testing.assert_close(moves[1], min(share, 1.0) * moves[0], rtol=1e-3, atol=1e-7)
