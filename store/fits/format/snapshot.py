"""A tagged state, as people look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from store.fits.fingerprint import Fingerprint
from store.fits.format.state import State
from store.fits.format.tags import Tag
from store.fits.records import Fits

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from jaxtyping import Integer


class FitSnapshot:
    """A tagged state, read-only, in memory."""

    def __init__(self, tag: Tag, fingerprint: Fingerprint, state: State) -> None:
        self.tag = tag
        self.fingerprint = fingerprint
        self.runs: Mapping[int, str] = state.runs
        self._table = state.table

    @property
    def samples(self) -> int:
        return len(self._table)

    @property
    def fits(self) -> Fits:
        """All records, not copied: to be read only."""
        return self._table.fits

    def get(self, ids: Integer[np.ndarray, "k"]) -> Fits:
        """Copies of the records of these samples, in the tagged state. Raises SampleIdError."""
        return self._table.get(ids)

    def summary(self) -> dict:
        """As FitStore.summary, of the tagged state."""
        return {
            **self._table.summary(),
            "generation": self.tag.generation,
            "segments": len(self.tag.segments),
        }
