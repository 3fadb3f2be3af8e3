"""What processes do to a store until they are killed; and how they report, so that it survives them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fit_samples import FINGERPRINT, random_fits

from store import Fits, FitStore

SAMPLES = 120
OFFERED = 30
FLUSHED, TAGGED, RESTORED = "flushed", "tagged", "restored"


def offer(seed: int, number: int) -> tuple[np.ndarray, Fits]:
    """What worker `seed` offers in its round `number`; never of an epoch."""
    rng = np.random.default_rng([seed, number])
    return rng.integers(0, SAMPLES, OFFERED), random_fits(OFFERED, rng, step=number)


class Reports:
    """Lines that survive SIGKILL: each one write, straight to the system."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, *words: object) -> None:
        os.write(self._descriptor, f"{' '.join(map(str, words))}\n".encode())


def write(folder: Path, reports: Path, seed: int, compact_every: int) -> None:
    """Merges and flushes, and compacts now and then."""
    report = Reports(reports)
    store = FitStore.open(folder, fingerprint=FINGERPRINT, writer=f"seed{seed}")
    report("ready")
    for number in range(100_000):
        store.merge(*offer(seed, number))
        store.flush()
        report(FLUSHED, number)
        if compact_every and number % compact_every == compact_every - 1:
            store.compact()


def look_after(folder: Path, reports: Path, seed: int, names: list[str]) -> None:
    """Flushes, tags, compacts, collects and removes its tags again."""
    report = Reports(reports)
    store = FitStore.open(folder, fingerprint=FINGERPRINT, writer=f"seed{seed}")
    report("ready")
    for number in range(100_000):
        store.merge(*offer(seed, number))
        store.flush()
        report(FLUSHED, number)
        store.tag(f"k{seed}-{number}")
        report(TAGGED, number)
        store.compact()
        store.gc(grace_s=0)
        if number % 3 == 2:
            store.untag(f"k{seed}-{number - 1}")


def restore(folder: Path, reports: Path, seed: int, names: list[str]) -> None:
    """Goes back to one tag after the other, with a compaction between."""
    report = Reports(reports)
    store = FitStore.open(folder, fingerprint=FINGERPRINT)
    report("ready")
    for number in range(100_000):
        store.restore(names[number % len(names)])
        report(RESTORED, names[number % len(names)])
        store.compact(force=True)


def serve(folder: Path, reports: Path, seed: int, compact_every: int) -> None:
    """The actor's process: offers to a service whose threads write and compact; every other round is acknowledged."""
    import store.fits.handle.maintenance
    from pipelines.fits.service import FitService

    report = Reports(reports)
    store.fits.handle.maintenance.WORTH_COMPACTING = 4000 if compact_every else 10**9
    service = FitService(folder, SAMPLES, FINGERPRINT, f"seed{seed}", flush_seconds=0.002)
    report("ready")
    for number in range(100_000):
        service.offer(*offer(seed, number), "")
        if number % 2:
            service.flush()
            report(FLUSHED, number)
        time.sleep(0.001)


def many_updates(seed: int, number: int, rows: int) -> tuple[np.ndarray, Fits]:
    rng = np.random.default_rng([seed, number])
    return rng.integers(0, SAMPLES, rows), random_fits(rows, rng, step=number)


def many(folder: Path, reports: Path, seed: int, how_many: tuple[int, int, int]) -> None:
    """So many rounds of so many updates, every tenth of which is delivered twice, and then an end."""
    rounds, rows, compact_every = how_many
    store = FitStore.open(folder, fingerprint=FINGERPRINT, writer=f"seed{seed}")
    for number in range(rounds):
        ids, fits = many_updates(seed, number, rows)
        store.merge(ids, fits)
        store.flush()
        if number % 10 == 9:
            store.merge(ids, fits)
            store.flush()
        if compact_every and number % compact_every == compact_every - 1:
            store.compact()


def without_syncing(
    work: Callable[..., None],
    folder: Path,
    reports: Path,
    seed: int,
    argument: object,
    environment: dict[str, str],
) -> None:
    """A killed process leaves what it has written, synced or not: only a loss of power wouldn't.

    `environment`: what has changed in it since the process was started that all children are forked from.
    """
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    os.environ.update(environment)
    work(folder, reports, seed, argument)
