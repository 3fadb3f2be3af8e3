"""Compare two results: whether they are comparable, by how much and where they differ, and whether chance could explain it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import StageError
from pipelines.evaluation.protocol_card import differing, holds_truth
from pipelines.evaluation.result import Result, aligned, badness, per_joint, per_sequence, read_result
from spin.evaluation.bootstrap import DRAWS, Compared, compare
from spin.evaluation.scores import METRICS

if TYPE_CHECKING:
    from jaxtyping import Int

_SHOWN_CHARACTERS = 60
CHANGES = 10  # frames shown that became worse, and as many that became better


@dataclass(frozen=True)
class Comparison:
    """Two results. If they have frames in common, both are cut to these, and `paired` is true."""

    first: Result
    second: Result
    differing: dict[str, tuple[Any, Any]]  # fields of the cards
    paired: bool
    resampled: str  # "sequences" or "frames"
    seed: int
    draws: int
    numbers: dict[str, Compared]


def compare_results(
    first_path: Path,
    second_path: Path,
    *,
    anyway: bool = False,
    by: str | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Comparison:
    """Compare two result files.

    StageError if a file is not a result, if the cards differ (unless `anyway`), or if no number is common to both.

    `by`: "sequences" or "frames", what is resampled; None: sequences if images are frames of several.
    """
    first, second = read_result(first_path), read_result(second_path)
    fields = differing(first.card, second.card)
    if fields and not anyway:
        differences = "; ".join(f"{name}: {_short(a)} against {_short(b)}" for name, (a, b) in fields.items())
        earlier = [path for path, result in ((first_path, first), (second_path, second)) if not holds_truth(result.card)]
        hint = f" ({earlier[0]} is of an earlier version, which did not note the truth: measure it again)" if earlier else ""
        raise StageError(
            f"{first_path} and {second_path} are not comparable. {differences}{hint}. "
            "To compare them in spite of that, give --anyway"
        )
    first, second, paired = _on_common_frames(first, second)
    names = sorted(set(first.sequences) | set(second.sequences))
    recordings = len(names) < len(set(first.images) | set(second.images))
    if by == "sequences" and not recordings:
        raise StageError(f"{first_path}: its images are not frames of recordings; give --by frames")
    by = by or ("sequences" if recordings and len(names) > 1 else "frames")
    groups = [_groups(result, by) for result in (first, second)]
    if min(len(np.unique(group)) for group in groups) < 2:
        raise StageError(f"{first_path} and {second_path}: only one {by.removesuffix('s')} to resample; expected at least two")
    numbers = compare(first.scores, second.scores, *groups, paired=paired, seed=seed, draws=draws)
    if not numbers:
        raise StageError(f"{first_path} and {second_path} have no number in common")
    return Comparison(first, second, fields, paired, by, seed, draws, numbers)


def _groups(result: Result, by: str) -> Int[np.ndarray, " n"]:
    """Return each sample's group, which is drawn together: a sequence or a frame, as its people are not independent."""
    names = result.sequences if by == "sequences" else result.images
    return np.unique(np.array(names), return_inverse=True)[1]


def _on_common_frames(first: Result, second: Result) -> tuple[Result, Result, bool]:
    keys = [list(zip(r.rows.tolist(), r.images)) for r in (first, second)]
    common = set(keys[0]) & set(keys[1])
    if first.dataset != second.dataset or not common:
        return first, second, False
    cut = [_take(result, np.flatnonzero([key in common for key in mine])) for result, mine in zip((first, second), keys)]
    return cut[0], cut[1], True


def _take(result: Result, index: Int[np.ndarray, " k"]) -> Result:
    images = [result.images[i] for i in index]
    return Result(
        result.dataset,
        result.card,
        result.subject,
        result.rows[index],
        images,
        result.scores.take(index),
        result.left_out,
    )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the whole comparison as JSON values."""
    c = comparison
    return {
        "comparable": not c.differing,
        "differing": {name: list(pair) for name, pair in c.differing.items()},
        "paired": c.paired,
        "resampled": c.resampled,
        "seed": c.seed,
        "draws": c.draws,
        "samples": [c.first.scores.count, c.second.scores.count],
        "subjects": [c.first.subject, c.second.subject],
        "numbers": json.loads(json.dumps({name: asdict(numbers) for name, numbers in c.numbers.items()})),
        "joints": [per_joint(c.first.scores), per_joint(c.second.scores)],
        "sequences": [per_sequence(c.first), per_sequence(c.second)],
        "tail": tail(c),
        "changes": changes(c),
    }


def tail(comparison: Comparison) -> dict[str, list[float]]:
    """Return high percentiles of the error that ranks samples, for both results."""
    values = [badness(r.scores) for r in (comparison.first, comparison.second)]
    return {
        label: [float(np.nanquantile(v, share)) for v in values]
        for label, share in (
            ("median", 0.5),
            ("95th percentile", 0.95),
            ("99th percentile", 0.99),
            ("worst", 1.0),
        )
    }


def changes(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the samples of paired results that became worse by most, then those that became better by most."""
    if not comparison.paired:
        return []
    c = comparison
    before, after = badness(c.first.scores), badness(c.second.scores)
    order = np.argsort(before - after, kind="stable")
    order = order[np.isfinite((before - after)[order])]
    chosen = [*order[:CHANGES], *order[max(CHANGES, len(order) - CHANGES) :]]
    return [
        {
            "row": int(c.first.rows[i]),
            "image": c.first.images[i],
            "first": float(before[i]),
            "second": float(after[i]),
        }
        for i in chosen
        if before[i] != after[i]
    ]


def lines(comparison: Comparison) -> list[str]:
    """Return the comparison as lines for a terminal."""
    c = comparison
    out = []
    for name, (a, b) in c.differing.items():
        out.append(f"cards differ in {name}: {_short(a)} against {_short(b)}")
    if not c.differing:
        out.append("the protocol cards agree")
    kind = "paired" if c.paired else "not paired: the samples are not the same"
    out.append(
        f"95 % intervals of {c.draws} resamplings of {c.resampled} ({kind}), seed {c.seed}; {c.first.scores.count} samples"
    )
    rows = [["", "first", "second", "second - first", "95 % of it", ""]]
    for name, n in c.numbers.items():
        m = METRICS[name]
        d = n.difference
        clear = "" if d.low <= 0 <= d.high else ("better" if (d.value < 0) == m.lower_is_better else "worse")
        rows.append(
            [
                f"{m.label} {m.unit}".strip(),
                f"{n.first.value:.{m.digits}f}",
                f"{n.second.value:.{m.digits}f}",
                f"{d.value:+.{m.digits}f}",
                f"{d.low:+.{m.digits}f} to {d.high:+.{m.digits}f}",
                clear,
            ]
        )
    out += ["", *aligned(rows), *_joint_lines(c), *_sequence_lines(c), *_tail_lines(c), *_change_lines(c)]
    return out


def _joint_lines(c: Comparison) -> list[str]:
    first, second = per_joint(c.first.scores), per_joint(c.second.scores)
    rows = [["joint, PA-MPJPE mm", "first", "second", "second - first"]]
    for name in [name for name in first if name in second]:
        a, b = first[name]["pa_mpjpe_mm"], second[name]["pa_mpjpe_mm"]
        rows.append([name, f"{a:.1f}", f"{b:.1f}", f"{b - a:+.1f}"])
    return ["", *aligned(rows)] if len(rows) > 1 else []


def _sequence_lines(c: Comparison) -> list[str]:
    tables = [{entry["sequence"]: entry for entry in per_sequence(r)} for r in (c.first, c.second)]
    metric = next(iter(c.numbers))
    m = METRICS[metric]
    rows = [[f"sequence, {m.label} {m.unit}".strip(), "samples", "first", "second", "second - first"]]
    for name in [name for name in tables[0] if name in tables[1]]:
        a, b = (table[name].get(metric, float("nan")) for table in tables)
        cells = [f"{a:.{m.digits}f}", f"{b:.{m.digits}f}", f"{b - a:+.{m.digits}f}"]
        rows.append([name, str(tables[0][name]["samples"]), *cells])
    return ["", *aligned(rows)] if len(rows) > 1 else []


def _tail_lines(c: Comparison) -> list[str]:
    what, digits = _ranked_by(c)
    rows = [[what, "first", "second"]]
    rows += [[label, *(f"{v:.{digits}f}" for v in pair)] for label, pair in tail(c).items()]
    return ["", *aligned(rows)]


def _change_lines(c: Comparison) -> list[str]:
    what, digits = _ranked_by(c)
    rows = [[f"largest changes, {what}", "row", "first", "second", "second - first"]]
    for change in changes(c):
        a, b = change["first"], change["second"]
        cells = [f"{a:.{digits}f}", f"{b:.{digits}f}", f"{b - a:+.{digits}f}"]
        rows.append([change["image"], str(change["row"]), *cells])
    return ["", *aligned(rows)] if len(rows) > 1 else []


def _ranked_by(c: Comparison) -> tuple[str, int]:
    return ("PA-MPJPE mm", 1) if c.first.scores.pose is not None else ("share of wrong pixels", 4)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
