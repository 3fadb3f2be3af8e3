"""The fit record: the best body found for one training sample, and what is allowed to be one.

A fit lives in its sample's canonical frame: the unrotated, unflipped, unscaled crop. In memory the records of many
samples are rows of one array (ROW), so that looking up some of them touches each once; the interface shows columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from store.errors import RecordError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64, Integer, UInt8, UInt16, UInt32, UInt64

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
    """Why a fit is, or is not, valid: of the fitter's verdicts, those of stored fits. Never renumbered."""

    VALID = 0
    LOSS_TOO_HIGH = 8
    NOT_CONVERGED = 9


class Solver(IntEnum):
    """What minimised the objective. Written into files: never renumbered."""

    UNKNOWN = 0
    LM = 1
    ADAM = 2


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
    "loss": _column("<f4", 0, np.inf, "px^2", "mean over 49 joints of the weighted robust reprojection error"),
    "score": _column("<f4", 0, np.inf, "1", "decides between two fits: the lower wins"),
    "source": _column("|u1", 0, 0, "1", "0 none, 1 static, 2 loop, 3 imported"),
    "step": _column("<i8", 0, 0, "1", "training step at which the fit was made"),
    "improvements": _column("<u4", 0, 0, "1", "how often a better fit had replaced the sample's fit"),
    "start": _column("|u1", 0, 0, "1", "start that won: 0 unknown, 1 multistart, 2 lifter, 3 store, 4 file, 5 network"),
    "verdict": _column("|u1", 0, 0, "1", "0 valid, 8 loss too high, 9 not converged"),
    "iterations": _column("<u2", 0, 0, "1", "solver iterations of the start that won"),
    "coverage": _column("<f4", 0, 0.0, "1", "share (0 to 1) of the places keypoints can name that were seen"),
    "prior_cost": _column("<f4", 0, 0.0, "px^2", "cost of the terms that don't look at the image"),
    "solver": _column("|u1", 0, 0, "1", "0 unknown, 1 lm, 2 adam"),
    "epoch": _column("<u4", 0, 0, "1", "retractions of the sample's fits before this one was begun"),
    "run": _column("<u8", 0, 0, "1", "code of the run that made the fit, 0 unknown; names are in the metadata"),
    "time": _column("<i8", 0, 0, "ms", "when the store was offered the fit, since 1970 UTC; 0 unknown"),
}
"""The record's columns, in the order in which files hold them."""

ROW = np.dtype(
    [
        (name, column.dtype, (column.width,) if column.width else ())
        for name, column in sorted(COLUMNS.items(), key=lambda item: (-item[1].dtype.itemsize, item[1].dtype.str))
    ],
    align=True,
)
"""A record in memory: 400 bytes, fields of a type together and aligned, so that columns are plain strided views of rows."""
WORDS = ROW.itemsize // 8
"""Of a row, in which NumPy copies it whole (field by field it would be ten times slower)."""


def _placed(dtype: str) -> slice:
    """Return where in a row the fields of a type are, one after another, in units of its size."""
    chosen = [name for name, column in COLUMNS.items() if column.dtype == dtype]
    first = min(ROW.fields[name][1] for name in chosen) // np.dtype(dtype).itemsize  # type: ignore[index]
    return slice(first, first + sum(max(COLUMNS[name].width, 1) for name in chosen))


_FLOATS, _CODES = _placed("<f4"), _placed("|u1")
_CODE = np.arange(_CODES.stop - _CODES.start)
_KNOWN = {"source": [*Source][1:], "start": [*StartKind], "verdict": [*Verdict], "solver": [*Solver]}
_CODE_IS_KNOWN = np.stack([np.isin(np.arange(256), _KNOWN[name]) for name in COLUMNS if COLUMNS[name].dtype == np.uint8])

_NOT_GIVEN = np.empty(0)
"""Stands for a column that was left out."""


def _not_given() -> np.ndarray:
    return _NOT_GIVEN


def empty_rows(count: int) -> np.ndarray:
    """Return (count,) of ROW: records of samples without a fit or a retraction."""
    rows = np.zeros(count, ROW)
    for name, column in COLUMNS.items():
        if column.empty:
            rows[name] = column.empty
    return rows


def take_rows(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return copies of the rows at these (valid) places."""
    words = rows.view(np.int64).reshape(len(rows), WORDS)
    return words.take(index, axis=0).reshape(-1).view(ROW)


def put_rows(rows: np.ndarray, index: np.ndarray, new: np.ndarray) -> None:
    """Write rows to these places."""
    words = rows.view(np.int64).reshape(len(rows), WORDS)
    words[index] = new.view(np.int64).reshape(len(new), WORDS)


@dataclass(frozen=True)
class Fits:
    """Fit records of n samples, as a structure of arrays (see COLUMNS for units).

    solver, run, time and epoch may be left out: then they are unknown, and the epoch is 0. An offer's epoch is that of the
    record its maker had read: a fit of an earlier epoch than its sample's was begun before a retraction, and loses.
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
    solver: UInt8[np.ndarray, "n"] = field(default_factory=_not_given)
    epoch: UInt32[np.ndarray, "n"] = field(default_factory=_not_given)
    run: UInt64[np.ndarray, "n"] = field(default_factory=_not_given)
    time: Int64[np.ndarray, "n"] = field(default_factory=_not_given)

    def __post_init__(self) -> None:
        count = len(self.pose) if isinstance(self.pose, np.ndarray) and self.pose.ndim else 0
        for name, column in COLUMNS.items():
            array = getattr(self, name)
            if array is _NOT_GIVEN:
                object.__setattr__(self, name, np.zeros(column.shape(count), column.dtype))
                continue
            if not isinstance(array, np.ndarray):
                raise RecordError(f"fits: {name} must be a NumPy array, found {type(array).__name__}")
            if array.dtype != column.dtype or array.shape != column.shape(count):
                raise RecordError(
                    f"fits: {name} must be {column.dtype.name} of shape {column.shape(count)}, "
                    f"found {array.dtype.name} of shape {array.shape}"
                )

    def __len__(self) -> int:
        rows = self.__dict__.get("_rows")
        return len(self.pose if rows is None else rows)

    @classmethod
    def empty(cls, count: int) -> Fits:
        """Return records of samples that have no fit yet: source NONE, loss and score +inf, all else zero."""
        return cls(**{name: np.full(column.shape(count), column.empty, column.dtype) for name, column in COLUMNS.items()})

    @classmethod
    def of_rows(cls, rows: np.ndarray) -> Fits:
        """Return the columns of rows (n,) of ROW, as views: nothing is copied."""
        fits = object.__new__(cls)
        fits.__dict__["_rows"] = rows
        return fits

    def __getattr__(self, name: str) -> np.ndarray:
        """Return a column of the rows, made at its first use."""
        if name not in COLUMNS or "_rows" not in self.__dict__:
            raise AttributeError(f"fits have no {name!r}")
        view: np.ndarray = self._rows[name]
        self.__dict__[name] = view
        return view

    def to_rows(self) -> np.ndarray:
        """Return (n,) of ROW: the memory of these records if they are of_rows, else a copy."""
        rows = self.__dict__.get("_rows")
        if rows is None:
            rows = np.zeros(len(self), ROW)
            for name in COLUMNS:
                rows[name] = getattr(self, name)
        return rows

    def __reduce__(self) -> Any:
        """Pickle one array, not one for each column."""
        return Fits.of_rows, (self.to_rows(),)

    @classmethod
    def concatenate(cls, parts: Sequence[Fits]) -> Fits:
        """Return the records of all parts, one after another."""
        if not parts:
            return cls.empty(0)
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS})

    def take(self, index: Integer[np.ndarray, "k"] | Bool[np.ndarray, "n"] | slice) -> Fits:
        """Return the chosen records: copies for an index array or a mask, views for a slice."""
        return Fits(**{name: getattr(self, name)[index] for name in COLUMNS})


def admissible(fits: Fits) -> Bool[np.ndarray, "n"]:
    """Return which records may be stored: finite, known codes, |betas| <= 3, the body before the camera."""
    return admissible_rows(fits.to_rows())


def admissible_rows(rows: np.ndarray) -> Bool[np.ndarray, "n"]:
    """Return the same as `admissible`, of rows (n,) of ROW."""
    numbers = rows.view(np.float32).reshape(len(rows), 2 * WORDS)[:, _FLOATS]
    codes = rows.view(np.uint8).reshape(len(rows), ROW.itemsize)[:, _CODES]
    known = _CODE_IS_KNOWN[_CODE, codes]
    betas, depth = np.abs(rows["betas"]), rows["camera"][:, 2]
    # The usual case, quickly: a sum is finite only if all its terms are.
    with np.errstate(all="ignore"):
        finite = np.isfinite(np.add.reduce(numbers, axis=None))
    if finite and known.all() and betas.max(initial=0) <= MAX_ABS_BETA and depth.min(initial=1) > 0:
        return np.ones(len(rows), bool)
    plausible = (betas <= MAX_ABS_BETA).all(axis=1) & (depth > 0)
    return np.isfinite(numbers).all(axis=1) & plausible & known.all(axis=1)
