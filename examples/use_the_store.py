"""Keep the best fit of each sample in the store, from Python: offer fits, read them, name a state, go back to it.

    python examples/use_the_store.py [FOLDER]

A fit replaces another only if its score is lower, in any order and however often they come; what `flush` has
returned for survives a kill at any moment.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from store import Fingerprint, Fits, FitStore, Source

SAMPLES = 100


def some_fits(count: int, score_mm: float, seed: int) -> Fits:
    """Return made-up fits; yours come from `spin.Fitter` or another program."""
    rng = np.random.default_rng(seed)
    fits = Fits.empty(count)
    fits.pose[:] = rng.normal(0, 0.3, (count, 72))
    fits.betas[:] = rng.normal(0, 0.5, (count, 10))
    fits.camera[:] = (0, 0, 40)
    fits.loss[:] = 20
    fits.score[:] = rng.normal(score_mm, 5, count)
    fits.source[:] = Source.IMPORTED
    return fits


def main(folder: Path) -> None:
    # What makes scores comparable: the store refuses to mix fits of another body, objective or data set.
    conditions = Fingerprint(body="my-body:1", objective="mine:1", score_rule="mm:1", annotations="mine:1")
    store = FitStore.open_or_create(folder / "fits", samples=SAMPLES, fingerprint=conditions, writer="example")
    everyone = np.arange(SAMPLES)
    store.merge(everyone, some_fits(SAMPLES, score_mm=60, seed=0))
    store.tag("first")  # flushes, and names this state

    half = np.arange(0, SAMPLES, 2)
    accepted = store.merge(half, some_fits(len(half), score_mm=55, seed=1))
    store.flush()
    print(f"{accepted.sum()} of {len(half)} later fits were better, and replaced the first")

    again = FitStore.open(folder / "fits", writer="reader")
    print(f"mean score {again.get(everyone).score.mean():.1f} mm, tags {again.tags()}")
    print(f"at 'first' it was {again.at('first').get(everyone).score.mean():.1f} mm")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
