"""The two files of a result: a JSON for people, reports and `compare`, and an .npz with the measurements of each sample.

docs/protocols.md describes both.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import StageError
from pipelines.evaluation.measure import Measured
from pipelines.evaluation.protocol_card import SEEN, Card
from pipelines.readers.formats.image_names import sequence_of
from spin.errors import KeypointError
from spin.evaluation.protocols import Protocol
from spin.evaluation.scores import METRICS, Scores
from spin.joints import H36M_NAMES
from store.annotations.table import Annotations
from store.files.atomic import write_file

if TYPE_CHECKING:
    from jaxtyping import Int

FORMAT, VERSION = "spin-pipe evaluation", 1
WORST = 20


@dataclass(frozen=True)
class Result:
    """The result of an evaluation. `rows` are the measured ones, in the order of `scores`."""

    dataset: str
    card: Card
    subject: dict[str, Any]  # what was measured, and by which software
    rows: Int[np.ndarray, " n"]
    images: list[str]
    scores: Scores
    left_out: list[dict[str, Any]]

    @property
    def sequences(self) -> list[str]:
        """Return the recording of each sample, or its image where images are not frames of recordings."""
        return [sequence_of(image) for image in self.images]


def result_of(annotations: Annotations, measured: Measured, card: Card, subject: dict[str, Any]) -> Result:
    """Return the result of the rows without a problem; the others are listed in `left_out`."""
    fine = np.flatnonzero([not problem for problem in measured.problem])
    left_out = [
        {"row": int(row), "image": annotations.image[row], "reason": why}
        for row, why in zip(measured.rows, measured.problem)
        if why
    ]
    rows = measured.rows[fine]
    images = [annotations.image[row] for row in rows]
    return Result(annotations.name, card, subject, rows, images, measured.scores.take(fine), left_out)


def content(result: Result, output: Path, npz: Path) -> dict[str, Any]:
    """Return the JSON that is written to `output`."""
    scores = result.scores
    return {
        "format": FORMAT,
        "version": VERSION,
        "dataset": result.dataset,
        "metrics": scores.metrics(),
        "samples": scores.count,
        "left_out": result.left_out,
        "joints": per_joint(scores),
        "sequences": per_sequence(result),
        "worst": worst(result),
        "card": result.card,
        "subject": result.subject,
        "npz": os.path.relpath(npz.resolve(), output.parent.resolve()),
    }


def per_joint(scores: Scores) -> dict[str, dict[str, float]]:
    """Return the mean error of each joint, mm, before and after alignment."""
    if scores.pose is None:
        return {}
    means = [np.nanmean(errors, 0).tolist() for errors in (scores.pose.joint_mm, scores.pose.pa_joint_mm)]
    return {
        name: {"mpjpe_mm": before, "pa_mpjpe_mm": after} for name, before, after in zip(scores.protocol.joint_names, *means)
    }


def per_sequence(result: Result) -> list[dict[str, Any]]:
    """Return the numbers of each recording; an empty list if images are not frames of recordings."""
    names = result.sequences
    rows: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        rows.setdefault(name, []).append(place)
    if len(rows) == len(set(result.images)):  # several people in one image do not make a recording
        return []
    return [
        {"sequence": name, "samples": len(places), **result.scores.take(np.array(places)).metrics()}
        for name, places in sorted(rows.items())
    ]


def badness(scores: Scores) -> np.ndarray:
    """What samples are ranked by: PA-MPJPE, else the share of wrong pixels."""
    if scores.pose is not None:
        return scores.pose.pa_mpjpe_mm
    counts = scores.mask or scores.part
    assert counts is not None
    return 1 - counts.right / np.maximum(counts.all, 1)


def worst(result: Result) -> list[dict[str, Any]]:
    """The worst samples, the worst first."""
    order = np.argsort(-np.nan_to_num(badness(result.scores), nan=-np.inf), kind="stable")[:WORST]
    return [
        {"row": int(result.rows[i]), "image": result.images[i], **result.scores.take(np.array([i])).metrics()} for i in order
    ]


def write_result(result: Result, measured: Measured, output: Path, npz: Path) -> None:
    """Both files, each whole or not at all; the JSON last, so that a JSON has its .npz."""
    arrays: dict[str, np.ndarray] = {
        "pred_joints": measured.joints17_m,
        "pose": measured.pose,
        "betas": measured.betas,
        "camera": measured.camera,
        "rows": measured.rows,
        "measured": np.array([not why for why in measured.problem]),
        "dataset": np.array(result.dataset),
        "frames_sha256": np.array(result.card["frames"]["sha256"]),
        "images": np.array(result.images),
        **{name: np.array(result.card[name]) for name in SEEN if name in result.card},
        **result.scores.arrays(),
    }
    handle = BytesIO()
    np.savez(handle, allow_pickle=False, **arrays)
    for path in (output, npz):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(npz, handle.getvalue())
    write_file(output, (json.dumps(content(result, output, npz), indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a result's JSON. StageError if the file is not a result."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise StageError(f"result {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise StageError(f"result {path}: not JSON ({error}); expected what `spin-pipe eval` wrote") from error
    keys = {"dataset", "metrics", "samples", "card", "subject", "npz"}
    if not isinstance(found, dict) or found.get("format") != FORMAT or not keys <= set(found):
        raise StageError(f"result {path}: not a result of `spin-pipe eval`")
    if found["version"] != VERSION:
        raise StageError(f"result {path}: version {found['version']}, expected {VERSION}; run `spin-pipe eval` again")
    return found


def read_result(path: Path) -> Result:
    """Read a result with each sample's measurements. StageError if it is not a result, or its .npz is another result's."""
    found = read_json(path)
    npz = path.parent / str(found["npz"])
    try:
        with np.load(npz, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        card = found["card"]
        if str(arrays["frames_sha256"]) != card["frames"]["sha256"]:
            raise StageError(f"result {path}: {npz.name} belongs to other frames; keep the two files of a result together")
        rows, count = arrays["rows"][arrays["measured"]], int(found["samples"])
        joints = tuple(H36M_NAMES.index(name) for name in card.get("joints", H36M_NAMES))
        pck = "pck_percent" in found["metrics"]
        scores = Scores.of_arrays(Protocol(card["protocol"], joints, pck=pck), arrays, count)
        images = [str(image) for image in arrays["images"]]
        if len(images) != count or len(rows) != count:
            raise ValueError(f"{len(rows)} rows, {len(images)} images, expected {count}")
    except FileNotFoundError:
        raise StageError(f"result {path}: its {npz.name} is missing; keep the two files together") from None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, KeypointError) as error:
        raise StageError(
            f"result {path}: {npz.name} does not belong to it or is damaged ({error}); run `spin-pipe eval` again"
        ) from error
    return Result(found["dataset"], card, found["subject"], rows, images, scores, found["left_out"])


def table(results: Sequence[tuple[str, int, dict[str, float]]]) -> list[str]:
    """Return lines for a terminal: a column for each result (name, samples, numbers), a row for each number."""
    rows = [["", *(name for name, _, _ in results)], ["samples", *(str(count) for _, count, _ in results)]]
    for name, metric in METRICS.items():
        values = [numbers.get(name) for _, _, numbers in results]
        if any(value is not None for value in values):
            head = f"{metric.label} {metric.unit}".strip()
            rows.append([head, *("" if v is None else f"{v:.{metric.digits}f}" for v in values)])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align cells in columns, the first one left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]).rstrip() for row in rows
    ]
