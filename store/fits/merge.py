"""The one rule by which two versions of a record become one.

The later epoch wins: it counts how often the sample's fits have been retracted. Within an epoch a fit wins over none, and
of two fits the lower score; equal scores are decided by the records' bytes, the lexicographically smaller wins; records
equal in that, too, keep the larger count of improvements. Inadmissible records lose against everything and become the
empty record. This is the maximum in a total order, hence commutative, associative and idempotent: updates may arrive
late, twice, out of order or from several writers, and the result is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from store.fits.records import (
    COLUMNS,
    WORDS,
    Fits,
    Source,
    admissible,
    admissible_rows,
    empty_rows,
    put_rows,
    take_rows,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64, UInt8, UInt32

_NONE = int(Source.NONE)  # NumPy compares with a member of an enumeration twenty times slower

TIE_COLUMNS = (
    "pose", "betas", "camera", "loss", "source", "step", "score",
    "start", "verdict", "iterations", "coverage", "prior_cost", "solver", "time", "run",
)  # fmt: skip
"""Columns whose little-endian bytes (of time: big-endian), in this order, decide between equal scores (-0.0 equals 0.0).

Every column but epoch, which was compared before, and improvements: two records that differ in one that is not here would
be the same to the merge, and which of them stayed would depend on the order of delivery.
"""


@dataclass(frozen=True)
class Winners:
    """One record per sample, the best of those offered.

    ids: (k,) sample numbers, unique; places: (k,) where each one's record was found in the offer.
    """

    ids: Int64[np.ndarray, "k"]
    places: Int64[np.ndarray, "k"]


@dataclass(frozen=True)
class Comparison:
    """Row by row: wins, where the new record replaces the old.

    Same, where both are fits that differ at most in improvements.
    """

    wins: Bool[np.ndarray, "n"]
    same: Bool[np.ndarray, "n"]


def better(new: Fits, old: Fits) -> Bool[np.ndarray, "n"]:
    """Return where `new` replaces `old`, row by row: it is admissible, and `old` is not or comes later."""
    return compare(canonical(new).to_rows(), canonical(old).to_rows()).wins


def join(first: Fits, second: Fits) -> Fits:
    """Return the merge of two versions of n records, row by row; inputs may be inadmissible."""
    old, new = canonical(first).to_rows(), canonical(second).to_rows()
    comparison = compare(new, old)
    joined = old.copy()
    won = np.flatnonzero(comparison.wins)
    put_rows(joined, won, take_rows(new, won))
    most = np.maximum(new["improvements"], old["improvements"])
    joined["improvements"] = np.where(comparison.same, most, joined["improvements"])
    return Fits.of_rows(joined)


def canonical(fits: Fits) -> Fits:
    """Return the records as a store would hold them: a fit that is inadmissible is replaced by the empty record, and a
    record without a fit is empty but for its epoch."""
    mask = ~admissible(fits)
    if not mask.any():
        return fits
    rows = fits.to_rows().copy()
    epoch = np.where(fits.source == _NONE, fits.epoch, np.uint32(0))
    rows[mask] = empty_rows(1)
    rows["epoch"][mask] = epoch[mask]
    return Fits.of_rows(rows)


def retractions(epoch: UInt32[np.ndarray, "k"]) -> Fits:
    """Return records that retract the fits of these epochs, and any earlier ones: no fit, of the epoch after."""
    fits = Fits.empty(len(epoch))
    fits.epoch[:] = epoch + np.uint32(1)
    return fits


# Rows: what follows takes structured arrays of store.fits.records.ROW.


def compare(new: np.ndarray, old: np.ndarray) -> Comparison:
    """Compare row by row records (n,) that are canonical, as those in a store are."""
    new_score, old_score = new["score"], old["score"]
    # The score of a record without a fit is infinite, of one with a fit finite.
    wins, same = new_score < old_score, new_score == old_score
    moved = new["epoch"] != old["epoch"]
    if moved.any():
        wins = np.where(moved, new["epoch"] > old["epoch"], wins)
        same &= ~moved
    if same.any():
        same &= new["source"] != _NONE
        rows = np.flatnonzero(same)
        # What was delivered twice, quickly: rows of the same bytes.
        rows = rows[(_words(new).take(rows, axis=0) != _words(old).take(rows, axis=0)).any(axis=1)]
        if len(rows):
            new_bytes, old_bytes = _tie_bytes(take_rows(new, rows)), _tie_bytes(take_rows(old, rows))
            differs = new_bytes != old_bytes
            pick, first = np.arange(len(rows)), differs.argmax(axis=1)
            wins[rows] = new_bytes[pick, first] < old_bytes[pick, first]
            same[rows] = ~differs.any(axis=1)
    return Comparison(wins=wins, same=same)


def _words(rows: np.ndarray) -> Int64[np.ndarray, "n words"]:
    return rows.view(np.int64).reshape(len(rows), WORDS)


def merge_duplicates(ids: Int64[np.ndarray, "n"], offered: np.ndarray) -> Winners:
    """Reduce offered records (n,) to the best one per sample; inadmissible fits are dropped, and so are
    records that hold neither a fit nor a retraction. Records without a fit must be canonical."""
    good = admissible_rows(offered)
    if not good.all():
        good |= (offered["source"] == _NONE) & (offered["epoch"] > 0)
        places = np.flatnonzero(good)
        chosen = ids[places]
    else:
        places, chosen = np.arange(len(ids)), ids
    ascending = np.sort(chosen)
    if not (ascending[1:] == ascending[:-1]).any():
        return Winners(chosen, places)
    score, epoch = offered["score"][places], offered["epoch"][places]
    # ~epoch: the later comes first. Records without a fit have an infinite score, so they come last in their epoch.
    order = np.lexsort((score, ~epoch, chosen))
    places, chosen, score, epoch = places[order], chosen[order], score[order], epoch[order]
    leads = _leads(chosen)
    leader = np.flatnonzero(leads)[np.cumsum(leads) - 1]
    lowest = (score == score[leader]) & (epoch == epoch[leader])
    tied = lowest.sum() > leads.sum()
    places = _first_of_ties(ids, offered, places[lowest]) if tied else places[leads]
    return Winners(ids[places], places)


def _leads(ids: Int64[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Of ids in ascending order, the first of each."""
    leads = np.ones(len(ids), bool)
    leads[1:] = ids[1:] != ids[:-1]
    return leads


def _first_of_ties(ids: Int64[np.ndarray, "n"], offered: np.ndarray, places: Int64[np.ndarray, "k"]) -> Int64[np.ndarray, "m"]:
    """Of places that share an id, the first by bytes, then by improvements (more first); ids ascending."""
    rows = take_rows(offered, places)
    content = _tie_bytes(rows)
    # Fixed-width byte strings compare as unsigned bytes; equal widths make NumPy's zero padding harmless.
    keys = content.view(f"S{content.shape[1]}").ravel()
    fewest = np.iinfo(np.uint32).max - rows["improvements"]
    places = places[np.lexsort((fewest, keys, ids[places]))]
    return places[_leads(ids[places])]


def _tie_bytes(rows: np.ndarray) -> UInt8[np.ndarray, "n bytes"]:
    parts = []
    for name in TIE_COLUMNS:
        # Most significant byte first, the earlier time wins: of an update that was delivered twice, the first.
        array = rows[name].astype(">i8") if name == "time" else np.ascontiguousarray(rows[name])
        width = COLUMNS[name].dtype.itemsize * max(COLUMNS[name].width, 1)
        parts.append(array.view(np.uint8).reshape(len(rows), width))
    return np.concatenate(parts, axis=1)
