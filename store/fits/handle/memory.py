"""What one handle of a fit store has in memory: the state, and which of its records are not yet durable."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from store.errors import StaleWriterError
from store.fits.format.layout import Layout, Manifest
from store.fits.format.state import State
from store.fits.records import Fits, take_rows
from store.fits.runs import run_code
from store.fits.table import Merged

if TYPE_CHECKING:
    from jaxtyping import Int64, Integer


class Replica:
    """The state in memory, and the updates that wait to be written.

    Three locks, taken in this order. `maintenance` is held by operations on the whole store, before the place's own
    lock; `disk` while segments are read or written, one thing at a time, but not while a compaction writes a generation;
    `memory` while records are looked up or changed, and never while waiting for a file.
    """

    def __init__(self, layout: Layout, manifest: Manifest, state: State, writer: str, clock: Callable[[], int]) -> None:
        self.layout = layout
        self.manifest = manifest
        self.writer = writer
        self.clock = clock
        self.maintenance = threading.RLock()
        self.memory = threading.RLock()
        self.disk = threading.RLock()
        self._state = state
        self._pending = np.zeros(manifest.samples, bool)
        self._in_flight = 0

    @property
    def state(self) -> State:
        return self._state

    @property
    def pending(self) -> int:
        """The number of records that changed and are not yet durable."""
        with self.memory:
            return int(np.count_nonzero(self._pending)) + self._in_flight

    def get(self, ids: Integer[np.ndarray, "k"]) -> Fits:
        """Return copies of these records. Raises SampleIdError."""
        with self.memory:
            return self._state.table.get(ids)

    def offer(self, ids: Integer[np.ndarray, "k"], fits: Fits) -> Merged:
        """Merge offers; changed records are pending. Raises SampleIdError, RecordError."""
        with self.memory:
            merged = self._state.table.merge(ids, fits)
            self._pending[merged.changed] = True
        return merged

    def absorb(self, ids: Integer[np.ndarray, "k"], fits: Fits) -> None:
        """Merge records that are already durable."""
        with self.memory:
            self._state.table.merge(ids, fits)

    def name_run(self, name: str) -> int:
        code = run_code(name)
        if name:
            with self.memory:
                self._state.runs[code] = name
        return code

    def pending_ids(self) -> Int64[np.ndarray, "k"]:
        with self.memory:
            return np.flatnonzero(self._pending)

    @contextmanager
    def writing(self, ids: Int64[np.ndarray, "k"]) -> Iterator[np.ndarray]:
        """Yield copies of these pending records, (k,) of ROW. Afterwards they are durable, or after an error pending again.

        Records merged at the same time are pending, too.
        """
        with self.memory:
            rows = take_rows(self._state.table.rows, ids)
            self._pending[ids] = False
            self._in_flight = len(ids)
        try:
            yield rows
        except BaseException:
            with self.memory:
                self._pending[ids] = True
            raise
        finally:
            self._in_flight = 0

    def adopt(self, state: State) -> None:
        """Replace the state. The new one must hold every durable record of the old one."""
        with self.memory:
            self._state = state

    def follow(self, state: State) -> None:
        """Adopt what another handle made current, and merge this handle's pending updates into it.

        Raises StaleWriterError if there are some and the state is of another line of history.
        """
        with self.memory:
            ids = np.flatnonzero(self._pending)
            if len(ids):
                if state.generation.line != self._state.generation.line:
                    raise self.stale()
                self._pending[:] = False
                self._pending[state.table.merge(ids, self._state.table.get(ids)).changed] = True
            state.runs |= self._state.runs
            self._state = state

    def go_back(self, state: State) -> None:
        """Adopt a state, and discard pending updates."""
        with self.memory:
            self._pending[:] = False
            self._state = state

    def stale(self) -> StaleWriterError:
        return StaleWriterError(
            f"{self.layout.location}: the store was restored to a tag while it was open here; {self.pending} pending "
            "updates belong to the state before and are not written; open the store again"
        )
