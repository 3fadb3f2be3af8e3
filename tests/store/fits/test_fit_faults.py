"""A disk that refuses at any one moment: a clear error, the state unchanged, and nothing that was pending is lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from faults import CODES, Faults
from fit_samples import FINGERPRINT, changed_fits, random_fits, same_bits

from store import Fits, FitStore, StaleWriterError, StoreError
from store.fits.repair.verify import verify
from store.fits.table import FitTable

SAMPLES = 60
ALL = np.arange(SAMPLES)
RNG = np.random.default_rng(3)
OFFER = (np.arange(20), changed_fits(random_fits(20, RNG), score=-1))
RESET = np.arange(30, 40)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails here, so nothing has to wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a tag on an old generation, and segments since, one of them tagged; and something to collect."""
    store = FitStore.create(tmp_path_factory.mktemp("base") / "fits", samples=SAMPLES, fingerprint=FINGERPRINT)
    store.merge(ALL, random_fits(SAMPLES, RNG))
    store.tag("early")
    store.compact()
    store.merge(ALL[:10], changed_fits(random_fits(10, RNG), score=5))
    store.tag("late")
    store.tag("gone")
    store.merge(ALL[10:20], changed_fits(random_fits(10, RNG), score=4))
    store.flush()
    return store.path


def reset(store: FitStore) -> None:
    store.reset(RESET, where="by hand")


OPERATIONS: dict[str, Callable[[FitStore], object]] = {
    "flush": lambda store: store.flush(),
    "tag": lambda store: store.tag("new"),
    "untag": lambda store: store.untag("gone") if "gone" in store.tags() else None,
    "compact": lambda store: store.compact(force=True),
    "restore": lambda store: store.restore("early"),
    "gc": lambda store: store.gc(grace_s=0),
    "reset": reset,
    "refresh": lambda store: store.refresh(),
    "log": lambda store: store.log(),
}
LONG = {"compact": 0, "restore": 2}  # and at which call they begin


def state(folder: Path) -> Fits:
    return FitStore.open(folder, fingerprint=FINGERPRINT).get(ALL)


def outcomes(operation: str, base: Path) -> tuple[Fits, Fits, Fits]:
    """The records before, with the offer in them, and after the operation."""
    old = state(base)
    table = FitTable.of(changed_fits(old))
    table.merge(*OFFER)
    offered = changed_fits(table.fits)
    if operation == "restore":
        return old, offered, FitStore.open(base).at("early").get(ALL)
    if operation == "reset":
        retracted = changed_fits(Fits.empty(len(RESET)), epoch=1)
        table.merge(RESET, retracted)
    unwritten = operation in ("gc", "refresh", "log", "untag")
    return old, offered, old if unwritten else changed_fits(table.fits)


@pytest.mark.parametrize("all_calls", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_refusal_at_any_call_leaves_the_state_and_what_is_pending(
    operation: str, all_calls: bool, base: Path, tmp_path: Path
) -> None:
    """In a short run some of the calls of the long operations."""
    every, first = (4, LONG[operation]) if operation in LONG and not all_calls else (1, 0)
    old, offered, new = outcomes(operation, base)
    early = FitStore.open(base).at("early").get(ALL)
    refused = 0
    for at in range(first, 1000, every):
        folder = tmp_path / str(at)
        shutil.copytree(base, folder)
        store = FitStore.open(folder)
        store.merge(*OFFER)
        before = store.pending
        error = None
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, CODES[at % len(CODES)])
            try:
                OPERATIONS[operation](store)
            except (OSError, StoreError) as raised:
                error = raised
        where = f"{operation}, call {at}: {faults.failed}"
        if not faults.happened:
            break
        left = state(folder)
        assert any(same_bits(left, fits) for fits in (old, offered, new)), f"torn: {where}"
        assert same_bits(FitStore.open(folder).at("early").get(ALL), early), where
        if error is not None:
            refused += 1
            assert str(error) and "\n" not in str(error), where
            # Of a restore only the syncing of what it renamed can fail once it has happened.
            assert operation != "restore" or same_bits(left, old) or faults.failed in ("fsync", "open"), where
            assert store.pending in (before, 0), where
            assert store.pending == before or same_bits(left, offered) or same_bits(left, new), where
        try:
            store.flush()
            assert store.pending == 0, where
        except StaleWriterError:
            assert operation == "restore" and same_bits(left, new), where
            store = FitStore.open(folder)
        OPERATIONS[operation](store)
        again = offered if operation in ("gc", "refresh", "log", "untag") else new
        assert same_bits(state(folder), again) and same_bits(store.get(ALL), again), where
        assert verify(folder).whole, where
        shutil.rmtree(folder)
    assert error is None and refused > 0, f"{operation}: {refused} refused in {at} calls"


def test_a_refusal_at_every_call_of_create_leaves_nothing_that_is_in_the_way(tmp_path: Path) -> None:
    for at in range(0, 1000, 3):
        folder = tmp_path / str(at) / "fits"
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, errno.ENOSPC)
            with suppress(OSError, StoreError):
                FitStore.create(folder, samples=SAMPLES, fingerprint=FINGERPRINT)
        if not faults.happened:
            break
        store = FitStore.open_or_create(folder, samples=SAMPLES, fingerprint=FINGERPRINT)
        assert same_bits(store.get(ALL), Fits.empty(SAMPLES)) and verify(folder).whole
    assert at > 20


def test_a_refusal_at_every_call_of_open_is_an_error_and_the_next_one_works(base: Path) -> None:
    whole = state(base)
    for at in range(1000):
        error = None
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, errno.EIO)
            try:
                store = FitStore.open(base)
            except (OSError, StoreError) as raised:
                error = raised
        if not faults.happened:
            break
        assert error is not None, f"call {at}: {faults.failed}"
    assert at > 20 and same_bits(store.get(ALL), whole)
