"""What differs between two states of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from store.errors import RecordError
from store.fits.records import COLUMNS, Fits, Source

if TYPE_CHECKING:
    from jaxtyping import Int64


@dataclass(frozen=True)
class Changes:
    """The samples (k,) whose records differ, the largest change of score first, and their records before and after."""

    samples: Int64[np.ndarray, "k"]
    before: Fits
    after: Fits

    def counts(self) -> dict[str, int]:
        old, new = self.before.source != int(Source.NONE), self.after.source != int(Source.NONE)
        both = old & new
        return {
            "changed": len(self.samples),
            "added": int((~old & new).sum()),
            "removed": int((old & ~new).sum()),
            "better": int((both & (self.after.score < self.before.score)).sum()),
            "worse": int((both & (self.after.score > self.before.score)).sum()),
        }

    def row(self, place: int) -> dict[str, Any]:
        """Return a sample's score and loss (px²) in A and B, None without a fit, and its largest change of axis-angle (rad)."""
        found: dict[str, Any] = {"sample": int(self.samples[place])}
        for name in ("score", "loss"):
            for side, fits in (("a", self.before), ("b", self.after)):
                value = float(getattr(fits, name)[place])
                found[f"{name}_{side}"] = value if np.isfinite(value) else None
        joints = (self.after.pose[place] - self.before.pose[place]).reshape(24, 3)
        known = None not in (found["score_a"], found["score_b"])
        found["pose_rad"] = float(np.linalg.norm(joints, axis=1).max()) if known else None
        return found


def compare_states(before: Fits, after: Fits) -> Changes:
    """Return what differs between two states. Raises RecordError if their numbers of samples differ."""
    if len(before) != len(after):
        raise RecordError(f"diff: the states have {len(before)} and {len(after)} samples; compare one data set's")
    differs = np.zeros(len(before), bool)
    for name, column in COLUMNS.items():
        unequal = getattr(before, name) != getattr(after, name)
        differs |= unequal.any(axis=1) if column.width else unequal
    samples = np.flatnonzero(differs)
    old, new = before.take(samples), after.take(samples)
    with np.errstate(invalid="ignore"):
        change = np.nan_to_num(np.abs(new.score - old.score), nan=0.0, posinf=np.inf)
    order = np.argsort(-change, kind="stable")
    return Changes(samples[order], old.take(order), new.take(order))
