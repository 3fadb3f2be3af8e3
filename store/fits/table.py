"""The records of all samples in memory, and the merge of offers into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from store.errors import RecordError, SampleIdError
from store.fits.merge import canonical, compare, merge_duplicates
from store.fits.records import Fits, Source, put_rows, take_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64, Integer

LOSS_PERCENTILES = (5, 50, 95)
_ROWS_AT_ONCE = 65_536
"""Records that one step of a merge looks at, so that its memory is small compared with the table's."""


@dataclass(frozen=True)
class Merged:
    """What a merge of k offers did.

    accepted: where an offer became its sample's record; of several offers for one sample at most one does.
    changed: (m,) the samples whose records differ from before, be it only in the count of improvements.
    gained: by how much scores fell, summed over samples that had a fit before and have one now.
    """

    accepted: Bool[np.ndarray, "k"]
    changed: Int64[np.ndarray, "m"]
    gained: float


def _gain(before: Float32[np.ndarray, "k"], after: Float32[np.ndarray, "k"]) -> float:
    """Return by how much scores fell, where there is a fit before and after."""
    both = np.isfinite(before) & np.isfinite(after)
    return float((before[both].astype(np.float64) - after[both]).sum())


class FitTable:
    """One record per sample, changed by merging only.

    Owns `rows` (n,) of store.fits.records.ROW, which must be canonical: fits that are admissible, or none.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    @classmethod
    def of(cls, fits: Fits) -> FitTable:
        """Return a table of copies of canonical records."""
        return cls(fits.to_rows().copy())

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> np.ndarray:
        """The records themselves, not a copy: read only."""
        return self._rows

    @property
    def fits(self) -> Fits:
        """The columns of the records themselves: read only."""
        return Fits.of_rows(self._rows)

    def get(self, ids: Integer[np.ndarray, "k"]) -> Fits:
        """Return copies of the records of these samples. Raises SampleIdError."""
        return Fits.of_rows(take_rows(self._rows, self._checked(ids)))

    def merge(self, ids: Integer[np.ndarray, "k"], fits: Fits) -> Merged:
        """Merge offered records. Raises SampleIdError, RecordError."""
        ids = self._checked(ids)
        if len(ids) != len(fits):
            raise RecordError(f"merge: {len(ids)} sample numbers for {len(fits)} records")
        if len(ids) <= _ROWS_AT_ONCE:
            return self._merge(ids, fits)
        parts = [
            self._merge(ids[start : start + _ROWS_AT_ONCE], fits.take(slice(start, start + _ROWS_AT_ONCE)))
            for start in range(0, len(ids), _ROWS_AT_ONCE)
        ]
        # A sample's offers may be in several parts: the last accepted one is its record.
        accepted = np.concatenate([part.accepted for part in parts])
        rows = np.flatnonzero(accepted)
        last = dict(zip(ids[rows].tolist(), rows.tolist()))
        accepted[:] = False
        accepted[list(last.values())] = True
        changed = np.unique(np.concatenate([part.changed for part in parts]))
        return Merged(accepted, changed, sum(part.gained for part in parts))

    def _merge(self, ids: Int64[np.ndarray, "k"], fits: Fits) -> Merged:
        offered = fits.to_rows()
        if not offered["source"].all():
            offered = canonical(fits).to_rows()
        winners = merge_duplicates(ids, offered)
        if len(winners.ids) < len(ids):
            offered = take_rows(offered, winners.places)
        before = take_rows(self._rows, winners.ids)
        comparison = compare(offered, before)
        won = np.flatnonzero(comparison.wins)
        accepted = np.zeros(len(ids), bool)
        changed, gained = winners.ids[won], 0.0
        if len(won):
            put_rows(self._rows, changed, take_rows(offered, won))
            accepted[winners.places[won]] = True
            gained = _gain(before["score"][won], offered["score"][won])
        if comparison.same.any():
            changed = np.concatenate([changed, self._count_most(winners.ids, offered, comparison.same)])
        return Merged(accepted=accepted, changed=changed, gained=gained)

    def _count_most(
        self, ids: Int64[np.ndarray, "k"], offered: np.ndarray, same: Bool[np.ndarray, "k"]
    ) -> Int64[np.ndarray, "m"]:
        """Keep the larger count of improvements of otherwise equal records, and return the samples whose count grew."""
        counts = offered["improvements"]
        more = same & (counts > self._rows["improvements"][ids])
        self._rows["improvements"][ids[more]] = counts[more]
        return ids[more]

    def summary(self) -> dict[str, Any]:
        """Return samples, the number of records by source, and percentiles of the losses (px²), None without fits."""
        source, loss = self._rows["source"], self._rows["loss"]
        counts = np.bincount(source, minlength=len(Source))
        losses = loss[source != Source.NONE]
        values = np.percentile(losses, LOSS_PERCENTILES) if len(losses) else [None] * len(LOSS_PERCENTILES)
        return {
            "samples": len(self._rows),
            "sources": {source.name.lower(): int(counts[source]) for source in Source},
            "loss_percentiles_px2": {
                str(rank): None if value is None else float(value) for rank, value in zip(LOSS_PERCENTILES, values)
            },
        }

    def _checked(self, ids: Integer[np.ndarray, "k"]) -> Int64[np.ndarray, "k"]:
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and len(ids)):
            raise SampleIdError(f"sample numbers must be one row of integers, found {ids.dtype} of shape {ids.shape}")
        ids = ids.astype(np.int64, copy=False)
        # As an unsigned number a negative one is too large, too.
        if len(ids) and ids.view(np.uint64).max() >= len(self._rows):
            raise SampleIdError(f"sample numbers must be in 0 … {len(self._rows) - 1}, found {ids.min()} … {ids.max()}")
        return ids
