"""SIGKILL at random moments: no acknowledged update is lost, no state is torn, every tag keeps its state to the last bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import kill_workers
import numpy as np
import pytest
from fit_samples import FINGERPRINT, changed_fits, same_bits
from kill_workers import FLUSHED, RESTORED, SAMPLES, TAGGED, look_after, offer, restore, serve, write

from store import Fits, FitStore, join
from store.fits.records import COLUMNS
from store.fits.repair.verify import verify
from store.fits.table import FitTable

ALL = np.arange(SAMPLES)
KEPT = ("one", "two")
IN_FLIGHT = 4  # rounds that may be done and not reported
# Children are forked from a process that has imported everything once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["store", "store.files.s3", "kill_workers", "store.fits.repair.verify", "pipelines.fits.service"]
)

Work = tuple[Callable, object]
TOGETHER: list[tuple[Work, ...]] = [
    ((write, 0), (write, 0)),
    ((write, 2), (look_after, None)),
    ((serve, 0), (serve, 1)),
    ((look_after, None), (look_after, None)),
    ((serve, 1), (write, 3)),
    ((restore, list(KEPT)),),
]


class Child:
    """A process of the test's own, which reports until it is killed."""

    def __init__(self, work: Work, folder: Path | str, reports: Path, seed: int) -> None:
        self.seed, self.reports = seed, reports
        self.process = CONTEXT.Process(
            target=kill_workers.without_syncing,
            args=(work[0], folder, reports, seed, work[1], dict(os.environ)),
            daemon=True,
        )
        self.process.start()

    def words(self) -> list[list[str]]:
        """Whole lines after 'ready'."""
        text = self.reports.read_text() if self.reports.exists() else ""
        return [line.split() for line in text.split("\n")[1:-1]]

    def wait_until_ready(self) -> None:
        limit = time.monotonic() + 60
        while not self.reports.exists() or "\n" not in self.reports.read_text():
            assert self.process.is_alive() and time.monotonic() < limit, "the child does not get on"
            time.sleep(0.0005)

    def kill(self) -> None:
        assert self.process.is_alive(), "the child ended by itself"
        self.process.kill()
        self.process.join()

    def flushed(self) -> int:
        """How many rounds are acknowledged."""
        return max((int(number) + 1 for word, number in self.words() if word == FLUSHED), default=0)


def state(folder: Path | str) -> Fits:
    return FitStore.open(folder, fingerprint=FINGERPRINT).get(ALL)


def contents(fits: Fits) -> list[bytes]:
    """Each record's bytes."""
    columns = [np.ascontiguousarray(getattr(fits, name)) for name in COLUMNS]
    parts = [column.reshape(len(fits), -1).view(np.uint8) for column in columns]
    return [row.tobytes() for row in np.concatenate(parts, axis=1)]


def merged(table: Fits, rounds: list[tuple[np.ndarray, Fits]]) -> Fits:
    out = FitTable.of(changed_fits(table))
    for ids, fits in rounds:
        out.merge(ids, fits)
    return out.fits


def check_writers(before: Fits, found: Fits, children: list[Child], where: str) -> None:
    """What is there is all that was acknowledged, and of the rest only what was really offered."""
    acknowledged = [offer(c.seed, n) for c in children for n in range(c.flushed())]
    perhaps = [offer(c.seed, c.flushed() + n) for c in children for n in range(IN_FLIGHT)]
    least = merged(before, acknowledged)
    most = merged(least, perhaps)
    assert same_bits(join(found, least), found), f"an acknowledged update is lost: {where}"
    assert same_bits(join(found, most), most), f"something was never offered: {where}"
    known = set(contents(least)).union(*(contents(fits) for _, fits in perhaps))
    assert set(contents(found)) <= known, f"torn: {where}"


def check_tags(folder: Path | str, before: Fits, tagged: dict[str, Fits], children: list[Child]) -> None:
    """Tags that were there are what they were; one that was acknowledged holds at least what its maker had flushed."""
    store = FitStore.open(folder)
    for name, fits in tagged.items():
        assert same_bits(store.at(name).get(ALL), fits)
    for child in children:
        numbers = [int(number) for word, number in child.words() if word == TAGGED]
        if numbers:
            held = store.at(f"k{child.seed}-{numbers[-1]}").get(ALL)
            least = merged(before, [offer(child.seed, n) for n in range(numbers[-1] + 1)])
            assert same_bits(join(held, least), held)
    for name in set(store.tags()) - set(tagged):
        store.untag(name)


def place_of(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> Path | str:
    if where == "s3":
        request.getfixturevalue("s3")
        return "s3://bucket/fits"
    return tmp_path / "fits"


@pytest.mark.parametrize(
    ("where", "kills"),
    [
        ("local", 210),
        ("s3", 33),
        pytest.param("local", 2000, marks=pytest.mark.slow),
        pytest.param("s3", 300, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments(where: str, kills: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder, moments = place_of(where, tmp_path, request), random.Random(kills)
    store = FitStore.create(folder, samples=SAMPLES, fingerprint=FINGERPRINT)
    tagged = {}
    for number, name in enumerate(KEPT):
        store.merge(*offer(10**6, number))
        store.tag(name)
        tagged[name] = changed_fits(store.get(ALL))
    killed, rounds, progress, patience = 0, 0, 0, 1.0
    while killed < kills:
        before, works = state(folder), TOGETHER[rounds % len(TOGETHER)]
        children = [
            Child(work, folder, tmp_path / f"reports-{rounds}-{place}", 10 * rounds + place) for place, work in enumerate(works)
        ]
        for child in children:
            child.wait_until_ready()
        for child in moments.sample(children, len(children)):
            time.sleep(patience * moments.choice([0.002, 0.01, 0.03]) * moments.random())
            child.kill()
            killed += 1
        found, what = state(folder), f"round {rounds}: {[work[0].__name__ for work in works]}"
        progress += sum(len(child.words()) for child in children)
        # On a busy machine as much must have been going on as on an idle one.
        patience = patience * 1.2 if progress < killed else max(1.0, patience / 1.2)
        if works[0][0] is restore:
            done = [name for word, name in children[0].words() if word == RESTORED]
            nexts = KEPT[len(done) % len(KEPT)]
            allowed = [tagged[done[-1]] if done else before, tagged[nexts]]
            assert any(same_bits(found, fits) for fits in allowed), f"torn: {what}"
            check_tags(folder, before, tagged, [])
        else:
            check_writers(before, found, children, what)
            check_tags(folder, before, tagged, children)
        if rounds % 20 == 0:
            assert verify(folder).whole, what
        rounds += 1
    assert progress > kills / 2, "the children hardly got to do anything"
    FitStore.open(folder).compact()
    checked = verify(folder)
    assert checked.whole and checked.generations < 6


@pytest.mark.parametrize(("where", "rounds"), [("local", 50), ("s3", 15)])
def test_four_processes_that_merge_the_same_rows_at_once_equal_one_that_merges_alone(
    where: str, rounds: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """100,000 updates of 120 samples (30,000), some of them delivered twice, with compactions by two of the four."""
    rows, folder = 500, place_of(where, tmp_path, request)
    FitStore.create(folder, samples=SAMPLES, fingerprint=FINGERPRINT)
    children = [
        CONTEXT.Process(
            target=kill_workers.without_syncing,
            args=(
                kill_workers.many,
                folder,
                tmp_path / f"reports{seed}",
                seed,
                (rounds, rows, every),
                dict(os.environ),
            ),
        )
        for seed, every in ((1, 0), (2, 7), (3, 0), (4, 5))
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    serial = FitTable.of(Fits.empty(SAMPLES))
    for seed in (4, 2, 1, 3):
        for number in reversed(range(rounds)):
            serial.merge(*kill_workers.many_updates(seed, number, rows))
    assert len(children) * rounds * rows == {"local": 100_000, "s3": 30_000}[where]
    assert same_bits(state(folder), serial.fits)
