"""Export of fits and annotations in the field's formats, with a list of what each format can't hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.errors import UsageError
from pipelines.exchange.cameras import image_cameras, to_weak
from pipelines.fits.doubt import doubtful_fits
from pipelines.fits.open import open_fits
from pipelines.folders import DataFolder
from spin.body import CompactBody, load_body
from spin.fitting.objective import BETA_LIMIT
from spin.fitting.verdicts import ACCEPT_LOSS, VERDICTS
from spin.joints import SMPL_NAMES
from spin.rotations import axis_angle_to_matrix
from store.annotations.table import Annotations
from store.exchange import (
    PUBLISHED_NAMES,
    export_bedlam,
    export_eft,
    export_final_fits,
    export_humans4d,
    export_mview_fits,
    export_spin_dataset,
    export_static_fits,
    lost_in_spin_dataset,
)
from store.exchange.tables import TABLE_COLUMNS, export_table
from store.fits.records import COLUMNS, Fits, Source, Verdict

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

    from spin.body import BodyData


@dataclass(frozen=True)
class FitFormat:
    """A format of fits: the ending of its files, the columns of a fit that it holds, and what else it can't hold."""

    ending: str
    about: str
    holds: tuple[str, ...] = ("pose", "betas")
    lacks: tuple[str, ...] = ()
    only_valid: bool = False  # it has no rows without a valid body

    @property
    def lost(self) -> list[str]:
        """Return the parts of a fit that the format can't hold."""
        return [name for name in COLUMNS if name not in self.holds] + list(self.lacks)


FIT_FORMATS = {
    "spin": FitFormat(".npz", "SPIN's final fits: pose, betas, valid_fit"),
    "static": FitFormat(
        "_fits.npy", "SPIN's static fits: (N, 82)", lacks=("whether a fit is valid", "whose body it is")
    ),
    "mview": FitFormat("_mview_fits.npz", "multi-view fits: pose, shape, has_smpl"),
    "eft": FitFormat(
        "_eft.json", "EFT's JSON: rotation matrices, weak-perspective camera", holds=("pose", "betas", "camera"),
        lacks=("angles beyond a half turn", "the camera's perspective"), only_valid=True,
    ),
    "4dhumans": FitFormat(
        "_4dhumans.npz", "4D-Humans': 44 keypoints, body_pose, betas",
        lacks=("the face's keypoints where OpenPose has them too",),
    ),
    "bedlam": FitFormat(
        "_bedlam.npz", "BEDLAM's: pose_cam, shape, trans_cam, camera", holds=("pose", "betas", "camera"),
        lacks=("keypoints",), only_valid=True,
    ),
    "parquet": FitFormat(".parquet", "a table: sample, image, valid, reason, the fit", holds=TABLE_COLUMNS),
}  # fmt: skip


@dataclass(frozen=True)
class ExportSummary:
    """`doubtful`: of the valid ones, and exported like them. `written`: the file's rows. `lost`: what the format can't hold."""

    path: Path
    samples: int
    valid: int
    doubtful: int
    without_fit: int
    written: int
    lost: list[str]


@dataclass(frozen=True)
class AnnotationExport:
    path: Path
    samples: int
    lost: list[str]


def valid_fits(fits: Fits) -> np.ndarray:
    """Return which fits are good enough to supervise: valid, a loss below the threshold, a plausible shape.

    Loss and shape are checked as well: a record that was added without a verdict is VALID, too.
    """
    judged = (fits.source != Source.NONE) & (fits.verdict == Verdict.VALID)
    return judged & (fits.loss < ACCEPT_LOSS) & (np.abs(fits.betas).max(1) <= BETA_LIMIT)


def export_fits(
    data: DataFolder,
    dataset: str,
    output: Path | None = None,
    *,
    tag: str | None = None,
    format: str = "spin",
) -> ExportSummary:
    """Write the store's newest state, or a tagged one, in a format of FIT_FORMATS."""
    annotations, body = Annotations.read(data.annotations(dataset)), load_body(data.body)
    samples = len(annotations)
    store = open_fits(data.fits(dataset), body, annotations)
    fits = (store if tag is None else store.at(tag)).get(np.arange(samples))
    valid = valid_fits(fits)
    form = FIT_FORMATS[format]
    path = output or data.exported(dataset, form.ending)
    _write(format, path, annotations, fits, valid, body)
    written = int(valid.sum()) if form.only_valid else samples
    without = int((fits.source == Source.NONE).sum())
    doubtful = int(doubtful_fits(fits, store.fingerprint.score_rule).sum())
    return ExportSummary(path, samples, int(valid.sum()), doubtful, without, written, form.lost)


def _write(
    format: str,
    path: Path,
    annotations: Annotations,
    fits: Fits,
    valid: Bool[np.ndarray, " n"],
    body: BodyData,
) -> None:
    whose, rows = body.fingerprint, np.flatnonzero(valid)
    some, people = fits.take(rows), annotations.take(rows)
    if format == "spin":
        export_final_fits(path, fits, valid, body=whose)
    elif format == "static":
        export_static_fits(path, fits)
    elif format == "mview":
        export_mview_fits(path, fits, valid, body=whose)
    elif format == "parquet":
        reasons = [
            "" if good else VERDICTS[verdict] if source != Source.NONE else "no fit"
            for good, source, verdict in zip(valid.tolist(), fits.source.tolist(), fits.verdict.tolist())
        ]
        export_table(path, annotations, fits, valid, reasons, body=whose)
    elif format == "4dhumans":
        export_humans4d(path, annotations, fits, valid, body=whose)
    elif format == "eft":
        pose = torch.from_numpy(some.pose.astype(np.float64)).reshape(-1, 24, 3)
        rotations = axis_angle_to_matrix(pose).numpy()
        export_eft(path, annotations, rows, rotations, some.betas, to_weak(some.camera, people), body=whose)
    elif format == "bedlam":
        cameras = image_cameras(people)
        export_bedlam(path, annotations, rows, some, cameras, _joints_px(body, some, cameras), body=whose)
    else:
        raise UsageError(f"format {format!r}: expected {', '.join(FIT_FORMATS)}")


def _joints_px(body: BodyData, fits: Fits, cameras: Float64[np.ndarray, "k 3 3"]) -> Float64[np.ndarray, "k 24 2"]:
    """Return SMPL's joints of each fit in the whole image."""
    with torch.no_grad():
        points = CompactBody(body)(torch.from_numpy(fits.pose), torch.from_numpy(fits.betas))
    joints = points[:, : len(SMPL_NAMES)].double().numpy() + fits.camera[:, None]
    seen = joints @ cameras.transpose(0, 2, 1)
    return seen[..., :2] / seen[..., 2:]


def export_annotations(
    data: DataFolder, dataset: str, output: Path | None = None, *, replace: bool = False
) -> AnnotationExport:
    """Write SPIN's data set .npz, under its published name if it has one.

    Raise UsageError if the file exists, unless `replace`.
    """
    annotations = Annotations.read(data.annotations(dataset))
    path = output or data.dataset_extra(PUBLISHED_NAMES.get(dataset, f"{dataset}.npz"))
    if path.exists() and not replace:
        raise UsageError(f"{path}: already exists; pass --out FILE for another file, or --overwrite to replace it")
    export_spin_dataset(path, annotations, body=load_body(data.body).fingerprint)
    return AnnotationExport(path, len(annotations), lost_in_spin_dataset(annotations))
