"""The fit store as a Ray actor: one data set's records in memory, for many fitters and trainers at once.

The actor is a cache, never the truth. What `commit` or `flush` has acknowledged is on disk; an actor that is killed
starts again from there, and Ray repeats the calls it had not answered, which merging makes harmless. Offers are written back
in groups, by a thread of its own, so that look-ups don't wait for the disk; when the disk falls behind, offers wait for it.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipelines.cluster.nodes import on_driver_node
from store.fits.runs import now_ms
from store.fits.store import FitStore

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from store.fits.fingerprint import Fingerprint
    from store.fits.records import Fits

# Group commit: at most this long, or this many records, before accepted offers are written.
FLUSH_SECONDS = 1.0
FLUSH_RECORDS = 4096
# Records that may wait for the disk; further offers wait until it has taken some.
MAX_PENDING = 8 * FLUSH_RECORDS
_LATENCIES = 4096  # calls of a kind that are remembered


class Update(Protocol):
    """Fits of some samples, to be merged."""

    @property
    def ids(self) -> Int[np.ndarray, " n"]: ...
    @property
    def fits(self) -> Fits: ...


class StaleWorkersError(RuntimeError):
    """Training workers know of offers that this service doesn't. They go back to their last checkpoint, the fits with them.

    Not among the expected errors: Ray Train starts such workers again.
    """


class FitService:
    """Serves one store. Every method can be called without Ray.

    `run` is the name stored with fits that don't say whose they are. An error of the background writer is raised by the
    next offer, commit or flush; what it concerns stays pending and is tried again.
    """

    def __init__(
        self,
        path: Path | str,
        samples: int,
        fingerprint: Fingerprint,
        writer: str,
        run: str = "",
        *,
        flush_seconds: float | None = None,
        flush_records: int | None = None,
        max_pending: int | None = None,
    ) -> None:
        self.store = FitStore.open_or_create(path, samples=samples, fingerprint=fingerprint, writer=writer)
        self._run = self.store.name_run(run)
        self._seconds = FLUSH_SECONDS if flush_seconds is None else flush_seconds
        self._records = FLUSH_RECORDS if flush_records is None else flush_records
        self._max_pending = MAX_PENDING if max_pending is None else max_pending
        self._fence = self.store.fence(run) or None
        self._begun: str | None = None  # the fence, once this process knows it
        self._run_name = run
        self._counts: defaultdict[str, float] = defaultdict(float)
        self._latency: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_LATENCIES))
        self._failure: Exception | None = None
        self._wanted, self._closed = threading.Event(), threading.Event()
        self._writer = threading.Thread(target=self._write_back, name="write-back", daemon=True)
        self._writer.start()
        self._compactor = threading.Thread(target=self._compact_in_time, name="compact", daemon=True)
        self._compactor.start()
        atexit.register(self.close)

    def begin(self, fence: str, tag: str | None) -> None:
        """From now on offers must carry `fence`: those of workers that went before are refused. Restores `tag`, if given.

        An actor that was killed starts again with the fence, as it is written down in the store first. It has lost what was
        not on disk yet, so it tells the workers with StaleWorkersError until they begin again.
        """
        self.store.set_fence(self._run_name, fence)
        self._fence = self._begun = fence
        if tag is not None:
            self.store.restore(tag)

    def get(self, ids: Int[np.ndarray, " n"]) -> Fits:
        """The records of these samples (source NONE where there is no fit)."""
        with self._timed("get"):
            return self.store.get(ids)

    def offer(self, ids: Int[np.ndarray, " n"], fits: Fits, fence: str) -> Bool[np.ndarray, " n"]:
        """Merges; True where the offer became the record. On disk within a group commit, or at `flush`."""
        if self._fence not in (None, fence):
            self._counts["refused"] += len(ids)
            return np.zeros(len(ids), bool)
        self._require_begun()
        with self._timed("offer"):
            accepted = self._merge(ids, fits)
            pending = self.store.pending
            if pending >= self._records:
                self._wanted.set()
            if pending >= self._max_pending:
                self.flush()
            self._raise_failure()
        return accepted

    def commit(self, update: Update) -> int:
        """Merges and returns, with the number of records that changed, once that is on disk."""
        with self._timed("commit"):
            accepted = self._merge(update.ids, update.fits)
            self.flush()
        return int(accepted.sum())

    def flush(self) -> int:
        """Everything offered so far is on disk when this returns; the number of records written."""
        with self._timed("flush"):
            written = self.store.flush()
        self._failure = None
        self._counts["written"] += written
        return written

    def tag(self, name: str, fence: str | None = None) -> None:
        """Names the state as it is now, durably. Nothing happens if that name is taken: a repeated call, then.

        Training workers give their `fence`; StaleWorkersError if their state isn't this one.
        """
        if fence is not None:
            if self._fence not in (None, fence):
                raise StaleWorkersError("other workers have taken over this run")
            self._require_begun()
        if name not in self.store.tags():
            self.store.tag(name)

    def tags(self) -> list[str]:
        return self.store.tags()

    def untag(self, names: Sequence[str]) -> None:
        """Remove tags, if they exist; compaction then frees what only they needed."""
        known = set(self.store.tags())
        for name in names:
            if name in known:
                self.store.untag(name)

    def compact(self) -> None:
        self.store.compact()

    def refresh(self) -> None:
        """Takes in what others did to the store: a reset from the command line, for example."""
        self.store.refresh()

    def summary(self) -> dict[str, Any]:
        return self.store.summary()

    def metrics(self) -> dict[str, float]:
        """Counts of records offered, accepted, written and refused, score gained, records pending, segments; and for every
        kind of call p50 and p99 of its newest latencies in ms."""
        found = {name: self._counts[name] for name in ("offered", "accepted", "written", "refused", "score_gained")}
        found |= {"pending": self.store.pending, "segments": self.store.segments}
        for kind, seconds in list(self._latency.items()):
            for rank in (50, 99):
                found[f"{kind}_p{rank}_ms"] = 1e3 * float(np.percentile(list(seconds), rank))
        return found

    def close(self) -> None:
        """Ends the background writer and writes what is pending. May be called again."""
        if not self._closed.is_set():
            self._closed.set()
            self._wanted.set()
            self._writer.join()
            self._compactor.join()
            atexit.unregister(self.close)
        self.flush()

    def _require_begun(self) -> None:
        if self._begun != self._fence:
            raise StaleWorkersError("the service of fits was killed, and what was not on disk yet is lost")

    def _merge(self, ids: Int[np.ndarray, " n"], fits: Fits) -> Bool[np.ndarray, " n"]:
        time_ms = np.where(fits.time == 0, now_ms(), fits.time).astype(np.int64)
        run = np.where(fits.run == 0, np.uint64(self._run), fits.run)
        accepted, gained = self.store.offer(ids, replace(fits, time=time_ms, run=run))
        self._counts["offered"] += len(ids)
        self._counts["accepted"] += int(accepted.sum())
        self._counts["score_gained"] += gained
        return accepted

    def _write_back(self) -> None:
        while not self._closed.is_set():
            self._wanted.wait(self._seconds)
            self._wanted.clear()
            if self.store.pending and not self._closed.is_set():
                try:
                    self.flush()
                except Exception as error:
                    self._failure = error

    def _compact_in_time(self) -> None:
        """Compact in the background while the writer goes on: a large generation takes longer to write than offers may wait."""
        while not self._closed.wait(self._seconds):
            try:
                if self.store.worth_compacting:
                    self.store.compact()
            except Exception as error:
                self._failure = error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._latency[kind].append(time.perf_counter() - begin)


def start_service(path: Path | str, samples: int, fingerprint: Fingerprint, writer: str, run: str = "") -> Any:
    """The actor's handle, once it is open. Raises what opening the store raises."""
    import ray

    # Opened here first: an error in an actor's constructor is only seen at the first call, and wrapped.
    FitStore.open_or_create(path, samples=samples, fingerprint=fingerprint, writer=writer)
    actor: Any = ray.remote(FitService).options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=on_driver_node()
    )
    handle = actor.remote(path, samples, fingerprint, writer, run)
    ray.get(handle.tags.remote())
    return handle
