"""Merging, flushing, compacting, tagging and counting, through one handle."""

from __future__ import annotations

import numpy as np
import pytest
from fit_samples import FINGERPRINT, changed_fits, random_fits, same_bits
from fit_store_cases import ALL, SAMPLES, state
from places import Place

from store import (
    Fits,
    FitStore,
    TagExistsError,
    TagNotFoundError,
    UnusableNameError,
)
from store.files.open import open_files


def test_flush_is_what_makes_durable(place: Place, store: FitStore, rng: np.random.Generator) -> None:
    fits = random_fits(SAMPLES, rng)
    assert store.flush() == 0 and place.names(store.location, "segments/*/*") == []
    assert store.merge(ALL, fits).all()
    assert store.pending == SAMPLES
    assert same_bits(state(FitStore.open(store.location)), Fits.empty(SAMPLES))
    assert store.flush() == SAMPLES
    assert same_bits(state(FitStore.open(store.location)), fits)
    assert store.flush() == 0 and len(place.names(store.location, "segments/000000/*.arrow")) == 1


def test_only_what_changed_is_written(store: FitStore, rng: np.random.Generator) -> None:
    fits = random_fits(SAMPLES, rng)
    store.merge(ALL, fits)
    store.flush()
    assert not store.merge(ALL, changed_fits(fits, score=fits.score + 1)).any()
    assert not store.merge(ALL, fits).any()
    assert store.flush() == 0
    accepted = store.merge(ALL[:3], changed_fits(fits.take(slice(3)), score=-1))
    assert accepted.tolist() == [True] * 3 and store.flush() == 3


def test_compaction_changes_no_answer_and_leaves_nothing_behind(
    place: Place, store: FitStore, rng: np.random.Generator
) -> None:
    for _ in range(3):
        store.merge(rng.integers(0, SAMPLES, 20), random_fits(20, rng))
        store.flush()
    before = state(store)
    assert store.compact() == 1
    assert same_bits(state(store), before) and same_bits(state(FitStore.open(store.location)), before)
    assert place.names(store.location, "generations/*") == [
        "generations/000001.json",
        "generations/000001.zarr",
    ]
    assert place.names(store.location, "segments/*") == []
    assert store.compact() == 1, "nothing to absorb: no new generation"


def test_what_tags_need_is_kept(store: FitStore, rng: np.random.Generator) -> None:
    tagged = {}
    for number in range(3):
        store.merge(rng.integers(0, SAMPLES, 20), random_fits(20, rng, step=number))
        store.tag(f"step-{number}")
        tagged[f"step-{number}"] = state(store)
        store.compact()
    assert store.tags() == sorted(tagged)
    other = FitStore.open(store.location)
    for name, expected in tagged.items():
        snapshot = other.at(name)
        assert same_bits(snapshot.get(ALL), expected)
        assert snapshot.samples == SAMPLES and snapshot.fingerprint == FINGERPRINT
        assert snapshot.summary()["segments"] == 1
        other.restore(name)
        assert same_bits(state(other), expected)
        assert same_bits(state(FitStore.open(store.location)), expected)


def test_tag_names_are_not_moved(store: FitStore, rng: np.random.Generator) -> None:
    store.tag("a")
    assert store.tag("a") == store.tag("a"), "naming the same state again is no error"
    store.merge(ALL, random_fits(SAMPLES, rng))
    with pytest.raises(TagExistsError, match="'a' names another state"):
        store.tag("a")
    with pytest.raises(TagNotFoundError, match="no tag 'b'; its tags: a"):
        store.restore("b")
    for name in ("", "../x", ".hidden", "a/b", "a b"):
        with pytest.raises(UnusableNameError):
            store.tag(name)
    with pytest.raises(UnusableNameError):
        FitStore.open(store.location, writer="a/b")


def test_summary_counts(store: FitStore, rng: np.random.Generator) -> None:
    assert store.summary()["loss_percentiles_px2"]["50"] is None
    store.merge(ALL[:4], changed_fits(random_fits(4, rng), source=1, loss=2.0))
    store.flush()
    store.merge(ALL[4:5], changed_fits(random_fits(1, rng), source=2, loss=2.0))
    summary = store.summary()
    assert summary["sources"] == {"none": 35, "static": 4, "loop": 1, "imported": 0}
    assert (summary["samples"], summary["generation"], summary["segments"], summary["pending"]) == (
        40,
        0,
        1,
        1,
    )
    assert summary["loss_percentiles_px2"] == {"5": 2.0, "50": 2.0, "95": 2.0}


def test_a_full_disk_loses_nothing(local: FitStore, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = random_fits(SAMPLES, rng)
    local.merge(ALL, fits)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        local.flush()
    monkeypatch.undo()
    assert local.pending == SAMPLES and not list(local.path.glob("segments/*/*"))
    assert local.flush() == SAMPLES
    assert same_bits(state(FitStore.open(local.location)), fits)


def test_large_stores_span_chunks_and_batches(place: Place, rng: np.random.Generator) -> None:
    count = 10_000
    store = FitStore.create(place.location("large"), samples=count, fingerprint=FINGERPRINT)
    fits, ids = random_fits(count, rng), rng.permutation(count)
    store.merge(ids, fits)
    store.flush()
    (segment,) = place.names(store.location, "segments/*/*.arrow")
    assert len(open_files(store.location).read(segment)) / count < 1.2 * 369
    for _ in range(2):
        assert same_bits(FitStore.open(store.location).get(ids), fits)
        store.compact()
