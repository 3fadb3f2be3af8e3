"""The fit record: the best body found for one training sample, and what is allowed to be one.

A fit lives in its sample's canonical frame: the unrotated, unflipped, unscaled crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from store.errors import RecordError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64, Integer, UInt8, UInt16, UInt32

MAX_ABS_BETA = 3.0
"""A body with a beta beyond this is implausible; such a fit is never stored."""


class Source(IntEnum):
    """Where a fit came from."""

    NONE = 0
    STATIC = 1
    LOOP = 2
    IMPORTED = 3


class StartKind(IntEnum):
    """What kind of start a fit was reached from. Written into files: never renumbered."""

    UNKNOWN = 0
    MULTISTART = 1
    LIFTER = 2
    STORE = 3
    FILE = 4
    NETWORK = 5


class Verdict(IntEnum):
    """Why a fit is, or is not, valid: of the fitter's verdicts, those of fits that are kept. Never renumbered."""

    VALID = 0
    LOSS_TOO_HIGH = 8
    NOT_CONVERGED = 9


_VERDICTS = np.array([*Verdict], np.uint8)


@dataclass(frozen=True)
class Column:
    """An array of the record: little-endian type, numbers per record (0: a scalar), the empty value."""

    dtype: np.dtype
    width: int
    empty: float
    unit: str
    meaning: str

    def shape(self, count: int) -> tuple[int, ...]:
        return (count, self.width) if self.width else (count,)


def _column(dtype: str, width: int, empty: float, unit: str, meaning: str) -> Column:
    return Column(np.dtype(dtype), width, empty, unit, meaning)


COLUMNS: dict[str, Column] = {
    "pose": _column("<f4", 72, 0.0, "rad", "SMPL pose: 24 joints, axis-angle"),
    "betas": _column("<f4", 10, 0.0, "1", "SMPL shape coefficients"),
    "camera": _column("<f4", 3, 0.0, "m", "translation of the body in the camera of the sample's crop"),
    "loss": _column(
        "<f4", 0, np.inf, "px^2", "mean over 49 joints of the weighted robust reprojection error"
    ),
    "score": _column("<f4", 0, np.inf, "1", "decides between two fits: the lower wins"),
    "source": _column("|u1", 0, 0, "1", "0 none, 1 static, 2 loop, 3 imported"),
    "step": _column("<i8", 0, 0, "1", "training step at which the fit was made"),
    "improvements": _column("<u4", 0, 0, "1", "how often a better fit had replaced the sample's fit"),
    "start": _column(
        "|u1", 0, 0, "1", "start that won: 0 unknown, 1 multistart, 2 lifter, 3 store, 4 file, 5 network"
    ),
    "verdict": _column("|u1", 0, 0, "1", "0 valid, 8 loss too high, 9 not converged"),
    "iterations": _column("<u2", 0, 0, "1", "solver iterations of the start that won"),
    "coverage": _column("<f4", 0, 0.0, "1", "share (0 to 1) of the places keypoints can name that were seen"),
    "prior_cost": _column("<f4", 0, 0.0, "px^2", "cost of the terms that don't look at the image"),
}
"""The record's columns, in the order in which files hold them."""


@dataclass(frozen=True)
class Fits:
    """Fit records of n samples, as a structure of arrays (see COLUMNS for units).

    Raises RecordError if an array has another shape or type; nothing is converted.
    """

    pose: Float32[np.ndarray, "n 72"]
    betas: Float32[np.ndarray, "n 10"]
    camera: Float32[np.ndarray, "n 3"]
    loss: Float32[np.ndarray, "n"]
    score: Float32[np.ndarray, "n"]
    source: UInt8[np.ndarray, "n"]
    step: Int64[np.ndarray, "n"]
    improvements: UInt32[np.ndarray, "n"]
    start: UInt8[np.ndarray, "n"]
    verdict: UInt8[np.ndarray, "n"]
    iterations: UInt16[np.ndarray, "n"]
    coverage: Float32[np.ndarray, "n"]
    prior_cost: Float32[np.ndarray, "n"]

    def __post_init__(self) -> None:
        count = len(self.pose) if isinstance(self.pose, np.ndarray) and self.pose.ndim else 0
        for name, column in COLUMNS.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray):
                raise RecordError(f"fits: {name} must be a NumPy array, found {type(array).__name__}")
            if array.dtype != column.dtype or array.shape != column.shape(count):
                raise RecordError(
                    f"fits: {name} must be {column.dtype.name} of shape {column.shape(count)}, "
                    f"found {array.dtype.name} of shape {array.shape}"
                )

    def __len__(self) -> int:
        return len(self.pose)

    @classmethod
    def empty(cls, count: int) -> Fits:
        """Records of samples that have no fit yet: source NONE, loss and score +inf, all else zero."""
        return cls(
            **{
                name: np.full(column.shape(count), column.empty, column.dtype)
                for name, column in COLUMNS.items()
            }
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Fits]) -> Fits:
        """The records of all parts, one after another."""
        if not parts:
            return cls.empty(0)
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS})

    def take(self, index: Integer[np.ndarray, "k"] | Bool[np.ndarray, "n"] | slice) -> Fits:
        """The chosen records: copies for an index array or a mask, views for a slice."""
        return Fits(**{name: getattr(self, name)[index] for name in COLUMNS})


def admissible(fits: Fits) -> Bool[np.ndarray, "n"]:
    """Which records may be stored: finite, known codes, |betas| <= 3, the body before the camera."""
    finite = np.isfinite(fits.loss) & np.isfinite(fits.score)
    finite &= np.isfinite(fits.coverage) & np.isfinite(fits.prior_cost)
    for array in (fits.pose, fits.camera):
        finite &= np.isfinite(array).all(axis=1)
    # A NaN beta fails the comparison, too.
    plausible = (np.abs(fits.betas) <= MAX_ABS_BETA).all(axis=1) & (fits.camera[:, 2] > 0)
    known = (fits.source >= Source.STATIC) & (fits.source <= Source.IMPORTED)
    known &= (fits.start <= StartKind.NETWORK) & np.isin(fits.verdict, _VERDICTS)
    return finite & plausible & known
