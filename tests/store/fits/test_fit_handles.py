"""What one handle sees of the others: restores, compactions and updates."""

from __future__ import annotations

import numpy as np
import pytest
from fit_samples import changed_fits, random_fits, same_bits
from fit_store_cases import ALL, SAMPLES, state
from places import Place

from store import (
    Fits,
    FitStore,
    StaleWriterError,
)


def test_restore_also_takes_better_fits_back(store: FitStore, rng: np.random.Generator) -> None:
    first = random_fits(SAMPLES, rng)
    store.merge(ALL, first)
    store.tag("before")
    store.merge(ALL, changed_fits(first, score=-5))
    store.flush()
    store.merge(ALL, changed_fits(first, score=-6))
    store.restore("before")
    assert same_bits(state(store), first) and store.pending == 0
    assert store.merge(ALL, changed_fits(first, score=-1)).all()
    store.flush()
    assert (FitStore.open(store.location).get(ALL).score == -1).all()


def test_a_writer_from_before_a_restore_is_refused(store: FitStore, rng: np.random.Generator) -> None:
    late = FitStore.open(store.location, writer="late")
    store.tag("start")
    late.merge(ALL, random_fits(SAMPLES, rng))
    store.restore("start")
    with pytest.raises(StaleWriterError, match=f"{SAMPLES} pending updates"):
        late.flush()
    assert same_bits(state(FitStore.open(store.location)), Fits.empty(SAMPLES))


def test_a_restore_between_write_and_acknowledgement_is_noticed(
    place: Place, store: FitStore, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = FitStore.open(store.location, writer="late")
    store.tag("start")
    late.merge(ALL, random_fits(SAMPLES, rng))
    monkeypatch.setattr("store.fits.handle.writer.write_segment", after(FitStore.open(store.location).restore, "start"))
    with pytest.raises(StaleWriterError):
        late.flush()
    monkeypatch.undo()
    assert same_bits(state(FitStore.open(store.location)), Fits.empty(SAMPLES))
    store.compact()
    assert place.names(store.location, "segments/*/*late*") == [], "the refused segment is removed in time"


def after(action: object, *arguments: object) -> object:
    """write_segment, with something happening right after it."""
    from store.fits.format.segments import write_segment

    def replacement(*positional: object, **named: object) -> str:
        name = write_segment(*positional, **named)  # type: ignore[arg-type]
        action(*arguments)  # type: ignore[operator]
        return name

    return replacement


def test_a_segment_that_a_compaction_missed_still_counts(
    place: Place, store: FitStore, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer has chosen generation 0's folder; two compactions pass before its segment appears there."""
    writer, fits = FitStore.open(store.location), random_fits(2, rng)
    from store.fits.format.segments import write_segment

    def slow(*positional: object, **named: object) -> str:
        monkeypatch.undo()
        for sample in (2, 3):
            store.merge(np.array([sample]), random_fits(1, rng))
            store.compact()
        return write_segment(*positional, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("store.fits.handle.writer.write_segment", slow)
    writer.merge(ALL[:2], fits)
    writer.flush()
    assert same_bits(FitStore.open(store.location).get(ALL[:2]), fits)
    store.refresh()
    assert same_bits(store.get(ALL[:2]), fits)
    assert store.compact() == 3
    assert same_bits(FitStore.open(store.location).get(ALL[:2]), fits)
    assert place.names(store.location, "segments/*/*") == []


def test_opening_while_a_compaction_moves_on_gives_up_what_was_read(
    store: FitStore, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation's files vanish while they are read: missing chunks would read as empty records."""
    store.merge(ALL, random_fits(SAMPLES, rng))
    store.compact()
    from store.fits.format.generations import load_generation

    moved: list[bool] = []

    def overtaken(*positional: object, **named: object) -> object:
        if not moved:
            moved.append(True)
            store.merge(ALL[:1], changed_fits(random_fits(1, rng), score=-9))
            store.compact()
        return load_generation(*positional, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("store.fits.format.state.load_generation", overtaken)
    assert same_bits(state(FitStore.open(store.location)), state(store))


def test_refresh_sees_other_writers(store: FitStore, rng: np.random.Generator) -> None:
    other = FitStore.open(store.location, writer="other")
    fits = random_fits(SAMPLES, rng)
    other.merge(ALL[:20], fits.take(slice(20)))
    other.flush()
    store.merge(ALL[20:], fits.take(slice(20, None)))
    store.refresh()
    assert same_bits(state(store), fits) and store.pending == 20
    other.compact()
    store.refresh()
    assert same_bits(state(store), fits) and store.pending == 20
    store.flush()
    assert same_bits(state(FitStore.open(store.location)), fits)
