"""The comparison with another run: settings that differ, both curves, and both measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pipelines import journal
from pipelines.errors import StageError
from pipelines.evaluation.compare import compare_results, lines
from pipelines.evaluation.protocol_card import differing
from pipelines.folders import RunFolder
from pipelines.report import charts, tables
from pipelines.training.config import TrainConfig
from spin.evaluation.bootstrap import Interval
from spin.evaluation.scores import Metric


@dataclass(frozen=True)
class Measured:
    """The newest results of both runs on a data set.

    `differences`: fields of the protocol cards that differ, so that the numbers can't be compared. Else `changes`: of each
    number how much larger it is in this run, with a 95 % interval; `details`: what `spin-pipe compare` prints.
    """

    mine: tables.Evaluation
    theirs: tables.Evaluation
    differences: list[str]
    changes: dict[str, Interval]
    details: str


@dataclass(frozen=True)
class Comparison:
    """`settings`: name, this run's value, the other's, where they differ. `alone`: data sets that only one of them measured."""

    other: str
    settings: list[tuple[str, str, str]]
    curves: list[charts.Chart]
    measured: list[Measured]
    metrics: dict[str, Metric]
    alone: list[str]


def compare_runs(run: RunFolder, other: RunFolder, problems: list[str]) -> Comparison:
    """Compare two runs; unreadable results become lines in `problems`.

    Raise StageError if the configuration of one can't be read.
    """
    names = run.root.name, other.root.name
    mine, theirs = (dict(_flat(asdict(TrainConfig.load(r.config)))) for r in (run, other))
    settings = [(key, mine[key], theirs[key]) for key in mine if mine[key] != theirs.get(key)]
    curves = charts.compared_curves(names, (journal.read(run.metrics), journal.read(other.metrics)))
    newest = [{e.dataset: e for e in tables.read_evaluations(r, problems)} for r in (run, other)]
    both = [name for name in newest[0] if name in newest[1]]
    measured = [_measured(newest[0][name], newest[1][name], problems) for name in both]
    results = [e for pair in measured for e in (pair.mine, pair.theirs)]
    alone = sorted(newest[0].keys() ^ newest[1].keys())
    return Comparison(names[1], settings, curves, measured, tables.measured(results), alone)


def _measured(mine: tables.Evaluation, theirs: tables.Evaluation, problems: list[str]) -> Measured:
    differences = list(differing(mine.card, theirs.card))
    if not differences:
        try:
            found = compare_results(theirs.path, mine.path)
        except StageError as error:
            problems.append(str(error))
        else:
            changes = {name: compared.difference for name, compared in found.numbers.items()}
            return Measured(mine, theirs, [], changes, "\n".join(lines(found)))
    return Measured(mine, theirs, differences, {}, "")


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key.replace("_", " "), value if isinstance(value, str) else json.dumps(value)
