"""Shares of data sets, and the order that training takes their samples in."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipelines.errors import UsageError
from pipelines.training.batch_plan import Place, Plan, shares_of

PUBLISHED = {
    "h36m": 312_188,
    "lsp-orig": 1_000,
    "mpii": 14_810,
    "lspet": 9_427,
    "coco": 28_344,
    "mpi-inf-3dhp": 96_507,
}


def test_published_shares() -> None:
    """SPIN: 30 % Human3.6M, 10 % MPI-INF-3DHP, 60 % in the wild by size."""
    shares = shares_of(PUBLISHED, {})
    wild = sum(PUBLISHED[n] for n in ("lsp-orig", "mpii", "lspet", "coco"))
    assert shares["h36m"] == pytest.approx(0.3)
    assert shares["mpi-inf-3dhp"] == pytest.approx(0.1)
    assert shares["coco"] == pytest.approx(0.6 * PUBLISHED["coco"] / wild)
    assert list(shares) == list(PUBLISHED)
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("sizes", "named", "expected"),
    [
        ({"mine": 7}, {}, {"mine": 1}),
        ({"mine": 30, "yours": 10}, {}, {"mine": 0.75, "yours": 0.25}),
        ({"h36m": 5, "coco": 50}, {}, {"h36m": 1 / 3, "coco": 2 / 3}),
        ({"h36m": 5, "mpi-inf-3dhp": 50}, {}, {"h36m": 0.75, "mpi-inf-3dhp": 0.25}),
        ({"coco": 50, "mine": 50}, {"mine": 0.8}, {"coco": 0.2, "mine": 0.8}),
        ({"h36m": 1, "coco": 1, "mine": 1}, {"mine": 0.1}, {"h36m": 0.3, "coco": 0.6, "mine": 0.1}),
        ({"coco": 1, "mine": 99}, {"mine": 1, "coco": 3}, {"coco": 0.75, "mine": 0.25}),
    ],
)
def test_shares_where_sets_are_absent_or_named(sizes, named, expected) -> None:
    assert shares_of(sizes, named) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"other": 0.5}, "--mix other: not among the data sets trained on"),
        ({"a": 0.0}, r"--mix a=0: expected a share above 0"),
        ({"a": float("nan")}, "--mix a=nan"),
        ({"a": 1.0}, "leaves nothing for b"),
    ],
)
def test_senseless_shares_are_refused(named, message) -> None:
    with pytest.raises(UsageError, match=message):
        shares_of({"a": 1, "b": 1}, named)


def plans(**changes) -> list[Plan]:
    settings = {"sizes": (40, 6, 300), "batch": 10, "world": 2, "seed": 3, "shares": (0.3, 0.1, 0.6)}
    return [Plan(**settings | changes, rank=r) for r in (0, 1)]


def test_every_batch_is_mixed_as_asked_and_an_epoch_is_as_long_as_the_largest_set() -> None:
    both = plans()
    assert both[0].batches_per_epoch == 15
    counts = np.zeros(3, int)
    for plan in both:
        for batch in range(15):
            sets = np.searchsorted([40, 46], plan.indices(Place(2, batch)), side="right")
            found = np.bincount(sets, minlength=3)
            assert np.abs(found - [3, 1, 6]).max() <= 1
            counts += found
    assert counts.tolist() == [90, 30, 180]


def test_in_an_epoch_no_sample_belongs_to_two_workers_and_others_come_next_time() -> None:
    seen = [[Counter(np.concatenate([p.indices(Place(e, b)) for b in range(15)]).tolist()) for p in plans()] for e in (0, 1)]
    for first, second in seen:
        assert not first.keys() & second.keys()
    large = [{i for worker in epoch for i in worker if i >= 46} for epoch in seen]
    assert all(count == 1 for worker in seen[0] for i, count in worker.items() if i >= 46)
    assert large[0] != large[1]
    small = sum(seen[0], Counter())
    assert {small[i] for i in range(40, 46)} == {5}  # 30 draws of six samples


def test_the_mixed_order_repeats_and_depends_on_the_seed() -> None:
    place = Place(1, 4)
    assert np.array_equal(plans()[0].indices(place), plans()[0].indices(place))
    assert not np.array_equal(plans()[0].indices(place), plans(seed=4)[0].indices(place))


def test_without_shuffling_the_order_is_the_data_sets() -> None:
    first, second = (Plan((7, 5), 2, 2, r, 0, shuffle=False) for r in (0, 1))
    assert [first.indices(Place(e, b)).tolist() for e in (0, 5) for b in (0, 2)] == [[0, 1], [8, 9]] * 2
    assert second.indices(Place(0, 0)).tolist() == [2, 3]
    mixed = Plan((4, 2), 2, 1, 0, 9, shares=(0.5, 0.5), shuffle=False)
    assert sorted(mixed.indices(Place(0, 0)).tolist()) == [0, 4]


def test_a_worker_without_a_sample_of_a_tiny_set_takes_from_the_others() -> None:
    two = [Plan((1, 20), 5, 2, r, 0, shares=(0.5, 0.5)) for r in (0, 1)]
    owners = [bool((p.indices(Place(0, 0)) == 0).any()) for p in two]
    assert owners == [True, False]
    assert all(len(p.indices(Place(0, b))) == 5 for p in two for b in range(2))


def test_more_workers_than_samples_in_any_set_share_them() -> None:
    plans = [Plan((1, 2), 2, 3, r, 0, shares=(0.5, 0.5)) for r in range(3)]
    assert all(len(p.indices(Place(0, 0))) == 2 for p in plans)
