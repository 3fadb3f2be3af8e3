"""The page's tables: measurements, timings and rejections."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import journal
from pipelines.errors import StageError
from pipelines.evaluation.result import read_json
from pipelines.exchange.export import valid_fits
from pipelines.fits.doubt import doubtful_fits, in_mm
from pipelines.folders import DataFolder, RunFolder
from pipelines.report.samples import DatasetFits, has_fit
from spin.evaluation.scores import METRICS, Metric


@dataclass(frozen=True)
class State:
    """A data set's fits in numbers; medians in px², None without fits.

    `doubtful`: some of the valid ones now; None where scores are not in mm.
    """

    dataset: str
    samples: int
    fitted: int
    valid_before: float | None
    valid_now: float | None
    doubtful: int | None
    median_before: float | None
    median_now: float | None
    from_loop: int


@dataclass(frozen=True)
class Evaluation:
    """A result of `spin-pipe eval`: its numbers by the names in METRICS, and its protocol card."""

    dataset: str
    step: int
    checkpoint: str
    samples: int
    metrics: dict[str, float]
    card: dict[str, Any]
    path: Path

    @property
    def body(self) -> str:
        return str(self.card["body"])


@dataclass(frozen=True)
class Timing:
    stage: str
    of: str
    started: str
    seconds: float
    counts: dict[str, float]


def fit_states(sets: list[DatasetFits]) -> list[State]:
    return [_state(item) for item in sets]


def _state(item: DatasetFits) -> State:
    def share(fits: Any) -> float | None:
        return None if fits is None or not len(fits) else float(valid_fits(fits).mean())

    def median(fits: Any) -> float | None:
        return None if fits is None or not has_fit(fits).any() else float(np.median(fits.loss[has_fit(fits)]))

    fitted = 0 if item.now is None else int(has_fit(item.now).sum())
    from_loop = 0 if item.now is None else int((item.now.improvements > 0).sum())
    return State(
        item.name,
        len(item.annotations),
        fitted,
        share(item.before),
        share(item.now),
        None if item.now is None or not in_mm(item.score_rule) else int(doubtful_fits(item.now, item.score_rule).sum()),
        median(item.before),
        median(item.now),
        from_loop,
    )


def read_evaluations(run: RunFolder, problems: list[str]) -> list[Evaluation]:
    """Return all results in the run's folder, by data set and step; any other file becomes a line in `problems`."""
    found = []
    for path in sorted((run.root / "evaluation").glob("*.json")):
        try:
            content = read_json(path)
            subject = content["subject"]
            found.append(
                Evaluation(
                    dataset=str(content["dataset"]),
                    step=int(subject.get("step", 0)),
                    checkpoint=Path(subject.get("file", subject["kind"])).name,
                    samples=int(content["samples"]),
                    metrics={name: float(value) for name, value in content["metrics"].items()},
                    card={"body": "", **content["card"]},
                    path=path,
                )
            )
        except (StageError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{path.name}: not an evaluation's result ({type(error).__name__}: {error})")
    return sorted(found, key=lambda e: (e.dataset, e.step, e.checkpoint))


def protocols(evaluations: list[Evaluation]) -> list[dict[str, str]]:
    """Return the different protocol cards, as text."""
    cards: list[dict[str, str]] = []
    for evaluation in evaluations:
        card = {key: _as_text(value) for key, value in evaluation.card.items()}
        if card not in cards:
            cards.append(card)
    return cards


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def measured(evaluations: list[Evaluation]) -> dict[str, Metric]:
    """Return the metrics that at least one evaluation has, in the order in which they are shown."""
    return {name: metric for name, metric in METRICS.items() if any(name in e.metrics for e in evaluations)}


def read_timings(data: DataFolder, run: RunFolder | None) -> list[Timing]:
    """Return finished stages in order, without other runs' training and evaluation, and without earlier reports."""
    return [_timing(entry) for entry in journal.read(data.journal) if _belongs(entry, run)]


def _belongs(entry: dict[str, Any], run: RunFolder | None) -> bool:
    if not isinstance(entry, dict) or not {"stage", "seconds"} <= set(entry) or entry["stage"] == "report":
        return False
    if run is None:
        return True
    if entry["stage"] == "train":
        return entry.get("name") == run.root.name
    if entry["stage"] == "eval":
        return run.root.resolve() in Path(str(entry.get("checkpoint", ""))).resolve().parents
    return True


def _timing(entry: dict[str, Any]) -> Timing:
    counts = {
        name.replace("_", " "): value
        for name, value in entry.items()
        if name != "seconds" and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    about = entry.get("dataset") or entry.get("name") or ""
    return Timing(str(entry["stage"]), str(about), str(entry.get("started", "")), float(entry["seconds"]), counts)


def rejection_reasons(item: DatasetFits) -> list[tuple[str, str, int]]:
    """Return (stage, reason, count) of all people without a fit, the most frequent first."""
    by_reason = Counter(("preprocess", person.reason) for person in item.rejected)
    if item.now is not None:
        by_reason.update(("fit-static", item.reason_without_fit(int(row))) for row in np.flatnonzero(~has_fit(item.now)))
    return [(stage, reason, count) for (stage, reason), count in by_reason.most_common()]


def duration(seconds: float) -> str:
    """Format seconds for reading, as in "1 min 15 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
