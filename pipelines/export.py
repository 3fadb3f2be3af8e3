"""Final fits as the field exchanges them: pose, betas and a validity, in sample order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.fitting import open_fits
from pipelines.layout import DataFolder
from spin.body import load_body
from spin.fitting.verdicts import ACCEPT_LOSS, BETA_LIMIT
from store.annotations import Annotations
from store.exchange import export_final_fits
from store.records import Fits, Source, Verdict


@dataclass(frozen=True)
class ExportSummary:
    path: Path
    samples: int
    valid: int
    without_fit: int


def valid_fits(fits: Fits) -> np.ndarray:
    """Fits good enough to supervise (bool, one a sample): found valid, with a loss below the threshold, a plausible shape.

    Loss and shape are looked at as well: a record says VALID, too, if whoever offered it did not judge it.
    """
    judged = (fits.source != Source.NONE) & (fits.verdict == Verdict.VALID)
    return judged & (fits.loss < ACCEPT_LOSS) & (np.abs(fits.betas).max(1) <= BETA_LIMIT)


def export_fits(data: DataFolder, dataset: str, output: Path, *, tag: str | None = None) -> ExportSummary:
    """Writes SPIN's final-fits .npz of the store's newest state, or of a tagged one."""
    annotations = Annotations.read(data.annotations(dataset))
    samples = len(annotations)
    store = open_fits(data.fits(dataset), load_body(data.body), annotations)
    fits = (store if tag is None else store.at(tag)).get(np.arange(samples))
    valid = valid_fits(fits)
    output.parent.mkdir(parents=True, exist_ok=True)
    export_final_fits(output, fits, valid)
    return ExportSummary(output, samples, int(valid.sum()), int((fits.source == Source.NONE).sum()))
