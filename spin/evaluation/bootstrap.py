"""The uncertainty of a number from the choice of samples: bootstrap percentile intervals (Efron 1979)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spin.evaluation.scores import Scores, summable

if TYPE_CHECKING:
    from jaxtyping import Float, Int

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A number, and the bounds that hold it in a share of resamplings."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """A number of two results, and the difference second - first; `below_zero`: its share of resamplings below zero."""

    first: Interval
    second: Interval
    difference: Interval
    below_zero: float


def resampled(
    scores: Scores, groups: Int[np.ndarray, " N"], *, seed: int, draws: int = DRAWS
) -> dict[str, Float[np.ndarray, " draws"]]:
    """Return each number of `draws` resamplings. Each draws as many groups as there are; a group's samples are drawn together.

    The same seed and groups draw the same samples, so that numbers of two results of the same samples are paired.
    """
    parts = summable(scores)
    number = int(groups.max()) + 1 if len(groups) else 0
    sums = {}
    for name, (columns, _) in parts.items():
        total = np.zeros((number, columns.shape[1]))
        np.add.at(total, groups, columns)
        sums[name] = total
    drawn = {name: np.zeros((draws, total.shape[1])) for name, total in sums.items()}
    rng = np.random.default_rng(seed)
    for draw in range(draws):
        weight = np.bincount(rng.integers(number, size=number), minlength=number)
        for name, total in sums.items():
            drawn[name][draw] = weight @ total
    return {name: finish(drawn[name]) for name, (_, finish) in parts.items()}


def interval(value: float, draws: Float[np.ndarray, " d"], level: float = 0.95) -> Interval:
    """Return the percentile interval of a number. Draws that are not finite (no sample has a value) are ignored."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def compare(
    first: Scores,
    second: Scores,
    first_groups: Int[np.ndarray, " N"],
    second_groups: Int[np.ndarray, " M"],
    *,
    paired: bool,
    seed: int,
    draws: int = DRAWS,
) -> dict[str, Compared]:
    """Return each number that both have, with 95 % intervals. Paired: the samples are the same and are drawn together."""
    a = resampled(first, first_groups, seed=seed, draws=draws)
    b = resampled(second, second_groups, seed=seed if paired else seed + 1, draws=draws)
    values = first.metrics(), second.metrics()
    return {
        name: Compared(
            interval(values[0][name], a[name]),
            interval(values[1][name], b[name]),
            interval(values[1][name] - values[0][name], b[name] - a[name]),
            float((b[name] - a[name] < 0).mean()),
        )
        for name in values[0]
        if name in values[1]
    }
