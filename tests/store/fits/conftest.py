"""A new store, in every kind of place, and in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fit_samples import FINGERPRINT
from fit_store_cases import SAMPLES
from places import Place

from store import (
    FitStore,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def store(place: Place) -> FitStore:
    return FitStore.create(place.location("fits"), samples=SAMPLES, fingerprint=FINGERPRINT)


@pytest.fixture
def local(tmp_path: Path) -> FitStore:
    return FitStore.create(tmp_path / "fits", samples=SAMPLES, fingerprint=FINGERPRINT)
