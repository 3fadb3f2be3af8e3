"""Records for the tests of the fit store."""

from __future__ import annotations

import numpy as np

from store import Fingerprint, Fits, Source, StartKind, Verdict
from store.fits.records import COLUMNS, Solver

FINGERPRINT = Fingerprint(body="open:1a2b", objective="published:3c4d", score_rule="loss:1", annotations="coco:5e6f")


def random_fits(count: int, rng: np.random.Generator, *, step: int = 0) -> Fits:
    """Admissible records with scores from a coarse grid, so that ties occur."""
    return Fits(
        pose=rng.normal(size=(count, 72)).astype(np.float32),
        betas=rng.uniform(-3, 3, (count, 10)).astype(np.float32),
        camera=rng.uniform(1, 40, (count, 3)).astype(np.float32),
        loss=rng.uniform(0, 100, count).astype(np.float32),
        score=rng.integers(0, 1000, count).astype(np.float32),
        source=rng.integers(Source.STATIC, Source.IMPORTED + 1, count).astype(np.uint8),
        step=np.full(count, step, np.int64),
        improvements=rng.integers(0, 5, count).astype(np.uint32),
        start=rng.integers(0, len(StartKind), count).astype(np.uint8),
        verdict=rng.choice([*Verdict], count).astype(np.uint8),
        iterations=rng.integers(0, 20, count).astype(np.uint16),
        coverage=rng.uniform(0, 1, count).astype(np.float32),
        prior_cost=rng.uniform(0, 300, count).astype(np.float32),
        solver=rng.integers(0, len(Solver), count).astype(np.uint8),
        epoch=np.zeros(count, np.uint32),
        run=rng.integers(0, 2**63, count).astype(np.uint64),
        time=rng.integers(0, 2**41, count),
    )


def same_bits(first: Fits, second: Fits) -> bool:
    """Equal to the last bit, NaN and the sign of zero included."""
    return all(getattr(first, name).tobytes() == getattr(second, name).tobytes() for name in COLUMNS)


def changed_fits(fits: Fits, **changes: object) -> Fits:
    """A copy with some columns set, e.g. score=3.0 or betas=np.nan."""
    columns = {name: getattr(fits, name).copy() for name in COLUMNS}
    for name, value in changes.items():
        columns[name][...] = value
    return Fits(**columns)
