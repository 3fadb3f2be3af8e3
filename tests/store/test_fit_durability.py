"""Killed at any moment, a store opens to the state before or after; what was acknowledged is there."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fit_samples import FINGERPRINT, changed_fits, random_fits, same_bits
from fit_workers import SAMPLES, restore_forever, round_updates, write_forever

from store import Fits, FitStore, FitStoreNotFoundError
from store.table import FitTable

ALL = np.arange(SAMPLES)
STEPS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["store", "fit_workers"])


class Crash(BaseException):
    """The process is gone: nothing after this reaches the disk."""


class CrashAt:
    """Calls that change names or make bytes durable count; from the k-th on, none happens.

    A run of syncs counts once, as does a run of calls inside an unfinished folder: a process killed between them
    leaves the same names.
    """

    def __init__(self, patch: pytest.MonkeyPatch, last: int) -> None:
        self.calls, self.last, self.before = 0, last, ""
        for name in STEPS:
            patch.setattr(os, name, self._counted(name, getattr(os, name)))
        patch.setattr(shutil, "rmtree", self._counted("rmtree", shutil.rmtree))

    def _counted(self, name: str, call: Callable) -> Callable:
        def counted(subject: object, *arguments: object, **named: object) -> object:
            unfinished = name != "fsync" and ".tmp-" in os.path.dirname(str(subject))
            kind = "unfinished" if unfinished else name
            if kind not in ("fsync", "unfinished") or kind != self.before:
                self.calls += 1
            self.before = kind
            if self.calls > self.last:
                raise Crash
            return call(subject, *arguments, **named)

        return counted


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a tag on an old generation, and segments since, one of them tagged."""
    rng = np.random.default_rng(0)
    store = FitStore.create(
        tmp_path_factory.mktemp("base") / "fits", samples=SAMPLES, fingerprint=FINGERPRINT
    )
    store.merge(ALL, random_fits(SAMPLES, rng))
    store.tag("early")
    store.compact()
    store.merge(rng.integers(0, SAMPLES, 50), random_fits(50, rng))
    store.tag("late")
    store.merge(rng.integers(0, SAMPLES, 50), random_fits(50, rng))
    store.flush()
    return store.path


OFFER = (np.arange(30), changed_fits(random_fits(30, np.random.default_rng(9)), score=-1))
OPERATIONS: dict[str, Callable[[FitStore], object]] = {
    "flush": lambda store: store.flush(),
    "tag": lambda store: store.tag("new"),
    "compact": lambda store: store.compact(),
    "restore": lambda store: store.restore("early"),
}


def state(folder: Path) -> Fits:
    return FitStore.open(folder, fingerprint=FINGERPRINT).get(ALL)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_crash_at_every_step_leaves_the_old_or_the_new_state(
    operation: str, base: Path, tmp_path: Path
) -> None:
    old = state(base)
    offered = FitTable.of(changed_fits(old))
    offered.merge(*OFFER)
    tags = {name: FitStore.open(base).at(name).get(ALL) for name in ("early", "late")}
    new = tags["early"] if operation == "restore" else offered.fits
    seen = set()
    for last in range(1000):
        folder = tmp_path / str(last)
        shutil.copytree(base, folder)
        store = FitStore.open(folder)
        store.merge(*OFFER)
        with pytest.MonkeyPatch.context() as patch:
            crash = CrashAt(patch, last)
            with suppress(Crash):
                OPERATIONS[operation](store)
        reopened = FitStore.open(folder, fingerprint=FINGERPRINT)
        left = reopened.get(ALL)
        seen.add("old" if same_bits(left, old) else "new")
        assert same_bits(left, old) or same_bits(left, new), f"torn after step {last}"
        for name, expected in tags.items():
            assert same_bits(reopened.at(name).get(ALL), expected)
        if crash.calls <= last:
            break
        reopened.merge(*OFFER)
        OPERATIONS[operation](reopened)
        assert same_bits(state(folder), new), f"can't go on after step {last}"
        shutil.rmtree(folder)
    assert last > 2 and same_bits(left, new)
    assert seen == {"old", "new"}


def test_a_crash_at_every_step_of_create_leaves_nothing_or_a_store(tmp_path: Path) -> None:
    for last in range(1000):
        folder = tmp_path / str(last) / "fits"
        with pytest.MonkeyPatch.context() as patch:
            crash = CrashAt(patch, last)
            with suppress(Crash):
                FitStore.create(folder, samples=SAMPLES, fingerprint=FINGERPRINT)
        if crash.calls <= last:
            break
        with suppress(FitStoreNotFoundError):
            FitStore.open(folder)
        store = FitStore.open_or_create(folder, samples=SAMPLES, fingerprint=FINGERPRINT)
        assert same_bits(store.get(ALL), Fits.empty(SAMPLES))
    assert last > 10


def test_a_segment_is_synced_before_it_is_named_and_its_name_before_it_is_acknowledged(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(base, tmp_path / "fits")
    store = FitStore.open(tmp_path / "fits")
    store.merge(*OFFER)
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        calls.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))[:6]))
        fsync(descriptor)

    def spy_replace(source: Path, target: Path) -> None:
        calls.append(("replace", target.suffix))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    store.flush()
    at = calls.index(("replace", ".arrow"))
    assert calls[at - 1] == ("fsync", ".tmp-" + calls[at - 1][1][5:]) and calls[at + 1] == ("fsync", "000001")
    assert ("fsync", "segmen") in calls[:at], "the new folder's own name"


class Child:
    """A process of the test's own, killed at the end whatever happens."""

    def __init__(self, target: Callable, folder: Path, reports: Path, *arguments: object) -> None:
        self.reports = reports
        self.process = CONTEXT.Process(target=target, args=(folder, reports, *arguments), daemon=True)
        self.process.start()

    def lines(self) -> list[str]:
        """Whole lines after 'ready'."""
        if not self.reports.exists():
            return []
        return self.reports.read_text().split("\n")[1:-1]

    def kill_after(self, lines: int, seconds: float) -> None:
        """Wait for so many reports, so that a slow machine tests as much, then so long, then SIGKILL."""
        limit = time.monotonic() + 60
        while len(self.lines()) < lines:
            assert self.process.is_alive() and time.monotonic() < limit, "the child does not get on"
            time.sleep(0.001)
        time.sleep(seconds)
        self.process.kill()
        self.process.join()

    def finish(self) -> None:
        self.process.join(60)
        assert self.process.exitcode == 0


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    yield FitStore.create(tmp_path / "fits", samples=SAMPLES, fingerprint=FINGERPRINT).path


@pytest.mark.parametrize("compact_every", [0, 1, 4])
def test_no_acknowledged_update_is_lost_to_sigkill(compact_every: int, empty: Path, tmp_path: Path) -> None:
    moments = random.Random(compact_every)
    expected = FitTable.of(Fits.empty(SAMPLES))
    for seed in range(6):
        child = Child(write_forever, empty, tmp_path / f"reports{seed}", seed, 100_000, compact_every)
        child.kill_after(moments.randint(1, 5), moments.uniform(0.0, 0.03))
        acknowledged = len(child.lines())
        for number in range(acknowledged):
            expected.merge(*round_updates(seed, number))
        found = state(empty)
        with_unacknowledged = FitTable.of(changed_fits(expected.fits))
        with_unacknowledged.merge(*round_updates(seed, acknowledged))
        assert same_bits(found, expected.fits) or same_bits(found, with_unacknowledged.fits)
        expected = FitTable.of(found)


def test_a_restore_is_whole_or_absent_after_sigkill(empty: Path, tmp_path: Path) -> None:
    store = FitStore.open(empty)
    tagged = {}
    for number, name in enumerate(("a", "b")):
        store.merge(*round_updates(99, number))
        store.tag(name)
        tagged[name] = store.get(ALL)
    moments = random.Random(0)
    for attempt in range(8):
        child = Child(restore_forever, empty, tmp_path / f"reports{attempt}", ["a", "b"])
        child.kill_after(moments.randint(1, 3), moments.uniform(0.0, 0.06))
        found = state(empty)
        last = child.lines()[-1:]
        allowed = [tagged["a"], tagged["b"]]
        assert any(same_bits(found, fits) for fits in allowed), f"torn; last acknowledged: {last}"
        for name, fits in tagged.items():
            assert same_bits(FitStore.open(empty).at(name).get(ALL), fits)
    assert len(list((empty / "generations").glob("*.zarr"))) <= 4, "interrupted work is cleaned up"


def test_processes_that_write_at_once_equal_one_that_writes_alone(empty: Path, tmp_path: Path) -> None:
    rounds = 40
    children = [
        Child(write_forever, empty, tmp_path / f"reports{seed}", seed, rounds, compact_every)
        for seed, compact_every in ((1, 0), (2, 7), (3, 5))
    ]
    for child in children:
        child.finish()
    serial = FitTable.of(Fits.empty(SAMPLES))
    for seed in (3, 1, 2):
        for number in range(rounds):
            serial.merge(*round_updates(seed, number))
    assert same_bits(state(empty), serial.fits)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")


def test_a_flipped_bit_in_any_file_is_detected_and_named(base: Path, tmp_path: Path) -> None:
    """A flip is either harmless (the state is the same to the last bit) or refused by an error with the path."""
    random_bits = random.Random(0)
    old = state(base)
    tags = {name: FitStore.open(base).at(name).get(ALL) for name in ("early", "late")}
    refused = 0
    for path in _files(base):
        relative = path.relative_to(base)
        for _ in range(2):
            folder = tmp_path / "flipped"
            shutil.copytree(base, folder)
            content = bytearray(path.read_bytes())
            position = random_bits.randrange(len(content))
            content[position] ^= 1 << random_bits.randrange(8)
            (folder / relative).write_bytes(content)
            try:
                found = state(folder)
                tagged = {name: FitStore.open(folder).at(name).get(ALL) for name in ("early", "late")}
            except Exception as error:  # Whatever it is, it must be ours and name what is damaged.
                refused += 1
                assert type(error).__module__ == "store.errors", f"{relative} at {position}: {error!r}"
                assert str(folder) in str(error)
                if relative.parts[0] == "segments":
                    assert relative.name in str(error)
            else:
                assert relative.parts[0] not in ("segments", "tags", "CURRENT", "store.json"), relative
                assert same_bits(found, old), f"{relative} at {position}: not noticed"
                assert all(same_bits(tagged[name], tags[name]) for name in tags)
            shutil.rmtree(folder)
    assert refused > 20


@pytest.mark.parametrize("damage", ["cut", "empty", "lost chunk", "renamed"])
def test_other_damage_is_named(damage: str, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fits"
    shutil.copytree(base, folder)
    segment = sorted((folder / "segments").rglob("*.arrow"))[-1]
    if damage == "cut":
        segment.write_bytes(segment.read_bytes()[:-20])
    elif damage == "empty":
        segment.write_bytes(b"")
    elif damage == "renamed":
        segment = segment.rename(segment.with_name("mine.arrow"))
    else:
        segment = folder / "generations" / "000001.zarr"
        shutil.rmtree(segment / "betas" / "c")
    with pytest.raises(Exception, match=str(segment)) as caught:
        state(folder)
    assert type(caught.value).__name__ in ("CorruptSegmentError", "CorruptGenerationError")


def test_stray_temporary_files_are_not_read(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "fits")
    (tmp_path / "fits" / "segments" / "000001" / ".tmp-0123").write_bytes(b"half a segment")
    (tmp_path / "fits" / "generations" / ".tmp-0123").mkdir()
    assert same_bits(state(tmp_path / "fits"), state(base))
    FitStore.open(tmp_path / "fits").compact()
    assert not (tmp_path / "fits" / "generations" / ".tmp-0123").exists()
