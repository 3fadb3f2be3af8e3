"""A store without a lock: requests fail, processes die or come in between, and nothing acknowledged is lost."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fit_samples import FINGERPRINT, changed_fits, random_fits, same_bits
from s3_server import S3, Fault, Stored

from store import Fits, FitStore, FitStoreExistsError, FitStoreNotFoundError, ObjectStoreError
from store.fits.format.layout import move_current
from store.fits.format.tags import pinned, write_tag
from store.fits.handle import maintenance as maintenance_module
from store.fits.repair import verify as verification
from store.fits.repair.verify import verify
from store.fits.table import FitTable

SAMPLES = 200
ALL = np.arange(SAMPLES)
URL = "s3://bucket/some/fits"
KEYS = "some/fits/"
OFFER = (np.arange(30), changed_fits(random_fits(30, np.random.default_rng(9)), score=-1))
OPERATIONS: dict[str, Callable[[FitStore], object]] = {
    "flush": lambda store: store.flush(),
    "tag": lambda store: store.tag("new"),
    "compact": lambda store: store.compact(),
    "restore": lambda store: store.restore("early"),
    "reset": lambda store: store.reset(ALL[40:50]),
}
# Requests to these are one and the same for what a failure leaves.
ALIKE = re.compile(r"[0-9a-f]{8,}|zarr/(?!zarr).*|early|late")


@pytest.fixture
def base(s3: S3) -> dict[str, Stored]:
    """A store with a tag on an old generation, and segments since, one of them tagged."""
    rng = np.random.default_rng(0)
    store = FitStore.create(URL, samples=SAMPLES, fingerprint=FINGERPRINT)
    store.merge(ALL, random_fits(SAMPLES, rng))
    store.tag("early")
    store.compact()
    store.merge(rng.integers(0, SAMPLES, 50), random_fits(50, rng))
    store.tag("late")
    store.merge(rng.integers(0, SAMPLES, 50), random_fits(50, rng))
    store.flush()
    return dict(s3.objects)


def begin(s3: S3, base: dict[str, Stored], offer: bool = True) -> FitStore:
    s3.clear()
    s3.objects.update(base)
    store = FitStore.open(URL, writer="mine")
    if offer:
        store.merge(*OFFER)
    s3.requests.clear()
    return store


def state(url: str = URL) -> Fits:
    return FitStore.open(url, fingerprint=FINGERPRINT).get(ALL)


def outcome(operation: str) -> Fits:
    """What the operation makes of the base, with the offer merged before it."""
    store = FitStore.open(URL)
    table = FitTable.of(store.get(ALL))
    table.merge(*OFFER)
    if operation == "restore":
        return store.at("early").get(ALL)
    if operation == "reset":
        table.merge(ALL[40:50], changed_fits(Fits.empty(10), epoch=1))
    return table.fits


def moments(s3: S3) -> list[tuple[int, str, str]]:
    """Requests at which something may fail, of those that were made: place, method, key; of a row that are alike the first."""
    asked = [(request.method, ALIKE.sub("*", request.key)) for request in s3.requests]
    firsts = [place for place, what in enumerate(asked) if place == 0 or what != asked[place - 1]]
    return [(place, s3.requests[place].method, s3.requests[place].key) for place in firsts]


EVERY = [pytest.param(1, marks=pytest.mark.slow), 9]
"""Of the moments at which something may fail: all, or one in so many."""


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_succeeds_whichever_request_fails_once(
    operation: str, every: int, s3: S3, base: dict[str, Stored]
) -> None:
    expected, tagged = outcome(operation), FitStore.open(URL).at("late").get(ALL)
    OPERATIONS[operation](begin(s3, base))
    kinds = ["lost", "drop", "slow down", "conflict"]
    cases = [(*moment, kind) for moment in moments(s3) for kind in kinds]
    for moment, method, key, kind in cases[::every]:
        conditional = method == "PUT" and key.endswith(("CURRENT", ".claim", "new.json"))
        if kind == "conflict" and not conditional:
            continue
        store = begin(s3, base)
        s3.faults.append(Fault(kind, skip=moment))
        OPERATIONS[operation](store)
        assert s3.faults[0].times == 0
        s3.faults.clear()
        assert same_bits(state(), expected) and verify(URL).whole, f"{kind} at {method} {key}"
    assert same_bits(FitStore.open(URL).at("late").get(ALL), tagged)


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_writer_that_is_cut_off_at_any_request_leaves_the_old_or_the_new_state(
    operation: str, every: int, s3: S3, base: dict[str, Stored]
) -> None:
    """From one request on everything fails; that one itself never arrives, or if it is a write, only its answer is lost."""
    # A reset is a flush, and then a reset.
    allowed = [state(), outcome(operation), *([outcome("flush")] if operation == "reset" else [])]
    OPERATIONS[operation](begin(s3, base))
    cases = [
        (*moment, kind) for moment in moments(s3) for kind in ("drop", "lost") if "PUT" in moment or kind == "drop"
    ]  # fmt: skip
    seen = set()
    for moment, method, key, kind in cases[:: every if len(cases) > 10 else 1]:
        store = begin(s3, base)
        s3.faults += [Fault(kind, skip=moment), Fault("drop", times=10**9, skip=moment)]
        reported = False
        try:
            OPERATIONS[operation](store)
        except ObjectStoreError:
            reported = True
        s3.faults.clear()
        left = state()
        found = [place for place, fits in enumerate(allowed) if same_bits(left, fits)]
        # What is left to tidy up is no failure.
        assert reported or 1 in found, f"no error for {kind} at {method} {key}"
        assert found and verify(URL).whole, f"torn after {kind} at {method} {key}"
        seen |= set(found[:1])
        # The same handle goes on once the network is back.
        OPERATIONS[operation](store)
        assert same_bits(state(), allowed[1]), f"can't go on after {kind} at {method} {key}"
    assert 1 in seen
    assert every > 1 or 0 in seen
    last = FitStore.open(URL)
    last.compact(force=True)
    kept = {int(n.split("/")[1][:6]) for n in s3.names(KEYS) if n.startswith("generations/")}
    assert kept <= {0, 1, last.summary()["generation"]}, "what was cut off is removed"


@pytest.mark.parametrize("every", EVERY)
def test_a_creation_that_is_cut_off_is_completed_by_the_next(every: int, s3: S3) -> None:
    FitStore.create(URL, samples=SAMPLES, fingerprint=FINGERPRINT)
    cases = [(*moment, kind) for moment in moments(s3) for kind in ("drop", "lost")]
    for moment, method, key, kind in cases[::every]:
        s3.clear()
        s3.faults += [Fault(kind, skip=moment), Fault("drop", times=10**9, skip=moment)]
        with pytest.raises(ObjectStoreError):
            FitStore.create(URL, samples=SAMPLES, fingerprint=FINGERPRINT)
        s3.faults.clear()
        store = FitStore.open_or_create(URL, samples=SAMPLES, fingerprint=FINGERPRINT)
        assert same_bits(store.get(ALL), Fits.empty(SAMPLES)), f"{kind} at {method} {key}"
        store.merge(*OFFER)
        store.compact()
        assert verify(URL).whole and not [n for n in s3.names(KEYS) if "000000" in n]


def test_of_creations_at_once_one_is_the_store(s3: S3) -> None:
    stores: list[FitStore] = []

    def create(number: int) -> None:
        store = FitStore.open_or_create(URL, samples=SAMPLES, fingerprint=FINGERPRINT, writer=f"w{number}")
        store.merge(ALL[number : number + 1], OFFER[1].take(slice(1)))
        store.flush()
        stores.append(store)

    s3.latency_s = 0.002
    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 6 and (state().source[:6] != 0).all()
    stores[0].compact()
    assert verify(URL).whole


def test_what_is_left_of_another_store_is_not_taken_for_a_creation(s3: S3, base: dict[str, Stored]) -> None:
    del s3.objects[f"{KEYS}CURRENT"]
    with pytest.raises(FitStoreExistsError, match="not empty"):
        FitStore.create(URL, samples=SAMPLES, fingerprint=FINGERPRINT)
    for name in [name for name in s3.names(KEYS) if not name.startswith("generations/")]:
        del s3.objects[f"{KEYS}{name}"]
    with pytest.raises(FitStoreExistsError, match="not empty"):
        FitStore.create(URL, samples=SAMPLES, fingerprint=FINGERPRINT)
    with pytest.raises(FitStoreNotFoundError):
        FitStore.open(URL)


# Others come in between. `before` and `after` make one thing happen there once.


def before(patch: pytest.MonkeyPatch, name: str, act: Callable[[], object], call: Callable) -> None:
    done: list[bool] = []

    def replacement(*arguments: object, **named: object) -> object:
        if not done:
            done.append(True)
            act()
        return call(*arguments, **named)

    patch.setattr(maintenance_module, name, replacement)


def update(store: FitStore, sample: int, score: float) -> None:
    store.merge(np.array([sample]), changed_fits(OFFER[1].take(slice(1)), score=score))


@pytest.mark.parametrize("other_does", ["compact", "restore", "gc at once"])
@pytest.mark.parametrize("operation", ["compact", "restore"])
def test_of_two_that_move_current_at_once_the_second_begins_again(
    operation: str, other_does: str, s3: S3, base: dict[str, Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = begin(s3, base, offer=False), FitStore.open(URL, writer="other")

    def come_between() -> None:
        if other_does == "gc at once":
            s3.age(f"{KEYS}generations/", 10)
            other.gc(grace_s=5)
        elif other_does == "restore":
            other.restore("late")
        else:
            update(other, 0, -7)
            other.compact()

    before(monkeypatch, "move_current", come_between, move_current)
    expected = outcome("restore") if operation == "restore" else None
    OPERATIONS[operation](store)
    if operation == "compact":
        assert state().score[0] == (-7 if other_does == "compact" else state().score[0])
        expected = other.at("late").get(ALL) if other_does == "restore" else state()
    assert same_bits(state(), expected) and same_bits(store.get(ALL), state())
    assert verify(URL).whole
    other.refresh()
    other.compact(force=True)
    assert len([n for n in s3.names(KEYS) if n.endswith(".claim")]) <= 3, "two tags' generations and the current one"


def test_a_collection_leaves_alone_what_is_being_written(
    s3: S3, base: dict[str, Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = begin(s3, base), FitStore.open(URL)
    there: list[str] = []

    def collect() -> None:
        there.extend(s3.names(f"{KEYS}generations/000002"))
        other.gc(grace_s=3600)
        assert s3.names(f"{KEYS}generations/000002") == there

    before(monkeypatch, "move_current", collect, move_current)
    assert store.compact() == 2 and len(there) > 30
    assert same_bits(state(), store.get(ALL)) and verify(URL).whole


def test_what_a_dead_compaction_left_is_removed_after_a_day_or_by_the_next(s3: S3, base: dict[str, Stored]) -> None:
    store = begin(s3, base)
    s3.faults.append(Fault("drop", "PUT", "000002.json", times=10**9))
    with pytest.raises(ObjectStoreError):
        store.compact()
    s3.faults.clear()
    other = FitStore.open(URL)
    assert other.gc() == [] and s3.names(f"{KEYS}generations/000002")
    assert verify(URL).whole, "it is unfinished, not damaged"
    s3.age(f"{KEYS}generations/000002", 25 * 3600)
    assert "generations/000002.zarr" in other.gc(dry_run=True)
    assert "generations/000002.zarr" in other.gc()
    assert s3.names(f"{KEYS}generations/000002") == []
    assert same_bits(state(), outcome("compact"))


@pytest.mark.parametrize("operation", ["compact", "restore"])
def test_an_answer_that_is_lost_while_others_go_on_from_there_is_no_failure(
    operation: str, s3: S3, base: dict[str, Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore that was begun again would take back what others have done since."""
    store, other = begin(s3, base, offer=False), FitStore.open(URL, writer="other")
    done: list[bool] = []

    def moved_but_refused(*arguments: object) -> bool:
        if not done:
            done.append(move_current(*arguments))  # type: ignore[arg-type]
            other.refresh()
            update(other, 0, -7)
            other.compact()
            return False
        return move_current(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(maintenance_module, "move_current", moved_but_refused)
    OPERATIONS[operation](store)
    assert done == [True] and state().score[0] == -7
    store.refresh()
    assert same_bits(store.get(ALL), state()) and verify(URL).whole


def test_a_number_that_others_have_used_is_not_claimed_again(
    s3: S3, base: dict[str, Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking for a number and claiming it, another compacts twice, and removes what had that number."""
    store, other = begin(s3, base), FitStore.open(URL, writer="other")
    files = type(store._replica.layout.files)
    claim, done = files.claim, []

    def late(self: object, tree: str) -> bool:
        if not done:
            done.append(tree)
            for score in (-7, -8):
                update(other, 0, score)
                other.compact()
        return claim(self, tree)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "claim", late)
    assert store.compact() == 3 and done == ["generations/000002.zarr"]
    assert state().score[0] == -8 and verify(URL).whole
    assert s3.names(f"{KEYS}generations/000002") == []


@pytest.mark.parametrize("name", ["pinned", "read_current", "write_tag"])
def test_a_tag_holds_whatever_a_compaction_removes_meanwhile(
    name: str, s3: S3, base: dict[str, Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compaction comes before the pin, after it, or after it was seen that nothing had moved."""
    store, other = begin(s3, base), FitStore.open(URL, writer="other")

    def compact() -> None:
        update(other, 100, -7)
        other.compact(force=True)

    call = {"pinned": pinned, "write_tag": write_tag}.get(name, maintenance_module.read_current)
    before(monkeypatch, name, compact, call)
    tag = store.tag("new")
    monkeypatch.undo()
    expected = FitTable.of(outcome("flush"))
    assert same_bits(store.get(ALL), FitStore.open(URL).at("new").get(ALL))
    if name == "write_tag":
        assert tag.generation == 1, "what it named was pinned"
        other.refresh()
        other.compact(force=True)
    assert verify(URL).whole and store.at("new").get(ALL[:30]).score.max() == -1
    assert expected is not None and not [n for n in s3.names(KEYS) if "pin" in n]


def test_what_a_compaction_removes_while_it_is_verified_is_not_damaged(
    s3: S3, base: dict[str, Stored], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = begin(s3, base)
    store.untag("late")
    read, done = verification.read_inventory, []

    def late(*arguments: Any, **named: Any) -> Any:
        if not done:
            done.append(store.compact())
        return read(*arguments, **named)

    monkeypatch.setattr(verification, "read_inventory", late)
    assert verify(URL).whole and done == [2]
    del s3.objects[f"{KEYS}generations/000002.zarr/pose/zarr.json"]
    assert [finding.problem for finding in verify(URL).findings] == ["missing"]


def test_a_pin_that_is_a_day_old_is_dead(s3: S3, base: dict[str, Stored]) -> None:
    store = begin(s3, base)
    s3.faults.append(Fault("drop", "PUT", "tags/new", times=10**9))
    s3.faults.append(Fault("drop", "POST", times=10**9))
    with pytest.raises(ObjectStoreError):
        store.tag("new")
    s3.faults.clear()
    pins = [name for name in s3.names(KEYS) if "pin" in name]
    assert len(pins) == 1
    other = FitStore.open(URL)
    other.compact()
    assert s3.names(f"{KEYS}generations/000001"), "what it names is kept"
    s3.age(f"{KEYS}tags/", 25 * 3600)
    assert pins[0] in other.gc()
    other.untag("late")
    other.gc()
    assert not s3.names(f"{KEYS}generations/000001")
