"""The writer of a handle: makes updates durable as segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from store.fits.format.layout import read_current
from store.fits.format.segments import MERGE, RESET, ROWS_PER_SEGMENT, SegmentInfo, write_segment
from store.fits.handle.memory import Replica
from store.fits.handle.reader import Follower
from store.fits.merge import retractions

if TYPE_CHECKING:
    from jaxtyping import Int64, Integer


class Flusher:
    """Writes one handle's segments."""

    def __init__(self, replica: Replica, follower: Follower) -> None:
        self._replica = replica
        self._follower = follower

    def flush(self) -> int:
        """Write everything pending, and return the number of records. What an error left unwritten is still pending.

        Raises StaleWriterError if the store was restored since, OSError if the disk fails.
        """
        written = 0
        with self._replica.disk:
            ids = self._replica.pending_ids()
            for start in range(0, len(ids), ROWS_PER_SEGMENT):
                part = ids[start : start + ROWS_PER_SEGMENT]
                with self._replica.writing(part) as rows:
                    self._write(part, rows, MERGE)
                written += len(part)
        return written

    def reset(self, ids: Integer[np.ndarray, "k"], where: str) -> int:
        """Retract the fits of these samples, durably, and return how many had one. Raises the errors of flush and refresh."""
        replica = self._replica
        with replica.disk:
            self.flush()
            self._follower.refresh()
            ids = np.unique(ids)
            known = replica.get(ids)
            fitted = known.source != 0
            chosen, fits = ids[fitted], retractions(known.epoch[fitted])
            for start in range(0, len(chosen), ROWS_PER_SEGMENT):
                part = slice(start, start + ROWS_PER_SEGMENT)
                self._write(chosen[part], fits.take(part).to_rows(), RESET, where)
            # Updates merged since are pending, and lose here as they will elsewhere.
            replica.absorb(chosen, fits)
        return len(chosen)

    def _write(self, ids: Int64[np.ndarray, "k"], rows: np.ndarray, operation: str, where: str = "") -> None:
        """Write one segment. On return it is durable, and part of the current state."""
        replica, layout = self._replica, self._replica.layout
        names = dict(replica.state.runs)
        runs = {code: name for code, name in names.items() if (rows["run"] == np.uint64(code)).any()}
        info = SegmentInfo(operation, replica.writer, replica.clock(), where, runs)
        while True:
            # Others may have compacted since: segments in earlier folders of the line count, too.
            number = replica.state.generation.number
            try:
                name = write_segment(layout, number, fingerprint=replica.manifest.fingerprint, info=info, ids=ids, rows=rows)
                break
            except FileNotFoundError:
                # A compaction moved on and removed the empty folder of a generation before.
                if read_current(layout) == number:
                    raise
        # A restore before the segment was written excludes it: then this raises. A later one undoes it.
        self._follower.current_in_line()
        with replica.memory:
            replica.state.note(name, info, len(ids))
