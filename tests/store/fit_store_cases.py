"""The samples of the stores that tests of one store share."""

from __future__ import annotations

import numpy as np

from store import Fits, FitStore

SAMPLES = 40
ALL = np.arange(SAMPLES)


def state(store: FitStore) -> Fits:
    return store.get(ALL)
