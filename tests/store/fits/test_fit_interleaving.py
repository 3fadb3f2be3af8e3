"""Operations of two handles in any order, compared with a plain list of records."""

from __future__ import annotations

import os

import numpy as np
import pytest
from fit_samples import FINGERPRINT, changed_fits, random_fits, same_bits
from fit_store_cases import ALL, SAMPLES, state
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from places import Place

from store import (
    Fits,
    FitStore,
    StaleWriterError,
    join,
)
from store.fits.records import COLUMNS


class FitStoreMachine(RuleBasedStateMachine):
    """Any interleaving of two handles' operations gives what a plain list of records gives."""

    @initialize()
    def create(self) -> None:
        self.folder = f"{os.environ['FIT_STORE_MACHINE']}/{os.urandom(8).hex()}"
        self.durable = Fits.empty(SAMPLES)
        self.stores = [FitStore.create(self.folder, samples=SAMPLES, fingerprint=FINGERPRINT)]
        self.stores.append(FitStore.open(self.folder, fingerprint=FINGERPRINT))
        self.known = [self.durable, self.durable]
        self.tagged: dict[str, Fits] = {}
        self.sent: list[tuple[np.ndarray, Fits]] = []

    @rule(who=st.integers(0, 1), seed=st.integers(0, 30), count=st.integers(0, 30), late=st.booleans())
    def merge(self, who: int, seed: int, count: int, late: bool) -> None:
        """Of fits begun now, or before any retraction."""
        rng = np.random.default_rng(seed)
        ids, fits = rng.integers(0, SAMPLES, count), random_fits(count, rng)
        if count > 3:
            fits.score[0], fits.betas[1] = np.nan, 4
            fits.score[2:] = np.round(fits.score[2:] / 300)
        if not late:
            fits.epoch[:] = self.stores[who].get(ids).epoch
        self.sent.append((ids, fits))
        self._merge(who, ids, fits)

    @precondition(lambda self: self.sent)
    @rule(who=st.integers(0, 1), data=st.data())
    def deliver_again(self, who: int, data: st.DataObject) -> None:
        """To the same handle or the other, now or after other operations."""
        self._merge(who, *data.draw(st.sampled_from(self.sent[-5:])))

    def _merge(self, who: int, ids: np.ndarray, fits: Fits) -> None:
        before = self.known[who]
        accepted = self.stores[who].merge(ids, fits)
        for row, sample in enumerate(ids):
            offer = changed_fits(Fits.empty(SAMPLES))
            for name in COLUMNS:
                getattr(offer, name)[sample] = getattr(fits, name)[row]
            self.known[who] = join(self.known[who], offer)
        differs = [not same_bits(before.take(slice(i, i + 1)), self.known[who].take(slice(i, i + 1))) for i in ALL]
        assert set(ids[accepted]) <= set(np.flatnonzero(differs))

    @rule(who=st.integers(0, 1))
    def flush(self, who: int) -> None:
        self.stores[who].flush()
        self.durable = join(self.durable, self.known[who])
        assert self.stores[who].pending == 0

    @rule(who=st.integers(0, 1))
    def refresh(self, who: int) -> None:
        self.stores[who].refresh()
        self.known[who] = join(self.known[who], self.durable)

    @rule(who=st.integers(0, 1))
    def reopen(self, who: int) -> None:
        """As after a crash: what was not flushed is gone."""
        self.stores[who] = FitStore.open(self.folder, fingerprint=FINGERPRINT)
        self.known[who] = self.durable

    @rule(who=st.integers(0, 1), first=st.integers(0, SAMPLES - 1), count=st.integers(1, SAMPLES))
    def reset(self, who: int, first: int, count: int) -> None:
        ids = ALL[first : first + count]
        retracted = self.stores[who].reset(ids)
        left = changed_fits(join(self.durable, self.known[who]))
        gone = ids[left.source[ids] != 0]
        for name, column in COLUMNS.items():
            if name != "epoch":
                getattr(left, name)[gone] = column.empty
        left.epoch[gone] += 1
        assert retracted == len(gone)
        self.durable = self.known[who] = left

    @rule(who=st.integers(0, 1))
    def compact(self, who: int) -> None:
        self.stores[who].compact()
        self.durable = self.known[who] = join(self.durable, self.known[who])
        assert self.stores[who].summary()["segments"] == 0

    @rule(who=st.integers(0, 1))
    def tag(self, who: int) -> None:
        name = f"t{len(self.tagged)}"
        self.stores[who].tag(name)
        self.durable = self.known[who] = join(self.durable, self.known[who])
        self.tagged[name] = self.durable

    @precondition(lambda self: self.tagged)
    @rule(who=st.integers(0, 1), data=st.data())
    def restore(self, who: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.tagged)))
        pending = self.stores[1 - who].pending
        self.stores[who].restore(name)
        self.durable = self.known[who] = self.tagged[name]
        if pending:
            for refused in (self.stores[1 - who].flush, self.stores[1 - who].refresh):
                with pytest.raises(StaleWriterError):
                    refused()
            self.reopen(1 - who)
        else:
            self.stores[1 - who].refresh()
            self.known[1 - who] = self.durable

    @invariant()
    def handles_know_what_the_model_knows(self) -> None:
        for store, known in zip(getattr(self, "stores", []), getattr(self, "known", [])):
            assert same_bits(state(store), known)

    @invariant()
    def tags_hold_their_state(self) -> None:
        for name, tagged in list(getattr(self, "tagged", {}).items())[-2:]:
            assert same_bits(self.stores[0].at(name).get(ALL), tagged)


@pytest.mark.parametrize("examples", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_any_interleaving_equals_a_plain_list_of_records(place: Place, examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power fails here
    monkeypatch.setenv("FIT_STORE_MACHINE", place.top)
    machine = FitStoreMachine.TestCase
    machine.settings = settings(max_examples=examples, stateful_step_count=12, deadline=None, database=None)
    machine("runTest").runTest()
