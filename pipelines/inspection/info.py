"""Data sets, their fits, runs, and the body in use; one data set in detail; one sample with its picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines import panels
from pipelines.errors import StageError, UsageError
from pipelines.exchange.export import valid_fits
from pipelines.fits.doubt import doubtful_fits, status_in_words
from pipelines.fits.open import open_fits
from pipelines.folders import DataFolder, RunFolder
from pipelines.rejections import NOT_FITTED, read_rejections, reasons_without_fit
from spin.body import BodyMesh, load_body
from spin.joints import JOINTS
from store.annotations.parquet import read_provenance
from store.annotations.table import Annotations
from store.crops import packing_summary
from store.errors import FitStoreNotFoundError, StoreError
from store.files.atomic import write_file
from store.fits.records import Fits, Source, StartKind


@dataclass(frozen=True)
class DatasetInfo:
    """A data set in numbers. If its file cannot be read, `problem` holds the reason and the numbers are zero."""

    name: str
    problem: str = ""
    people: int = 0
    images: int = 0
    openpose: int = 0
    smpl: int = 0
    joints3d: int = 0
    joints17: int = 0
    cameras: int = 0
    views: int = 0
    rejected: int = 0
    reader: str = ""
    content_hash: str = ""
    image_root: str = ""
    image_root_exists: bool = False
    fitted: int = 0
    valid: int = 0
    doubtful: int = 0  # of those valid
    tags: tuple[str, ...] = ()
    fits_problem: str = ""


def dataset_info(data: DataFolder, name: str) -> DatasetInfo:
    """Return a data set's numbers. A damaged file is reported in them, not raised, so that the other data sets are shown."""
    try:
        a = Annotations.read(data.annotations(name))
    except StoreError as error:
        return DatasetInfo(name, problem=str(error))
    noted = read_provenance(data.annotations(name))
    problems: list[str] = []
    fits, tags, score_rule = Fits.empty(len(a)), list[str](), ""
    try:
        store = open_fits(data.fits(name), load_body(data.body), a)
        fits, tags, score_rule = store.get(np.arange(len(a))), store.tags(), store.fingerprint.score_rule
    except FitStoreNotFoundError:
        pass
    except StoreError as error:
        problems.append(str(error))
    return DatasetInfo(
        name=name,
        people=len(a),
        images=len(set(a.image)),
        openpose=int(a.keypoints_px[:, JOINTS.openpose, 2].any(1).sum()),
        smpl=int(a.has_smpl.sum()),
        joints3d=int(a.has_joints3d.sum()),
        joints17=int(a.has_joints17.sum()),
        cameras=int(a.has_camera.sum()),
        views=int(a.has_view.sum()),
        rejected=len(read_rejections(data.rejected(name), None, problems)),
        reader=f"{noted.get('reader', 'unknown')}, version {noted.get('reader_version', 'unknown')}",
        content_hash=a.content_hash,
        image_root=a.image_root,
        image_root_exists=Path(a.image_root).is_dir(),
        fitted=int((fits.source != Source.NONE).sum()),
        valid=int(valid_fits(fits).sum()),
        doubtful=int(doubtful_fits(fits, score_rule).sum()),
        tags=tuple(tags),
        fits_problem="; ".join(problems),
    )


def overview(data: DataFolder, log_dir: Path) -> dict[str, Any]:
    """Return body, prior, every data set, and the runs, as JSON values."""
    runs = []
    for path in sorted(log_dir.glob("*/config.json")):
        checkpoint = RunFolder(path.parent).latest_checkpoint()
        runs.append({"name": path.parent.name, "checkpoint": checkpoint.name if checkpoint else None})
    return {
        "data": str(data.root),
        "body": _body(data),
        "prior": str(data.prior),
        "datasets": [vars(dataset_info(data, name)) for name in data.known()],
        "runs": runs,
    }


def _body(data: DataFolder) -> dict[str, Any]:
    choice = data.body_choice
    return {
        "name": load_body(choice.path).name,
        "file": str(choice.path),
        "chosen": choice.line,
        "ignored": {str(item.path): item.reason for item in choice.ignored},
    }


def details(data: DataFolder, name: str) -> dict[str, Any]:
    """Return a data set's numbers, the share of each known joint, box sides, and provenance. StoreError if unreadable."""
    a = Annotations.read(data.annotations(name))
    known = (a.keypoints_px[..., 2] > 0).mean(0)
    sides = 200 * np.percentile(a.scale.astype(np.float64), (0, 5, 50, 95, 100)) if len(a) else np.zeros(5)
    return vars(dataset_info(data, name)) | {
        "joints_known": {joint: round(float(share), 4) for joint, share in zip(JOINTS.names, known)},
        "box_side_px": dict(zip(("least", "5%", "median", "95%", "most"), sides.round(1).tolist())),
        "provenance": read_provenance(data.annotations(name)),
        "packed_crops": _packed(data, name),
    }


def _packed(data: DataFolder, name: str) -> dict[str, Any] | str | None:
    """Return the summary of packing; None if nothing is packed, a text if the file is damaged."""
    if not data.crops(name).is_file():
        return None
    try:
        return asdict(packing_summary(data.crops(name)))
    except StoreError as error:
        return str(error)


@dataclass(frozen=True)
class _Sample:
    annotations: Annotations
    row: int
    fit: Fits | None  # of this row alone; None if there is none
    without: str  # why there is no fit
    score_rule: str = ""


def _sample(data: DataFolder, name: str, row: int) -> _Sample:
    a = Annotations.read(data.annotations(name))
    if not 0 <= row < len(a):
        raise UsageError(f"--sample {row}: {name} has samples 0 to {len(a) - 1}")
    try:
        store = open_fits(data.fits(name), load_body(data.body), a)
        fit = store.get(np.array([row]))
    except FitStoreNotFoundError:
        return _Sample(a, row, None, NOT_FITTED)
    if fit.source[0] == Source.NONE:
        return _Sample(a, row, None, reasons_without_fit(data, name, []).get(row, NOT_FITTED))
    return _Sample(a, row, fit, "", store.fingerprint.score_rule)


def sample_info(data: DataFolder, name: str, row: int) -> dict[str, Any]:
    """Return one sample's numbers. UsageError if there is no such sample."""
    found = _sample(data, name, row)
    a, fit = found.annotations, found.fit
    seen = {
        joint: [round(float(v), 3) for v in keypoint]
        for joint, keypoint in zip(JOINTS.names, a.keypoints_px[row])
        if keypoint[2] > 0
    }
    out: dict[str, Any] = {
        "dataset": name,
        "sample": row,
        "image": str(a.image_path(row)),
        "source": a.source[row],
        "box": {"center_px": a.center_px[row].round(2).tolist(), "side_px": round(200 * float(a.scale[row]), 2)},
        "openpose": a.openpose_match[row] or ("used" if a.keypoints_px[row, JOINTS.openpose, 2].any() else "none"),
        "truth": [k for k in ("has_smpl", "has_joints3d", "has_joints17", "has_camera", "has_view") if getattr(a, k)[row]],
        "keypoints_px": seen,
        "fit": found.without,
    }  # fmt: skip
    if fit is not None:
        out["fit"] = {
            "source": Source(int(fit.source[0])).name.lower(),
            "start": StartKind(int(fit.start[0])).name.lower(),
            "verdict": status_in_words(fit, found.score_rule)[0],
            "loss_px2": round(float(fit.loss[0]), 3),
            "score": round(float(fit.score[0]), 3),
            "coverage": round(float(fit.coverage[0]), 3),
            "iterations": int(fit.iterations[0]),
            "improvements": int(fit.improvements[0]),
            "betas": fit.betas[0].round(3).tolist(),
            "camera_m": fit.camera[0].round(4).tolist(),
        }
    return out


def write_picture(data: DataFolder, name: str, row: int, out: Path) -> None:
    """Draw keypoints over the photograph and, where there is a fit, its body over it and from the side."""
    found = _sample(data, name, row)
    photograph = panels.cut_photograph(found.annotations, row)
    pictures = [panels.with_keypoints(photograph, found.annotations, row)]
    if found.fit is not None:
        mesh = BodyMesh(load_body(data.body))
        vertices = panels.pose_vertices(mesh, found.fit)[0]
        camera = panels.panel_camera(found.annotations, row)
        pictures.append(panels.with_fit(photograph, vertices, mesh.faces, camera))
        pictures.append(panels.from_the_side(vertices, mesh.faces, camera))
    ok, encoded = cv2.imencode(".png", np.hstack(pictures)[..., ::-1])
    if not ok or out.is_dir():
        raise StageError(f"{out}: cannot be written as a picture")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, encoded.tobytes())


def overview_text(content: dict[str, Any]) -> str:
    lines = [f"body: {content['body']['chosen']}", f"prior: {content['prior']}"]
    if not content["datasets"]:
        lines.append(f"no data set in {content['data']} yet; `spin-pipe preprocess` reads one")
    for item in content["datasets"]:
        lines += ["", *dataset_lines(DatasetInfo(**item))]
    for run in content["runs"]:
        lines += ["", f"run {run['name']}: {run['checkpoint'] or 'no checkpoint yet'}"]
    return "\n".join(lines)


def dataset_lines(d: DatasetInfo) -> list[str]:
    if d.problem:
        return [f"{d.name}: {d.problem}"]
    known = {
        "with OpenPose": d.openpose, "with a true body": d.smpl, "with 3D joints": d.joints3d,
        "with Human3.6M's joints": d.joints17, "with a camera": d.cameras, "with a view": d.views,
    }  # fmt: skip
    missing = "" if d.image_root_exists else " (no such folder: its images can't be read)"
    lines = [
        f"{d.name}: {d.people} people in {d.images} images, {d.rejected} rejected",
        "  " + (", ".join(f"{count} {what}" for what, count in known.items() if count) or "2D keypoints alone"),
        f"  images: {d.image_root}{missing}",
        f"  read by {d.reader}; content {d.content_hash[:12]}",
    ]
    if d.fitted:
        share = d.valid / d.people
        tags = f"; tags {', '.join(d.tags)}" if d.tags else ""
        doubtful = f", {d.doubtful} of these doubtful" if d.doubtful else ""
        lines.append(f"  fits: {d.fitted} of {d.people} samples, {d.valid} valid ({share:.0%}){doubtful}{tags}")
    elif not d.fits_problem:
        lines.append(f"  fits: none yet; `spin-pipe fit-static {d.name}` makes them")
    return lines + ([f"  {d.fits_problem}"] if d.fits_problem else [])


def details_text(content: dict[str, Any]) -> str:
    joints, sides = content["joints_known"], content["box_side_px"]
    info = DatasetInfo(**{key: content[key] for key in DatasetInfo.__dataclass_fields__})
    lines = [*dataset_lines(info), "  box side, px: " + ", ".join(f"{k} {v:g}" for k, v in sides.items())]
    lines.append("  joints known, share of people (annotated, by OpenPose):")
    names = dict.fromkeys(name.removeprefix("OpenPose ") for name in joints)
    for name in sorted(names, key=lambda n: -max(joints.get(n, 0), joints.get(f"OpenPose {n}", 0))):
        shares = [f"{joints[key]:6.1%}" if key in joints else f"{'':6}" for key in (name, f"OpenPose {name}")]
        lines.append(f"    {name:18} {shares[0]}  {shares[1]}")
    lines += [f"  {key}: {value}" for key, value in content["provenance"].items()]
    return "\n".join([*lines, f"  packed crops: {_packed_text(content['packed_crops'])}"])


def _packed_text(packed: dict[str, Any] | str | None) -> str:
    if not isinstance(packed, dict):
        return packed or "none (`spin-pipe pack`)"
    mb, images_mb = packed["bytes"] / 1e6, packed["image_bytes"] / 1e6
    return (
        f"{packed['rows']} rows, {packed['unreadable']} of them unreadable, {mb:.1f} MB instead of {images_mb:.1f} MB; "
        f"training crops differ by {packed['mean_absolute_difference']:.2f} grey levels (PSNR {packed['psnr_db']:.1f} dB)"
    )


def sample_text(content: dict[str, Any]) -> str:
    lines = [f"{content['dataset']}, sample {content['sample']}: {content['image']}"]
    for key in ("source", "box", "openpose", "truth", "fit"):
        value = content[key]
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        lines.append(f"  {key}: {', '.join(value) or 'none' if isinstance(value, list) else value}")
    lines += [f"    {joint:24} {x:9.2f} {y:9.2f} {c:6.2f}" for joint, (x, y, c) in content["keypoints_px"].items()]
    return "\n".join(lines)


def as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1)
