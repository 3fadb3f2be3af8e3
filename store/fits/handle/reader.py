"""The reader of a handle: takes in what other handles make durable."""

from __future__ import annotations

from store.errors import StoreError
from store.fits.format.layout import read_current
from store.fits.format.state import current_generation, load_current, read_segments
from store.fits.handle.memory import Replica


class Follower:
    """Reads what others made durable, and notices when they began another line of history."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        # A generation and its line, as last looked up.
        self._seen: tuple[int, int] | None = None

    def refresh(self) -> None:
        """Take in what other handles made durable. Needs no lock: if a compaction overtakes it, it reads again.

        Raises StaleWriterError if the store was restored and there are pending updates here; else as load_current does.
        """
        replica = self._replica
        with replica.disk:
            while not self._read_new_segments():
                # Another handle compacted or restored.
                replica.follow(load_current(replica.layout, replica.manifest))

    def _read_new_segments(self) -> bool:
        """Return whether the generation in memory stayed current."""
        layout, state = self._replica.layout, self._replica.state
        number = state.generation.number
        if read_current(layout) != number:
            return False
        listed = set(layout.segment_names(state.generation.line, number))
        try:
            for name, segment in read_segments(layout, self._replica.manifest, sorted(listed - state.names)):
                with self._replica.memory:
                    state.absorb(name, segment)
        except (StoreError, OSError):
            if read_current(layout) == number:
                raise
            return False
        if read_current(layout) != number:
            return False
        state.names &= listed
        return True

    def current_in_line(self) -> int:
        """Return the current generation's number.

        Raises StaleWriterError if it is of another line of history than this handle.
        """
        replica, line = self._replica, self._replica.state.generation.line
        number = read_current(replica.layout)
        if (number, line) != self._seen:
            generation = current_generation(replica.layout, replica.manifest.fingerprint)
            if generation.line != line:
                raise replica.stale()
            # The process that moved CURRENT may not have made that durable yet; updates written against it must not
            # be durable first.
            replica.layout.files.sync()
            number = generation.number
            self._seen = (number, line)
        return number
