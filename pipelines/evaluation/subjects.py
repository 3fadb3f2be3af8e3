"""The subjects of evaluation: a checkpoint, the fits of a store, or a result file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import StageError
from pipelines.evaluation.bodies import StoredBodies
from pipelines.evaluation.protocol_card import SEEN, file_hash
from pipelines.exchange.cameras import to_weak
from pipelines.fits.open import open_fits
from pipelines.folders import DataFolder
from spin.body import load_body
from spin.camera import CROP_PX
from spin.crop import crop_camera
from spin.network.checkpoints import load_checkpoint, network_from_checkpoint
from spin.network.inference import precision_of
from store.annotations.table import Annotations
from store.exchange.io import array_names, missing_keys, numbers, read_arrays
from store.fits.records import Source

if TYPE_CHECKING:
    from jaxtyping import Int

RESULT_FILE = "an evaluation's result .npz with pred_joints (n, 17, 3), pose (n, 72), betas (n, 10), camera (n, 3)"
_OPTIONAL = (
    "rows",
    "measured",
    "images",
    "dataset",
    *SEEN,
)  # additional keys of the files that `spin-pipe eval` writes


@dataclass(frozen=True)
class Subject:
    """Bodies to measure: a checkpoint's file, or the bodies themselves, of `rows` (None: any). `about`: their origin.

    `seen`: a network's crop rule and precision, for the protocol card; of a file, if it has them. `published`: whether a
    checkpoint is SPIN's, None if it is none.
    """

    bodies: Path | StoredBodies
    about: dict[str, Any]
    rows: Int[np.ndarray, " n"] | None = None
    seen: dict[str, str] = field(default_factory=dict)
    published: bool | None = None


def checkpoint_subject(checkpoint: Path, crop: str | None = None) -> Subject:
    """Return a checkpoint as subject. `crop`: a rule instead of the one that the checkpoint was trained with.

    ModelFileError if it is not a checkpoint, or of another network: it is raised here so that not every worker reports it.
    """
    loaded = load_checkpoint(checkpoint)
    network = network_from_checkpoint(loaded, str(checkpoint))
    about = {
        "kind": "checkpoint",
        "file": str(checkpoint),
        "sha256": file_hash(checkpoint),
        "step": loaded.step,
        "backbone": loaded.backbone,
        "crop_px": int(loaded.config.get("img_res", CROP_PX)),
    }
    seen = {"crop": crop or loaded.crop_rule, "precision": precision_of(network)}
    return Subject(checkpoint.resolve(), about, seen=seen, published=loaded.published)


def fits_subject(data: DataFolder, annotations: Annotations, tag: str | None) -> Subject:
    """Return the best fits, or those of a tag, as subject.

    StageError if there are no fits; StoreError if there is no store, or no such tag.
    """
    name = annotations.name
    store = open_fits(data.fits(name), load_body(data.body), annotations)
    fits = (store if tag is None else store.at(tag)).get(np.arange(len(annotations)))
    rows = np.flatnonzero(fits.source != Source.NONE)
    if not len(rows):
        raise StageError(f"data set {name}: its fit store has no fit yet; run `spin-pipe fit-static {name}`")
    some, a = fits.take(rows), annotations.take(rows)
    focal, principal = crop_camera(a.center_px, a.scale, a.focal_px, a.principal_px, a.has_camera)
    camera = to_weak(some.camera, a)
    camera[:, 1:] /= camera[:, :1]  # from half-widths of the crop to metres
    bodies = StoredBodies(rows, some.pose, some.betas, camera.astype(np.float32), some.camera, focal, principal)
    about = {"kind": "fits", "store": str(data.fits(name)), "tag": tag or "", "crop_px": CROP_PX}
    return Subject(bodies, about, rows)


def result_subject(file: Path, annotations: Annotations, samples: Int[np.ndarray, " n"] | None = None) -> Subject:
    """Return a result file as subject: a published one, or one of `spin-pipe eval`, which says what its rows are.

    `samples`: of each row of a published one, -1 where it has none; None: the data set's, in order (see `result_rows`).
    ExchangeError if it is not a result, StageError if it belongs to another data set.
    """
    names = ("pred_joints", "pose", "betas", "camera")
    found = read_arrays(file, names + _OPTIONAL, RESULT_FILE)
    missing = {"pose", "betas", "camera"} - set(found)
    if missing:
        raise missing_keys(file, RESULT_FILE, array_names(file, RESULT_FILE))
    rows = found.get("rows", np.arange(len(annotations)) if samples is None else np.sort(samples))
    count = len(found["pose"]) if found["pose"].ndim else 0
    if count != len(rows):
        raise StageError(
            f"{file}: {count} rows, but data set {annotations.name} has {len(annotations)}; it belongs to another "
            "data set, or to other frames"
        )
    measured = found.get("measured", np.ones(count, bool)).astype(bool)
    order = np.arange(count)
    if samples is not None:
        measured, order = rows >= 0, np.argsort(samples, kind="stable")
    else:
        rows, order = _found_by_name(rows, order, measured, found, annotations)
        _check_frames(file, found, rows, measured, annotations)

    def of(name: str, width: tuple[int, ...]) -> np.ndarray:
        return numbers(file, name, found[name], (count, *width))[order][measured]

    joints = of("pred_joints", (17, 3)) if "pred_joints" in found and found["pred_joints"].any() else None
    bodies = StoredBodies.with_weak_cameras(rows[measured], of("pose", (72,)), of("betas", (10,)), of("camera", (3,)), joints)
    about = {"kind": "result", "file": str(file), "sha256": file_hash(file)}
    about["joints"] = "regressed from pose and betas" if joints is None else "pred_joints"
    seen: dict[str, str] = {name: str(found[name]) for name in SEEN if name in found}
    return Subject(bodies, about, rows[measured], seen)


def _found_by_name(
    rows: np.ndarray, order: np.ndarray, measured: np.ndarray, found: dict[str, np.ndarray], annotations: Annotations
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and their order where each image is named once: the data set may have been read again in another order."""
    names = [str(image) for image in found.get("images", np.empty(0)).tolist()]
    places = {image: row for row, image in enumerate(annotations.image)}
    once = len(places) == len(annotations) and len(set(names)) == len(names)
    if not (names and once and measured.all() and len(names) == len(rows) and set(names) <= set(places)):
        return rows, order
    here = np.array([places[name] for name in names])
    order = np.argsort(here, kind="stable")
    found["images"] = found["images"][order]
    return here[order], order


def _check_frames(
    file: Path, found: dict[str, np.ndarray], rows: np.ndarray, measured: np.ndarray, annotations: Annotations
) -> None:
    """Raise StageError if the file names other frames than these."""
    fits = rows.dtype.kind in "iu" and rows.ndim == 1 and measured.shape == rows.shape
    if not fits or (len(rows) and not (rows.min() >= 0 and rows.max() < len(annotations))):
        whose = f"; it belongs to data set {found['dataset']}" if "dataset" in found else ""
        raise StageError(f"{file}: its rows are not rows of data set {annotations.name}, which has {len(annotations)}{whose}")
    if len(np.unique(rows)) != len(rows) or (np.diff(rows) < 0).any():
        raise StageError(f"{file}: its rows are not in ascending order, or a row appears twice")
    if "images" not in found:
        return
    theirs = [str(image) for image in found["images"].tolist()]
    ours = [annotations.image[row] for row in rows[measured]]
    if theirs != ours:
        at = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(theirs), len(ours)))
        shown = theirs[at] if at < len(theirs) else "nothing"
        raise StageError(
            f"{file}: has other frames than data set {annotations.name} (first: {shown!r} where the data set has "
            f"{ours[at] if at < len(ours) else 'nothing'!r})"
        )
