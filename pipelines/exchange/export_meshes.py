"""Export of fits as meshes with a skeleton, for viewers and animation programs: samples, or an animated recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import UsageError
from pipelines.exchange.cameras import image_cameras
from pipelines.fits.open import open_fits
from pipelines.folders import DataFolder
from pipelines.readers.formats.image_names import sequence_of
from spin.body import load_body
from spin.rendering.gltf import Motion, PosedPerson, Viewpoint, animated_glb, glb
from store.annotations.table import Annotations
from store.files.atomic import write_file
from store.fits.records import Source

if TYPE_CHECKING:
    from jaxtyping import Float64, Int

    from store.fits.records import Fits


@dataclass(frozen=True)
class MeshExport:
    """`frames` is 0 for a mesh without animation."""

    path: Path
    samples: list[int]
    frames: int


def export_glb(
    data: DataFolder,
    dataset: str,
    output: Path | None = None,
    *,
    samples: Sequence[int] = (),
    sequence: str | None = None,
    fps: float = 30.0,
    tag: str | None = None,
) -> list[MeshExport]:
    """Write a .glb for each sample, or an animated one of the recording `sequence`.

    Raise UsageError if there is no fit to write.
    """
    annotations, body = Annotations.read(data.annotations(dataset)), load_body(data.body)
    store = open_fits(data.fits(dataset), body, annotations)
    state = store if tag is None else store.at(tag)
    if output is not None and output.suffix.lower() != ".glb":
        raise UsageError(f"--out {output}: expected a name ending in .glb")
    if sequence is not None:
        rows = _rows_of(annotations, sequence)
        fits = state.get(rows)
        fitted = fits.source != Source.NONE
        if not fitted.any():
            raise UsageError(
                f"--sequence {sequence}: none of its {len(rows)} frames has a fit; run `spin-pipe fit-static {dataset}`"
            )
        rows, fits = rows[fitted], fits.take(fitted)
        people = annotations.take(rows)
        place = in_one_camera(fits.camera, image_cameras(people))
        motion = Motion(sequence, fits.pose, np.median(fits.betas, axis=0), place, fps)
        path = output or data.exported(dataset, f"_{_plain(sequence)}.glb")
        write_file(_made(path), animated_glb(body, motion, view_of(people)))
        return [MeshExport(path, rows.tolist(), len(rows))]
    if output is not None and len(samples) > 1:
        raise UsageError("--out names one file; pass a single --sample with it")
    out = []
    for sample in samples:
        person = _person(annotations, state.get(np.array([sample])), sample) if 0 <= sample < len(annotations) else None
        if person is None:
            raise UsageError(f"--sample {sample}: expected a sample with a fit, from 0 to {len(annotations) - 1} of {dataset}")
        path = output or data.exported(dataset, f"_{sample}.glb")
        write_file(_made(path), glb(body, [person], view_of(annotations.take(np.array([sample])))))
        out.append(MeshExport(path, [sample], 0))
    return out


def in_one_camera(
    translation_m: Float64[np.ndarray, "n 3"], cameras: Float64[np.ndarray, "n 3 3"]
) -> Float64[np.ndarray, "n 3"]:
    """Return translations in the middle one of the cameras, for bodies that each have a camera of their own.

    Each body's origin keeps its pixel and its size. If all cameras are equal, nothing changes.
    """
    focal, principal = _middle(cameras)
    seen = np.einsum("nij,nj->ni", cameras, translation_m.astype(np.float64))
    z = translation_m[:, 2] * focal / cameras[:, 0, 0]
    return np.concatenate([(seen[:, :2] / seen[:, 2:] - principal) * z[:, None] / focal, z[:, None]], 1)


def view_of(people: Annotations) -> Viewpoint:
    """The camera in whose frame `in_one_camera` places people; it shows all their boxes."""
    focal, principal = _middle(image_cameras(people))
    half = 100 * people.scale[:, None]
    return Viewpoint.of(focal, principal, (people.center_px - half).min(0), (people.center_px + half).max(0))


def _middle(cameras: Float64[np.ndarray, "n 3 3"]) -> tuple[float, Float64[np.ndarray, "2"]]:
    """Return the middle focal length and principal point, px."""
    return float(np.median(cameras[:, 0, 0])), np.median(cameras[:, :2, 2], axis=0)


def _person(annotations: Annotations, fits: Fits, sample: int) -> PosedPerson | None:
    if fits.source[0] == Source.NONE:
        return None
    return PosedPerson(f"{annotations.name} {sample}", fits.pose[0], fits.betas[0], fits.camera[0])


def _rows_of(annotations: Annotations, sequence: str) -> Int[np.ndarray, " n"]:
    """Return a recording's rows in the order of its frames.

    Raise UsageError if there are none, or if a frame shows several people.
    """
    found = [row for row, image in enumerate(annotations.image) if sequence_of(image) == sequence]
    if not found:
        names = sorted({sequence_of(image) for image in annotations.image})[:5]
        raise UsageError(
            f"--sequence {sequence}: {annotations.name} has no such recording; expected a name like {', '.join(names)}"
        )
    if len({annotations.image[row] for row in found}) < len(found):
        raise UsageError(f"--sequence {sequence}: a frame shows several people; export them one at a time with --sample")
    return np.array(sorted(found, key=lambda row: annotations.image[row]))


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".")[:80] or "sequence"


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
