"""What child processes do to a store until they are killed. Each reports to a file what it was told is durable."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from fit_samples import FINGERPRINT, random_fits

from store import Fits, FitStore

SAMPLES = 200


def round_updates(seed: int, number: int) -> tuple[np.ndarray, Fits]:
    """The updates that worker `seed` offers in its round `number`."""
    rng = np.random.default_rng([seed, number])
    return rng.integers(0, SAMPLES, 50), random_fits(50, rng, step=number)


def report(path: Path, line: str) -> None:
    """Survives SIGKILL: one write, straight to the system."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def write_forever(folder: Path, acknowledged: Path, seed: int, rounds: int, compact_every: int) -> None:
    """Merge and flush round after round, compacting now and then."""
    store = FitStore.open(folder, fingerprint=FINGERPRINT, writer=f"seed{seed}")
    report(acknowledged, "ready")
    for number in range(rounds):
        store.merge(*round_updates(seed, number))
        store.flush()
        report(acknowledged, str(number))
        if compact_every and number % compact_every == compact_every - 1:
            store.compact()


def restore_forever(folder: Path, acknowledged: Path, tags: list[str]) -> None:
    """Restore one tag after the other, with a compaction between."""
    store = FitStore.open(folder, fingerprint=FINGERPRINT)
    report(acknowledged, "ready")
    while True:
        for tag in tags:
            store.restore(tag)
            report(acknowledged, tag)
            store.compact()
