"""The quality of a data set's fits: verdicts in words, percentiles, starts; and a table with a row for each sample."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pipelines.errors import StageError
from pipelines.fits.doubt import doubtful_fits, in_mm
from pipelines.fits.open import open_fits
from pipelines.folders import DataFolder
from pipelines.rejections import NOT_FITTED, reasons_without_fit
from spin.body import load_body
from spin.fitting.verdicts import DOUBTFUL_MM, VERDICTS
from store.annotations.table import Annotations
from store.errors import FitStoreNotFoundError
from store.files.atomic import write_named_by_content
from store.fits.records import Fits, Source, StartKind, Verdict

if TYPE_CHECKING:
    from jaxtyping import Bool

PERCENTILES = (5, 50, 95)
CSV_COLUMNS = (
    "sample", "image", "source", "fit", "start", "verdict",
    "loss_px2", "score", "coverage", "prior_cost_px2", "iterations", "step", "improvements", "doubtful",
)  # fmt: skip


@dataclass(frozen=True)
class Quality:
    """The fits of a data set in one state of its store, and the verdict of each sample.

    `verdicts`: of each fit in words; of a sample without one, why. `problems`: what could not be read, a line each.
    """

    state: str
    score_rule: str
    annotations: Annotations
    fits: Fits
    verdicts: list[str]
    problems: list[str]

    @property
    def fitted(self) -> Bool[np.ndarray, " n"]:
        return self.fits.source != Source.NONE

    @property
    def doubtful(self) -> Bool[np.ndarray, " n"] | None:
        """Which fits are valid, but doubtful; None where scores are no expected errors, and nothing is known of it."""
        return doubtful_fits(self.fits, self.score_rule) if in_mm(self.score_rule) else None


def measure_quality(data: DataFolder, dataset: str, *, tag: str | None = None) -> Quality:
    """Read the store's newest state, or a tagged one.

    StageError if no sample has a fit or a reason for its absence; StoreError if the fits belong to another body or other
    annotations, or there is no such tag.
    """
    annotations = Annotations.read(data.annotations(dataset))
    missing = StageError(
        f"data set {dataset}: no fits in {data.fits(dataset)}{f' as of {tag!r}' if tag else ''}; "
        f"make them with `spin-pipe fit-static {dataset}`"
    )
    try:
        store = open_fits(data.fits(dataset), load_body(data.body), annotations)
    except FitStoreNotFoundError as error:
        raise missing from error
    fits = (store if tag is None else store.at(tag)).get(np.arange(len(annotations)))
    problems: list[str] = []
    reasons = reasons_without_fit(data, dataset, problems)
    fitted = fits.source != Source.NONE
    if not fitted.any() and not reasons:
        raise missing
    verdicts = [
        VERDICTS[verdict] if known else reasons.get(row, NOT_FITTED)
        for row, (verdict, known) in enumerate(zip(fits.verdict.tolist(), fitted.tolist()))
    ]
    state = "as they are now" if tag is None else f"as of {tag!r}"
    return Quality(state, store.fingerprint.score_rule, annotations, fits, verdicts, problems)


def as_text(quality: Quality) -> str:
    """Return the table for a terminal: counts of verdicts, percentiles over the samples with a fit, which starts won."""
    samples, fitted = len(quality.annotations), quality.fitted
    lines = [f"{quality.annotations.name}: {samples} samples, fits {quality.state}", *_verdict_lines(quality)]
    if fitted.any():
        lines += _percentile_lines(quality.fits.take(fitted), quality.score_rule)
        starts = Counter(quality.fits.start[fitted].tolist())
        won = ", ".join(f"{StartKind(kind).name.lower()} {count}" for kind, count in starts.most_common())
        lines.append(f"  best start: {won}")
    return "\n".join(lines + [f"  {problem}" for problem in quality.problems])


def _verdict_lines(quality: Quality) -> list[str]:
    samples, fitted = len(quality.annotations), quality.fitted.tolist()
    counts = Counter({VERDICTS[Verdict.VALID]: 0})
    counts.update(verdict for verdict, known in zip(quality.verdicts, fitted) if known)
    reasons = Counter(verdict for verdict, known in zip(quality.verdicts, fitted) if not known)
    valid = counts.pop(VERDICTS[Verdict.VALID])
    rows = [(VERDICTS[Verdict.VALID], valid), *counts.most_common(), ("without a fit", reasons.total())]
    lines = [f"  {count:8}  {count / samples:6.1%}  {verdict}" for verdict, count in rows]
    if quality.doubtful is not None:
        count = int(quality.doubtful.sum())
        lines.insert(1, f"  {'':16}  {count:8}  of these doubtful, with an expected error above {DOUBTFUL_MM:g} mm")
    return lines + [f"  {'':16}  {count:8}  {reason}" for reason, count in reasons.most_common()]


def _percentile_lines(fits: Fits, score_rule: str) -> list[str]:
    measured = {
        "loss (px²)": fits.loss,
        f"score ({score_rule.partition(':')[0]})": fits.score,
        "coverage (0 to 1)": fits.coverage,
        "prior cost (px²)": fits.prior_cost,
        "iterations": fits.iterations,
    }
    lines = [f"  {f'of the {len(fits)} fits':28}" + "".join(f"{f'{rank}%':>10}" for rank in PERCENTILES)]
    for name, values in measured.items():
        found = np.percentile(values.astype(np.float64), PERCENTILES)
        lines.append(f"  {name:28}" + "".join(f"{value:10.4g}" for value in found))
    return lines


def write_csv(quality: Quality, path: Path) -> None:
    """Write one row for each sample, in their order; cells that need a fit are empty without one. Complete or not at all."""

    def fill(handle: BinaryIO) -> str:
        text = io.TextIOWrapper(handle, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        writer.writerows(_csv_rows(quality))
        text.detach()
        return path.name

    path.parent.mkdir(parents=True, exist_ok=True)
    write_named_by_content(path.parent, fill)


def _csv_rows(quality: Quality) -> Iterator[tuple[object, ...]]:
    annotations, fits = quality.annotations, quality.fits
    # As text, float32 gets no more digits than it has.
    numbers = [
        getattr(fits, name).astype(np.str_).tolist()
        for name in ("loss", "score", "coverage", "prior_cost", "iterations", "step", "improvements")
    ]
    doubtful = [""] * len(fits) if quality.doubtful is None else quality.doubtful.astype(int).tolist()
    for row, (source, start) in enumerate(zip(fits.source.tolist(), fits.start.tolist())):
        known = source != Source.NONE
        yield (
            row,
            annotations.image[row],
            annotations.source[row],
            Source(source).name.lower(),
            StartKind(start).name.lower() if known else "",
            quality.verdicts[row],
            *(column[row] if known else "" for column in numbers),
            doubtful[row] if known else "",
        )
