"""Makes updates durable: writes them as segments, and acknowledges them once they count."""

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
        """Writes everything pending; returns the number of records. What an error left unwritten is still pending.

        Raises StaleWriterError if the store was restored meanwhile, OSError if the disk refuses.
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
        """Retracts the fits of these samples, durably; returns how many had one. Raises as flush and refresh do."""
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
            # What was merged meanwhile is pending, and loses here as it will elsewhere.
            replica.absorb(chosen, fits)
        return len(chosen)

    def _write(self, ids: Int64[np.ndarray, "k"], rows: np.ndarray, operation: str, where: str = "") -> None:
        """Writes one segment. On return it is durable, and part of the current state."""
        replica, layout = self._replica, self._replica.layout
        names = dict(replica.state.runs)
        runs = {code: name for code, name in names.items() if (rows["run"] == np.uint64(code)).any()}
        info = SegmentInfo(operation, replica.writer, replica.clock(), where, runs)
        while True:
            # Others may have compacted since: segments in earlier folders of the line count, too.
            number = replica.state.generation.number
            try:
                name = write_segment(
                    layout, number, fingerprint=replica.manifest.fingerprint, info=info, ids=ids, rows=rows
                )
                break
            except FileNotFoundError:
                # A compaction moved on and removed the empty folder of a generation before.
                if read_current(layout) == number:
                    raise
        # A restore that came before the segment did has left it behind; one that comes later undoes it
        # knowingly.
        self._follower.current_in_line()
        with replica.memory:
            replica.state.note(name, info, len(ids))
