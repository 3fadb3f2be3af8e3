"""A generation is plain Zarr: others read it without this program, in a folder or an object store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from fit_samples import FINGERPRINT, random_fits
from places import Place

from store import Fits, FitStore
from store.files.open import is_url
from store.fits.records import COLUMNS

SAMPLES = 40


@pytest.fixture
def fits(place: Place) -> Fits:
    """What the store's generation 1 holds."""
    store = FitStore.create(place.location("fits"), samples=SAMPLES, fingerprint=FINGERPRINT)
    made = random_fits(SAMPLES, np.random.default_rng(0))
    store.merge(np.arange(SAMPLES), made)
    assert store.compact() == 1
    return made


def generation(place: Place) -> Any:
    """For zarr's and xarray's functions: a path, or obstore's client, which finds its keys in the environment."""
    path = f"{place.location('fits')}/generations/000001.zarr"
    if not is_url(path):
        return path
    from obstore.store import from_url

    return zarr.storage.ObjectStore(from_url(path, client_options={"allow_http": True}), read_only=True)


def test_with_zarr(place: Place, fits: Fits) -> None:
    group = zarr.open(generation(place), mode="r")
    assert isinstance(group, zarr.Group) and set(group.array_keys()) == set(COLUMNS)
    for name in COLUMNS:
        array = group[name]
        assert isinstance(array, zarr.Array) and np.array_equal(array[...], getattr(fits, name))
    assert group["pose"].chunks == (SAMPLES, 72) and group["pose"].attrs["units"] == "rad"
    assert group.attrs["generation"] == 1 and group.attrs["fingerprint"] == FINGERPRINT.to_json()


def test_with_xarray(place: Place, fits: Fits) -> None:
    xarray = pytest.importorskip("xarray")
    data = xarray.open_zarr(generation(place), zarr_format=3, consolidated=False, decode_times=False)
    assert dict(data.sizes)["sample"] == SAMPLES and data.pose.dims == ("sample", "pose_component")
    best = data.isel(sample=data.score.argsort().values[:5])
    order = np.argsort(fits.score, kind="stable")[:5]
    assert np.array_equal(np.sort(best.score.values), np.sort(fits.score[order]))
    for name in COLUMNS:
        assert np.array_equal(data[name].values, getattr(fits, name)), name
    assert data.pose.attrs["units"] == "rad" and data.attrs["generation"] == 1
