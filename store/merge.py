"""The one rule by which two versions of a record become one.

Of two admissible records the lower score wins; equal scores are decided by the records' bytes, the
lexicographically smaller wins; records equal in that, too, keep the larger count of improvements.
Inadmissible records lose against everything and become the empty record. This is the maximum in a total
order, hence commutative, associative and idempotent: updates may arrive late, twice, out of order or from
several writers, and the result is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from store.records import COLUMNS, Fits, Source, admissible

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64, UInt8

TIE_COLUMNS = (
    "pose", "betas", "camera", "loss", "source", "step", "score",
    "start", "verdict", "iterations", "coverage", "prior_cost",
)  # fmt: skip
"""Columns whose little-endian bytes, in this order, decide between equal scores (-0.0 equals 0.0).

Every column but improvements: two records that differ in one that is not here would be the same to the merge,
and which of them stayed would depend on the order of delivery.
"""


@dataclass(frozen=True)
class Winners:
    """One record per sample, the best of those offered.

    ids: (k,) sample numbers, ascending and unique; fits: their k records; rows: (k,) where each was found in
    the offer.
    """

    ids: Int64[np.ndarray, "k"]
    fits: Fits
    rows: Int64[np.ndarray, "k"]


@dataclass(frozen=True)
class Comparison:
    """Row by row: wins, where the new record replaces the old.

    Same, where they differ at most in improvements.
    """

    wins: Bool[np.ndarray, "n"]
    same: Bool[np.ndarray, "n"]


def _tie_bytes(fits: Fits) -> UInt8[np.ndarray, "n bytes"]:
    parts = []
    for name in TIE_COLUMNS:
        array = np.ascontiguousarray(getattr(fits, name))
        parts.append(
            array.view(np.uint8).reshape(
                len(fits), COLUMNS[name].dtype.itemsize * max(COLUMNS[name].width, 1)
            )
        )
    return np.concatenate(parts, axis=1)


def better(new: Fits, old: Fits) -> Bool[np.ndarray, "n"]:
    """Where `new` replaces `old`, row by row: it is admissible, and `old` is not or comes later."""
    return compare(canonical(new), canonical(old)).wins


def compare(new: Fits, old: Fits) -> Comparison:
    """Compare row by row records that are empty or admissible, as those in a store are."""
    offered = new.source != Source.NONE
    vacant = old.source == Source.NONE
    wins = offered & (vacant | (new.score < old.score))
    same = offered & ~vacant & (new.score == old.score)
    rows = np.flatnonzero(same)
    if len(rows):
        new_bytes, old_bytes = _tie_bytes(new.take(rows)), _tie_bytes(old.take(rows))
        differs = new_bytes != old_bytes
        pick, first = np.arange(len(rows)), differs.argmax(axis=1)
        wins[rows] = new_bytes[pick, first] < old_bytes[pick, first]
        same[rows] = ~differs.any(axis=1)
    return Comparison(wins=wins, same=same)


def join(first: Fits, second: Fits) -> Fits:
    """The merge of two versions of n records, row by row; inputs may be inadmissible."""
    old, new = canonical(first), canonical(second)
    comparison = compare(new, old)
    joined = {}
    for name, column in COLUMNS.items():
        wins = comparison.wins[:, None] if column.width else comparison.wins
        joined[name] = np.where(wins, getattr(new, name), getattr(old, name))
    most = np.maximum(new.improvements, old.improvements)
    joined["improvements"] = np.where(comparison.same, most, joined["improvements"])
    return Fits(**joined)


def canonical(fits: Fits) -> Fits:
    """The same records with inadmissible ones replaced by the empty record."""
    mask = ~admissible(fits)
    if not mask.any():
        return fits
    cleaned = {}
    for name, column in COLUMNS.items():
        array = getattr(fits, name).copy()
        array[mask] = column.empty
        cleaned[name] = array
    return Fits(**cleaned)


def merge_duplicates(ids: Int64[np.ndarray, "n"], fits: Fits) -> Winners:
    """Reduce offered records to the best one per sample; inadmissible records are left out."""
    rows = np.flatnonzero(admissible(fits))
    order = np.lexsort((fits.score[rows], ids[rows]))
    rows = rows[order]
    sorted_ids = ids[rows]
    leads = np.ones(len(rows), bool)
    leads[1:] = sorted_ids[1:] != sorted_ids[:-1]
    lead_scores = fits.score[rows][leads]
    lowest = fits.score[rows] == lead_scores[np.cumsum(leads) - 1]
    rows = _first_of_ties(ids, fits, rows[lowest]) if lowest.sum() > leads.sum() else rows[leads]
    return Winners(ids=ids[rows], fits=fits.take(rows), rows=rows)


def _first_of_ties(
    ids: Int64[np.ndarray, "n"], fits: Fits, rows: Int64[np.ndarray, "k"]
) -> Int64[np.ndarray, "m"]:
    """Of rows that share an id, the first by bytes, then by improvements (more first); ids ascending."""
    content = _tie_bytes(fits.take(rows))
    # Fixed-width byte strings compare as unsigned bytes; equal widths make NumPy's zero padding harmless.
    keys = content.view(f"S{content.shape[1]}").ravel()
    fewest = np.iinfo(np.uint32).max - fits.improvements[rows]
    rows = rows[np.lexsort((fewest, keys, ids[rows]))]
    leads = np.ones(len(rows), bool)
    leads[1:] = ids[rows][1:] != ids[rows][:-1]
    return rows[leads]
