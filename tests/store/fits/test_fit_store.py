from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fit_samples import FINGERPRINT, changed_fits, random_fits, same_bits
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from places import Place

from store import (
    FingerprintMismatchError,
    Fits,
    FitStore,
    FitStoreExistsError,
    FitStoreNotFoundError,
    FormatVersionError,
    RecordError,
    StaleWriterError,
    StoreError,
    TagExistsError,
    TagNotFoundError,
    UnusableNameError,
    join,
)
from store.files.open import open_files
from store.fits.records import COLUMNS
from store.fits.repair.repair import repair

SAMPLES = 40
ALL = np.arange(SAMPLES)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def store(place: Place) -> FitStore:
    return FitStore.create(place.location("fits"), samples=SAMPLES, fingerprint=FINGERPRINT)


@pytest.fixture
def local(tmp_path: Path) -> FitStore:
    return FitStore.create(tmp_path / "fits", samples=SAMPLES, fingerprint=FINGERPRINT)


def state(store: FitStore) -> Fits:
    return store.get(ALL)


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
        """To the same handle or the other, now or after whatever has happened since."""
        self._merge(who, *data.draw(st.sampled_from(self.sent[-5:])))

    def _merge(self, who: int, ids: np.ndarray, fits: Fits) -> None:
        before = self.known[who]
        accepted = self.stores[who].merge(ids, fits)
        for row, sample in enumerate(ids):
            offer = changed_fits(Fits.empty(SAMPLES))
            for name in COLUMNS:
                getattr(offer, name)[sample] = getattr(fits, name)[row]
            self.known[who] = join(self.known[who], offer)
        differs = [
            not same_bits(before.take(slice(i, i + 1)), self.known[who].take(slice(i, i + 1))) for i in ALL
        ]
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
def test_any_interleaving_equals_a_plain_list_of_records(
    place: Place, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power fails here
    monkeypatch.setenv("FIT_STORE_MACHINE", place.top)
    machine = FitStoreMachine.TestCase
    machine.settings = settings(max_examples=examples, stateful_step_count=12, deadline=None, database=None)
    machine("runTest").runTest()


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
    monkeypatch.setattr(
        "store.fits.handle.writer.write_segment", after(FitStore.open(store.location).restore, "start")
    )
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

    moved = []

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


def test_a_mismatch_says_which_part_differs_and_what_to_run(store: FitStore) -> None:
    other = replace(FINGERPRINT, body="smpl:9f", score_rule="expected:2")
    with pytest.raises(FingerprintMismatchError) as caught:
        FitStore.open(store.location, fingerprint=other)
    text = str(caught.value)
    for part in (
        "body model: stored 'open:1a2b', now 'smpl:9f'",
        "score rule: stored 'loss:1'",
        "fit-static",
    ):
        assert part in text
    assert "objective:" not in text and "\n" not in text and isinstance(caught.value, ValueError)
    assert FINGERPRINT.differences(FINGERPRINT) == {}


def test_a_segment_or_generation_of_another_store_is_refused(place: Place, store: FitStore) -> None:
    foreign = FitStore.create(
        place.location("foreign"), samples=SAMPLES, fingerprint=replace(FINGERPRINT, annotations="mpii:1")
    )
    foreign.merge(ALL, random_fits(SAMPLES, np.random.default_rng(0)))
    foreign.flush()
    theirs, ours = open_files(foreign.location), open_files(store.location)
    (segment,) = place.names(foreign.location, "segments/*/*")
    ours.write(segment, theirs.read(segment))
    with pytest.raises(FingerprintMismatchError, match=r"segments/000000/.*annotations: stored 'coco:5e6f'"):
        FitStore.open(store.location)
    ours.remove(segment)
    ours.write("generations/000000.json", theirs.read("generations/000000.json"))
    with pytest.raises(FingerprintMismatchError, match=r"000000\.json"):
        FitStore.open(store.location)


def test_open_and_create_check_the_place(place: Place, store: FitStore) -> None:
    with pytest.raises(FitStoreNotFoundError, match="fit-static") as caught:
        FitStore.open(place.location("none"))
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(FitStoreExistsError, match="not empty"):
        FitStore.create(store.location, samples=3, fingerprint=FINGERPRINT)
    with pytest.raises(RecordError, match="has 40 samples, expected 41"):
        FitStore.open_or_create(store.location, samples=41, fingerprint=FINGERPRINT)
    with pytest.raises(RecordError, match="at least one sample"):
        FitStore.create(place.location("new"), samples=0, fingerprint=FINGERPRINT)
    foreign = place.location("foreign")
    place.put(foreign, "thesis.tex", b"")
    with pytest.raises(FitStoreExistsError, match="not empty"):
        FitStore.open_or_create(foreign, samples=3, fingerprint=FINGERPRINT)
    again = FitStore.open_or_create(store.location, samples=SAMPLES, fingerprint=FINGERPRINT)
    assert again.samples == SAMPLES


def test_an_empty_folder_may_become_a_store(tmp_path: Path) -> None:
    assert FitStore.open_or_create(tmp_path, samples=3, fingerprint=FINGERPRINT).samples == 3


def test_a_later_version_is_refused(store: FitStore) -> None:
    files = open_files(store.location)
    files.write("store.json", json.dumps({**json.loads(files.read("store.json")), "version": 2}).encode())
    with pytest.raises(
        FormatVersionError, match="expected spin-pipe-fits version 1, found spin-pipe-fits version 2"
    ):
        FitStore.open(store.location)
    files.write("store.json", b"{")
    with pytest.raises(FormatVersionError, match="not JSON"):
        FitStore.open(store.location)


@pytest.mark.parametrize("part", ["generations", "segments"])
def test_a_later_version_of_a_part_is_refused(
    part: str, place: Place, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"store.fits.format.{part}.VERSION", 4)
    store = FitStore.create(place.location("fits"), samples=SAMPLES, fingerprint=FINGERPRINT)
    store.merge(ALL, random_fits(SAMPLES, rng))
    store.flush()
    monkeypatch.undo()
    with pytest.raises(StoreError, match=f"{store.location}/{part}/.*expected .*3.*found .*4") as caught:
        FitStore.open(store.location)
    assert "earlier" not in str(caught.value)


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_earlier_version_is_refused_in_one_line(version: int, store: FitStore) -> None:
    """Generations of versions 1 and 2 had no inventory, only the group's attributes."""
    files, name = open_files(store.location), "generations/000000.zarr/zarr.json"
    group = json.loads(files.read(name))
    group["attributes"]["version"] = version
    files.write(name, json.dumps(group).encode())
    files.remove("generations/000000.json")
    expected = f"expected spin-pipe-fits-generation version 3, found version {version}, .*fit-static"
    with pytest.raises(FormatVersionError, match=expected) as caught:
        FitStore.open(store.location)
    assert "\n" not in str(caught.value) and store.location in str(caught.value)
    refused = {outcome.file: outcome.text for outcome in repair(store.location)}
    assert re.search(expected, refused["generations/000000.json"])


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


def test_a_full_disk_loses_nothing(
    local: FitStore, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
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
