"""What a fitter needs, found in the data folder: body, prior, lifter; and what makes its scores comparable."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipelines.folders import DataFolder
from spin.body import CompactBody, load_body
from spin.fitting.fitter import FitConfig, Fitter
from spin.fitting.lifter import load_lifter
from spin.fitting.prior import load_pose_prior
from store.files.open import open_files
from store.fits.fingerprint import Fingerprint, require_same
from store.fits.format.layout import CURRENT
from store.fits.store import FitStore

if TYPE_CHECKING:
    from spin.body import BodyData
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
        return cls(data.body.resolve(), data.prior.resolve(), data.lifter.resolve() if needed else None)

    def fitter(self, config: FitConfig, device: torch.device | None = None) -> Fitter:
        device = device or torch.device("cpu")
        body = load_body(self.body)
        lifter = None if self.lifter is None else load_lifter(self.lifter, body.fingerprint).to(device)
        return Fitter(CompactBody(body).to(device), load_pose_prior(self.prior).to(device), config, lifter)

    def fingerprint(self, objective: Objective, annotations: Annotations) -> Fingerprint:
        """What must agree for two fits of one sample to be compared.

        An anchored fit's score is the scorer's, and the scorer is the lifter; else the score is the reprojection loss.
        """
        body, rule = load_body(self.body), "reprojection-loss:1"
        if objective.is_anchored:
            assert self.lifter is not None
            rule = f"expected-error-mm:{load_lifter(self.lifter, body.fingerprint).fingerprint}"
        prior = load_pose_prior(self.prior).fingerprint
        return Fingerprint(
            body=body.fingerprint,
            objective=f"{objective.fingerprint},prior={prior}",
            score_rule=rule,
            annotations=_annotations_part(annotations),
        )


def _annotations_part(annotations: Annotations) -> str:
    return f"{annotations.name}:{annotations.content_hash[:12]}"


def require_reachable(place: Path | str) -> None:
    """Says what is wrong with an object store before anything that takes long has begun; whether there are fits or not.

    Raises StoreError.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        open_files(place).read(CURRENT)


def open_fits(path: Path | str, body: BodyData, annotations: Annotations) -> FitStore:
    """A store to read from, whatever its fits minimised.

    FingerprintMismatchError if they belong to another body or to other annotations: they would go to the wrong people.
    """
    store = FitStore.open(path)
    known = store.fingerprint
    mine = replace(known, body=body.fingerprint, annotations=_annotations_part(annotations))
    require_same(known, mine, where=str(path))
    return store
