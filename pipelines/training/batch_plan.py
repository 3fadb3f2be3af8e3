"""How data sets share a batch, and which samples a worker takes at which step.

Both are functions of (seed, epoch, step, rank) alone: resuming at a step gives what not stopping would have given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Int

    from pipelines.training.config import TrainConfig

# The published mix (SPIN, section 4.1 and its MixedDataset): what has a share of its own; all others are in the wild, and share
# the rest by their size.
PUBLISHED_SHARES = {"h36m": 0.3, "mpi-inf-3dhp": 0.1}


def shares_of(sizes: Mapping[str, int], named: Mapping[str, float]) -> dict[str, float]:
    """Each data set's share of the samples that training sees, in the order of `sizes`; they add up to 1.

    `named` shares are taken as they are; if every set is named, in proportion. The others divide what is left as published:
    30 parts Human3.6M, 10 MPI-INF-3DHP, 60 what is in the wild, by size; a part nobody fills goes to the others.
    Raises UsageError.
    """
    unknown = [name for name in named if name not in sizes]
    if unknown:
        raise UsageError(f"--mix {unknown[0]}: not among the data sets trained on ({', '.join(sizes)})")
    wrong = [name for name, share in named.items() if not (share > 0 and math.isfinite(share))]
    if wrong:
        raise UsageError(f"--mix {wrong[0]}={named[wrong[0]]:g}: expected a share above 0, as 0.3")
    taken, others = sum(named.values()), [name for name in sizes if name not in named]
    if not others:
        return {name: named[name] / taken for name in sizes}
    if taken >= 1:
        raise UsageError(
            f"--mix: the shares named add up to {taken:g}, which leaves nothing for {', '.join(others)}; "
            "expected less than 1, or a share for every data set"
        )
    parts = {name: PUBLISHED_SHARES[name] for name in others if name in PUBLISHED_SHARES}
    wild = {name: sizes[name] for name in others if name not in PUBLISHED_SHARES}
    rest = 1 - sum(PUBLISHED_SHARES.values())
    parts |= {name: rest * size / sum(wild.values()) for name, size in wild.items()}
    scale = (1 - taken) / sum(parts.values())
    return {name: named[name] if name in named else parts[name] * scale for name in sizes}


@dataclass(frozen=True)
class Place:
    """Where in training a batch belongs."""

    epoch: int
    batch: int  # within the epoch


@dataclass(frozen=True)
class Plan:
    """The samples of one worker, step by step. Samples of all data sets are counted through, in the order of `sizes`.

    Shares in proportion to the sizes (or none given): an epoch is every sample once, less those that fill no batch. Other
    shares: an epoch is as many samples as the largest data set has, as published; a set is gone through as often as its
    share asks for. In an epoch no sample belongs to two workers.
    """

    sizes: tuple[int, ...]
    batch: int
    world: int
    rank: int
    seed: int
    shares: tuple[float, ...] = ()
    shuffle: bool = True

    @cached_property
    def _proportional(self) -> bool:
        total = sum(self.sizes)
        return not self.shares or all(
            math.isclose(share, size / total, rel_tol=1e-9) for share, size in zip(self.shares, self.sizes)
        )

    @property
    def batches_per_epoch(self) -> int:
        samples = sum(self.sizes) if self._proportional else max(self.sizes)
        # A batch of a mixed epoch may be larger than the largest set.
        return samples // (self.batch * self.world) or int(not self._proportional)

    def place(self, step: int) -> Place:
        return Place(*divmod(step, self.batches_per_epoch))

    def indices(self, place: Place) -> Int[np.ndarray, " B"]:
        """The samples of the batch at this place."""
        if self._proportional:
            order = _order(self.sizes, self.shuffle, (self.seed, place.epoch))
            start = (place.batch * self.world + self.rank) * self.batch
        else:
            order = _mixed_order(self, place.epoch)
            start = place.batch * self.batch
        return order[start : start + self.batch]


def plan_of(config: TrainConfig, sizes: list[int], world: int = 1, rank: int = 0) -> Plan:
    """Return which samples each step takes, of data sets of these sizes. Raise UsageError if the mix is wrong."""
    shares = shares_of(dict(zip(config.datasets, sizes)), config.mix)
    return Plan(
        tuple(sizes),
        config.batch_size,
        world,
        rank,
        config.seed,
        tuple(shares.values()),
        config.shuffle_train,
    )


def last_step(config: TrainConfig, plan: Plan) -> int:
    """Return the number of batches of each worker in the whole training: whole steps of the optimiser."""
    steps = config.epochs * plan.batches_per_epoch
    steps = steps if config.max_steps is None else min(steps, config.max_steps)
    return steps - steps % config.accumulate


@lru_cache(maxsize=4)
def _order(sizes: Sequence[int], shuffle: bool, seed: tuple[int, ...]) -> Int[np.ndarray, " N"]:
    count = sum(sizes)
    return np.random.default_rng(seed).permutation(count) if shuffle else np.arange(count)


@lru_cache(maxsize=4)
def _mixed_order(plan: Plan, epoch: int) -> Int[np.ndarray, " n"]:
    """One worker's samples in an epoch: of each data set as many as its share asks for, of those that are this worker's."""
    rng = np.random.default_rng((plan.seed, epoch))
    starts = np.cumsum([0, *plan.sizes])
    orders = [rng.permutation(size) if plan.shuffle else np.arange(size) for size in plan.sizes]
    mine = [start + order[plan.rank :: plan.world] for start, order in zip(starts, orders)]
    count = plan.batches_per_epoch * plan.batch
    if not any(map(len, mine)):  # every set is smaller than the number of workers
        mine = [start + order for start, order in zip(starts, orders)]
    quotas = _quotas(count, [share if len(own) else 0.0 for share, own in zip(plan.shares, mine)])
    samples = [np.resize(own, quota) for own, quota in zip(mine, quotas) if quota]
    # Each set is spread evenly over the epoch, with a phase of its own: every batch is mixed as the whole is.
    phase = np.random.default_rng((plan.seed, epoch, 1 + plan.rank)).random(len(samples))
    times = [(np.arange(len(s)) + p) / len(s) for s, p in zip(samples, phase)]
    return np.concatenate(samples)[np.argsort(np.concatenate(times), kind="stable")]


def _quotas(count: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `count`, by largest remainders."""
    wanted = count * np.asarray(shares) / sum(shares)
    quotas = np.floor(wanted).astype(int)
    short = np.argsort(-(wanted - quotas), kind="stable")[: count - quotas.sum()]
    quotas[short] += 1
    return quotas.tolist()
