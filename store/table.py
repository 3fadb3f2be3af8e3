"""The records of all samples in memory, and the merge of offers into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from store.errors import RecordError, SampleIdError
from store.merge import compare, merge_duplicates
from store.records import COLUMNS, Fits, Source

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64, Integer, UInt32

LOSS_PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class Merged:
    """What a merge of k offers did.

    accepted: where an offer became its sample's record; of several offers for one sample at most one does.
    changed: (m,) the samples whose records differ from before, be it only in the count of improvements.
    """

    accepted: Bool[np.ndarray, "k"]
    changed: Int64[np.ndarray, "m"]


class FitTable:
    """One record per sample, changed by merging only.

    Owns the arrays of `fits`, whose rows must be empty or admissible.
    """

    def __init__(self, fits: Fits) -> None:
        self._fits = fits

    def __len__(self) -> int:
        return len(self._fits)

    @property
    def fits(self) -> Fits:
        """The records themselves, not a copy: to be read only."""
        return self._fits

    def get(self, ids: Integer[np.ndarray, "k"]) -> Fits:
        """Copies of the records of these samples. Raises SampleIdError."""
        return self._fits.take(self._checked(ids))

    def merge(self, ids: Integer[np.ndarray, "k"], fits: Fits) -> Merged:
        """Merge offered records. Raises SampleIdError, RecordError."""
        ids = self._checked(ids)
        if len(ids) != len(fits):
            raise RecordError(f"merge: {len(ids)} sample numbers for {len(fits)} records")
        winners = merge_duplicates(ids, fits)
        comparison = compare(winners.fits, self._fits.take(winners.ids))
        wins, same = comparison.wins, comparison.same
        better_ids = winners.ids[wins]
        if len(better_ids):
            for name in COLUMNS:
                getattr(self._fits, name)[better_ids] = getattr(winners.fits, name)[wins]
        accepted = np.zeros(len(ids), bool)
        accepted[winners.rows[wins]] = True
        more_ids = self._count_most(winners.ids[same], winners.fits.improvements[same])
        return Merged(accepted=accepted, changed=np.concatenate([better_ids, more_ids]))

    def _count_most(
        self, ids: Int64[np.ndarray, "k"], improvements: UInt32[np.ndarray, "k"]
    ) -> Int64[np.ndarray, "m"]:
        """Records equal but for their count of improvements keep the larger one; returns whose count grew."""
        more = improvements > self._fits.improvements[ids]
        self._fits.improvements[ids[more]] = improvements[more]
        return ids[more]

    def summary(self) -> dict:
        """samples, the number of records by source, and percentiles of the losses (px².

        None without fits).
        """
        counts = np.bincount(self._fits.source, minlength=len(Source))
        losses = self._fits.loss[self._fits.source != Source.NONE]
        values = np.percentile(losses, LOSS_PERCENTILES) if len(losses) else [None] * len(LOSS_PERCENTILES)
        return {
            "samples": len(self._fits),
            "sources": {source.name.lower(): int(counts[source]) for source in Source},
            "loss_percentiles_px2": {
                str(rank): None if value is None else float(value)
                for rank, value in zip(LOSS_PERCENTILES, values)
            },
        }

    def _checked(self, ids: Integer[np.ndarray, "k"]) -> Int64[np.ndarray, "k"]:
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and len(ids)):
            raise SampleIdError(
                f"sample numbers must be one row of integers, found {ids.dtype} of shape {ids.shape}"
            )
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self._fits):
            raise SampleIdError(
                f"sample numbers must lie in 0 … {len(self._fits) - 1}, found {ids.min()} … {ids.max()}"
            )
        return ids.astype(np.int64, copy=False)
