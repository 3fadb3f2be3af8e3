"""The measurements of each sample, and the numbers computed from them.

Every number is a function of sums over samples, so that it can be computed quickly for any selection or resampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from spin.evaluation.metrics import auc, pck
from spin.evaluation.protocols import PoseErrors, Protocol
from spin.evaluation.segmentation import PixelCounts, f1
from spin.joints import H36M_TO_J14

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Metric:
    """How a number is named and printed."""

    label: str
    unit: str
    lower_is_better: bool
    digits: int = 1


METRICS = {
    "mpjpe_mm": Metric("MPJPE", "mm", True),
    "pa_mpjpe_mm": Metric("PA-MPJPE", "mm", True),
    "per_vertex_error_mm": Metric("PVE", "mm", True),
    "pck_percent": Metric("PCK@150", "%", False),
    "auc_percent": Metric("AUC", "%", False),
    "pa_pck_percent": Metric("PA-PCK@150", "%", False),
    "pa_auc_percent": Metric("PA-AUC", "%", False),
    "pck_14_percent": Metric("PCK@150, 14 joints", "%", False),
    "auc_14_percent": Metric("AUC, 14 joints", "%", False),
    "pa_pck_14_percent": Metric("PA-PCK@150, 14 joints", "%", False),
    "pa_auc_14_percent": Metric("PA-AUC, 14 joints", "%", False),
    "mask_accuracy": Metric("mask accuracy", "", False, 4),
    "mask_f1": Metric("mask F1", "", False, 4),
    "part_accuracy": Metric("part accuracy", "", False, 4),
    "part_f1": Metric("part F1", "", False, 4),
}
"""In the order in which they are shown. docs/protocols.md defines each."""


@dataclass(frozen=True)
class Scores:
    """The measurements of N samples; None where the data set has no truth. A vertex error is NaN without a true body."""

    protocol: Protocol
    count: int
    pose: PoseErrors | None = None
    vertex_mm: Float[np.ndarray, " N"] | None = None
    mask: PixelCounts | None = None
    part: PixelCounts | None = None

    def take(self, index: Int[np.ndarray, " k"]) -> Scores:
        """Return the scores of some of the samples."""
        cut: Callable[[np.ndarray], np.ndarray] = lambda array: array[index]  # noqa: E731
        return _with(self.protocol, len(index), [_map(part, cut) for part in _parts(self)])

    def metrics(self) -> dict[str, float]:
        """Return the numbers by the names in `METRICS`, without those that no sample has."""
        found = {name: float(finish(columns.sum(0))) for name, (columns, finish) in summable(self).items()}
        return {name: value for name, value in found.items() if self.count and np.isfinite(value)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the measurements of each sample for an .npz."""
        out: dict[str, np.ndarray] = {}
        if self.pose is not None:
            out |= {"joint_error_mm": self.pose.joint_mm, "pa_joint_error_mm": self.pose.pa_joint_mm}
            out |= {"mpjpe_mm": self.pose.mpjpe_mm, "pa_mpjpe_mm": self.pose.pa_mpjpe_mm}
        if self.vertex_mm is not None:
            out["per_vertex_error_mm"] = self.vertex_mm
        for name, counts in (("mask", self.mask), ("part", self.part)):
            if counts is not None:
                out |= {
                    f"{name}_counts": counts.by_class,
                    f"{name}_right": counts.right,
                    f"{name}_all": counts.all,
                }
        return out

    @classmethod
    def of_arrays(cls, protocol: Protocol, arrays: dict[str, np.ndarray], count: int) -> Scores:
        """Restore scores from `arrays`. KeyError or ValueError if they are not those of `count` samples."""

        def counts(name: str) -> PixelCounts | None:
            if f"{name}_counts" not in arrays:
                return None
            return PixelCounts(*(arrays[f"{name}_{kind}"] for kind in ("counts", "right", "all")))

        pose = None
        if "joint_error_mm" in arrays:
            pose = PoseErrors(arrays["joint_error_mm"], arrays["pa_joint_error_mm"])
        out = cls(protocol, count, pose, arrays.get("per_vertex_error_mm"), counts("mask"), counts("part"))
        lengths = {len(array) for array in out.arrays().values()}
        if lengths - {count}:
            raise ValueError(f"arrays of {sorted(lengths)} samples, expected {count}")
        if pose is not None and pose.joint_mm.shape != (count, len(protocol.joints)):
            raise ValueError(f"errors of {pose.joint_mm.shape}, expected ({count}, {len(protocol.joints)})")
        return out


def concatenate(scores: Sequence[Scores]) -> Scores:
    """Join scores of several parts; at least one must be passed."""
    joined = [_join(parts) for parts in zip(*map(_parts, scores))]
    return _with(scores[0].protocol, sum(s.count for s in scores), joined)


Summable = dict[str, tuple["Float[np.ndarray, 'N K']", Callable[[np.ndarray], np.ndarray]]]


def summable(scores: Scores) -> Summable:
    """Return for each number the columns to add up over samples, and the function from their sums (…, K) to the number."""
    out: Summable = {}

    def mean(name: str, values: np.ndarray) -> None:
        known = np.isfinite(values)
        out[name] = np.stack([np.where(known, values, 0.0), known], 1), _ratio

    if scores.pose is not None:
        mean("mpjpe_mm", scores.pose.mpjpe_mm)
        mean("pa_mpjpe_mm", scores.pose.pa_mpjpe_mm)
    if scores.vertex_mm is not None and np.isfinite(scores.vertex_mm).any():
        mean("per_vertex_error_mm", scores.vertex_mm)
    if scores.pose is not None and scores.protocol.pck:
        own = [i for i, joint in enumerate(scores.protocol.joints) if joint in H36M_TO_J14]
        for suffix, chosen in (("", slice(None)), ("_14", own)):
            for prefix, errors in (("", scores.pose.joint_mm), ("pa_", scores.pose.pa_joint_mm)):
                unknown = np.isnan(errors[:, 0])
                mean(f"{prefix}pck{suffix}_percent", np.where(unknown, np.nan, pck(errors[:, chosen])))
                mean(f"{prefix}auc{suffix}_percent", np.where(unknown, np.nan, auc(errors[:, chosen])))
    for name, counts in (("mask", scores.mask), ("part", scores.part)):
        if counts is not None and counts.all.any():
            out[f"{name}_accuracy"] = np.stack([counts.right, counts.all], 1), _ratio
            classes = counts.by_class.shape[1]
            flat = counts.by_class.reshape(len(counts.by_class), -1)
            out[f"{name}_f1"] = flat, partial(_f1, classes=classes)
    return {name: out[name] for name in METRICS if name in out}


def _f1(sums: np.ndarray, classes: int) -> np.ndarray:
    return f1(sums.reshape(*sums.shape[:-1], classes, 3))


def _ratio(sums: np.ndarray) -> np.ndarray:
    top, bottom = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


_Part = PoseErrors | PixelCounts | np.ndarray | None


def _parts(scores: Scores) -> list[_Part]:
    return [scores.pose, scores.vertex_mm, scores.mask, scores.part]


def _with(protocol: Protocol, count: int, parts: list[_Part]) -> Scores:
    return Scores(protocol, count, *parts)  # type: ignore[arg-type]


def _map(part: _Part, function: Callable[[np.ndarray], np.ndarray]) -> _Part:
    if part is None or isinstance(part, np.ndarray):
        return None if part is None else function(part)
    return type(part)(*(function(array) for array in vars(part).values()))


def _join(parts: Sequence[_Part]) -> _Part:
    first = parts[0]
    if first is None or isinstance(first, np.ndarray):
        return None if first is None else np.concatenate(parts)  # type: ignore[arg-type]
    return type(first)(*(np.concatenate([vars(p)[name] for p in parts]) for name in vars(first)))
