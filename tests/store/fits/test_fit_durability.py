"""Killed at any moment, a store opens to the state before or after; what was acknowledged is there."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fit_samples import FINGERPRINT, changed_fits, random_fits, same_bits

from store import Fits, FitStore, FitStoreNotFoundError
from store.fits.table import FitTable

SAMPLES = 200
ALL = np.arange(SAMPLES)
STEPS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir")


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
    store = FitStore.create(tmp_path_factory.mktemp("base") / "fits", samples=SAMPLES, fingerprint=FINGERPRINT)
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
def test_a_crash_at_every_step_leaves_the_old_or_the_new_state(operation: str, base: Path, tmp_path: Path) -> None:
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
            except Exception as error:  # Any error must be ours and name what is damaged.
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
