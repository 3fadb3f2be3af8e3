"""The fit store as a Ray actor: one data set's records in memory, for many fitters and trainers at once.

The actor is a cache, never the truth. What `commit` or `flush` has acknowledged is on disk; an actor that is killed
starts again from there, and Ray repeats the calls it had not answered, which merging makes harmless.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from store.fits import FitStore

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from store.fingerprint import Fingerprint
    from store.records import Fits

# Group commit: at most this long, or this many records, before accepted offers are written.
FLUSH_SECONDS = 1.0
FLUSH_RECORDS = 4096
# So many segments are absorbed into a generation: opening a store reads them all.
MAX_SEGMENTS = 512


class Update(Protocol):
    """Fits of some samples, to be merged."""

    @property
    def ids(self) -> Int[np.ndarray, " n"]: ...
    @property
    def fits(self) -> Fits: ...


class FitService:
    """Serves one store. Every method can be called without Ray."""

    def __init__(self, path: Path, samples: int, fingerprint: Fingerprint, writer: str) -> None:
        self.store = FitStore.open_or_create(path, samples=samples, fingerprint=fingerprint, writer=writer)
        self._flushed = time.monotonic()
        self._fence: str | None = None

    def begin(self, fence: str, tag: str | None) -> None:
        """From now on offers must carry `fence`: those of workers that went before are refused. Restores `tag`, if given.

        An actor that was killed has forgotten the fence, and takes every offer until the workers begin again.
        """
        self._fence = fence
        if tag is not None:
            self.store.restore(tag)

    def get(self, ids: Int[np.ndarray, " n"]) -> Fits:
        """The records of these samples (source NONE where there is no fit)."""
        return self.store.get(ids)

    def offer(self, ids: Int[np.ndarray, " n"], fits: Fits, fence: str) -> Bool[np.ndarray, " n"]:
        """Merges; True where the offer became the record. On disk within a group commit, or at `flush`."""
        if self._fence not in (None, fence):
            return np.zeros(len(ids), bool)
        accepted = self.store.merge(ids, fits)
        if self.store.pending >= FLUSH_RECORDS or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()
        return accepted

    def commit(self, update: Update) -> int:
        """Merges and returns, with the number of records that changed, once that is on disk."""
        accepted = self.store.merge(update.ids, update.fits)
        self.flush()
        return int(accepted.sum())

    def flush(self) -> int:
        written = self.store.flush()
        if self.store.segments >= MAX_SEGMENTS:
            self.store.compact()
        self._flushed = time.monotonic()
        return written

    def tag(self, name: str) -> None:
        """Names the state as it is now, durably. Nothing happens if that name is taken: a repeated call, then."""
        if name not in self.store.tags():
            self.store.tag(name)

    def tags(self) -> list[str]:
        return self.store.tags()

    def compact(self) -> None:
        self.store.compact()

    def summary(self) -> dict[str, Any]:
        return self.store.summary()


def start_service(path: Path, samples: int, fingerprint: Fingerprint, writer: str) -> Any:
    """The actor's handle, once it is open. Raises what opening the store raises."""
    import ray

    # Opened here first: an error in an actor's constructor reaches nobody until the first call, and then wrapped.
    FitStore.open_or_create(path, samples=samples, fingerprint=fingerprint, writer=writer)
    actor: Any = ray.remote(FitService).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    handle = actor.remote(path, samples, fingerprint, writer)
    ray.get(handle.tags.remote())
    return handle
