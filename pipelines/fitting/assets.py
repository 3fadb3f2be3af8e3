"""What a fitter needs, found in the data folder: body, prior, lifter; and what makes its scores comparable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipelines.fits.doubt import EXPECTED_ERROR
from pipelines.fits.open import annotations_part
from pipelines.folders import DataFolder
from spin.body import CompactBody, load_body
from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.lifter import load_lifter
from spin.fitting.prior import load_pose_prior
from store.fits.fingerprint import Fingerprint

if TYPE_CHECKING:
    from spin.fitting.objective import Objective
    from store.annotations.table import Annotations


@dataclass(frozen=True)
class FittingFiles:
    """Body, prior and lifter of a data folder. `lifter` is None where nothing asks for one."""

    body: Path
    prior: Path
    lifter: Path | None

    @classmethod
    def of(cls, data: DataFolder, config: FitConfig) -> FittingFiles:
        """ModelFileError, naming the command that makes one, if a lifter is needed and there is none."""
        needed = config.objective.is_anchored or "lifter" in config.init
        return cls(data.body, data.prior, data.lifter if needed else None)

    def fitter(self, config: FitConfig, device: torch.device | None = None) -> BatchFitter:
        device = device or torch.device("cpu")
        body = load_body(self.body)
        lifter = None if self.lifter is None else load_lifter(self.lifter, body.fingerprint).to(device)
        return BatchFitter(CompactBody(body).to(device), load_pose_prior(self.prior).to(device), config, lifter)

    def fingerprint(self, objective: Objective, annotations: Annotations) -> Fingerprint:
        """What must agree for two fits of one sample to be compared.

        An anchored fit's score is the scorer's, and the scorer is the lifter; else the score is the reprojection loss.
        """
        body, rule = load_body(self.body), "reprojection-loss:1"
        if objective.is_anchored:
            assert self.lifter is not None
            rule = f"{EXPECTED_ERROR}:{load_lifter(self.lifter, body.fingerprint).fingerprint}"
        prior = load_pose_prior(self.prior).fingerprint
        return Fingerprint(
            body=body.fingerprint,
            objective=f"{objective.fingerprint},prior={prior}",
            score_rule=rule,
            annotations=annotations_part(annotations),
        )
