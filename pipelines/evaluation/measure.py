"""Measure bodies against the truth, batch by batch, on the device that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.evaluation.bodies import Bodies, Source
from pipelines.evaluation.truth import PosedTruth, Truth, short_hash
from spin.body import BodyMesh
from spin.errors import ImageError, KeypointError
from spin.evaluation.body_parts import PARTS, SurfaceParts
from spin.evaluation.metrics import MM_PER_M
from spin.evaluation.protocols import PoseErrors, Protocol, pose_errors
from spin.evaluation.scores import Scores, concatenate
from spin.evaluation.segmentation import PixelCounts, count_pixels
from spin.evaluation.silhouettes import silhouette, to_image
from spin.rendering import MeshError
from spin.rotations import matrix_to_axis_angle

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


_ARRAYS = ("rows", "joints17_m", "pose", "betas", "camera")


@dataclass(frozen=True)
class Measured:
    """Bodies of rows as the arrays of the published result file, and their errors.

    `problem`: why a row could not be measured; its scores are NaN and its counts are zero. `pictures`: hashes of the true mask
    and of the true parts as they were read, '' where there are none.
    """

    rows: Int[np.ndarray, " n"]
    joints17_m: Float[np.ndarray, "n 17 3"]
    pose: Float[np.ndarray, "n 72"]
    betas: Float[np.ndarray, "n 10"]
    camera: Float[np.ndarray, "n 3"]  # weak perspective [s, tx, ty]
    problem: list[str]
    pictures: list[tuple[str, str]]
    scores: Scores


def joined(parts: Sequence[Measured]) -> Measured:
    """Join parts into one, its rows in ascending order."""
    order = np.argsort(np.concatenate([p.rows for p in parts]))
    arrays = {name: np.concatenate([getattr(p, name) for p in parts])[order] for name in _ARRAYS}
    problems = [problem for p in parts for problem in p.problem]
    pictures = [hashes for p in parts for hashes in p.pictures]
    scores = concatenate([p.scores for p in parts]).take(order)
    return Measured(**arrays, problem=[problems[i] for i in order], pictures=[pictures[i] for i in order], scores=scores)


class Measurer:
    """Measures bodies of one source against the truth, by one protocol."""

    def __init__(self, source: Source, truth: Truth, mesh: BodyMesh, parts: SurfaceParts, protocol: Protocol) -> None:
        self.source, self.truth, self.mesh = source, truth, mesh
        self.parts, self.protocol = parts, protocol

    def measure(self, batches: Sequence[Int[np.ndarray, " n"]]) -> Measured:
        """Measure all rows of the batches."""
        return joined([self._batch(rows, bodies) for rows, bodies in zip(batches, self.source.each(batches))])

    def _batch(self, rows: Int[np.ndarray, " n"], bodies: Bodies) -> Measured:
        with torch.inference_mode():
            posed = self.mesh.forward_rotations(bodies.rotations, bodies.betas)
        joints = (posed.joints17_m if bodies.joints17_m is None else bodies.joints17_m).cpu().numpy()
        finite = np.isfinite(joints).all((1, 2)) & posed.vertices_m.isfinite().all(2).all(1).cpu().numpy()
        problem = [why or ("" if fine else "its body is not a number") for why, fine in zip(bodies.problem, finite)]
        usable = np.array([not why for why in problem])
        known = self.truth.known
        true = self.truth.bodies(rows)
        pictures = [("", "")] * len(rows)
        mask, part = self._segmentation(rows, bodies, posed.vertices_m, usable, problem, pictures)
        scores = Scores(
            self.protocol,
            len(rows),
            self._pose(rows, true, joints, usable) if known.pose.any() else None,
            self._vertices(true, posed.vertices_m, joints, usable) if known.body.any() else None,
            mask if known.mask.any() else None,
            part if known.part.any() else None,
        )
        return Measured(
            rows,
            joints,
            matrix_to_axis_angle(bodies.rotations).flatten(1).cpu().numpy(),
            bodies.betas.cpu().numpy(),
            bodies.weak_camera.cpu().numpy(),
            problem,
            pictures,
            scores,
        )

    def _pose(self, rows: np.ndarray, bodies: list[PosedTruth], joints_m: np.ndarray, usable: np.ndarray) -> PoseErrors:
        true = self.truth.joints17_m(rows, bodies)
        chosen = usable & np.isfinite(true).all((1, 2))
        out = PoseErrors(*np.full((2, len(rows), len(self.protocol.joints)), np.nan))
        errors = pose_errors(joints_m[chosen], true[chosen], self.protocol)
        out.joint_mm[chosen], out.pa_joint_mm[chosen] = errors.joint_mm, errors.pa_joint_mm
        return out

    def _vertices(
        self,
        true_bodies: list[PosedTruth],
        vertices_m: Float[Tensor, "n V 3"],
        joints_m: np.ndarray,
        usable: np.ndarray,
    ) -> Float[np.ndarray, " n"]:
        """Return the mean distance of vertices, both bodies with the protocol's pelvis at the origin."""
        out = np.full(len(joints_m), np.nan)
        pelvis = torch.from_numpy(joints_m[:, self.protocol.pelvis]).to(vertices_m)
        for at, true in true_bodies:
            mine = vertices_m[at] - pelvis[at, None]
            theirs = true.vertices_m - true.joints17_m[:, self.protocol.pelvis, None]
            out[at] = MM_PER_M * (mine - theirs).norm(dim=-1).mean(1).cpu().numpy()
        out[~usable] = np.nan
        return out

    def _segmentation(
        self,
        rows: np.ndarray,
        bodies: Bodies,
        vertices_m: Float[Tensor, "n V 3"],
        usable: np.ndarray,
        problem: list[str],
        pictures: list[tuple[str, str]],
    ) -> tuple[PixelCounts, PixelCounts]:
        """Count pixels of masks and parts, and note the hashes of the true ones in `pictures`.

        A row with an invalid true picture becomes unusable; `problem` has the reason.
        """
        known = self.truth.known
        mask, part = (_no_pixels(len(rows), classes) for classes in (2, 1 + len(PARTS)))
        for i in np.flatnonzero(usable & (known.mask | known.part)[rows]).tolist():
            row = int(rows[i])
            try:
                seen = silhouette(
                    (vertices_m[i] + bodies.translation_m[i]).cpu().numpy(),
                    self.mesh.faces,
                    self.parts,
                    focal_px=float(bodies.focal_px[i]),
                    principal_px=tuple(bodies.principal_px[i].tolist()),
                )
                true = [self.truth.mask(row) if known.mask[row] else None, self.truth.part(row) if known.part[row] else None]
                for counts, crop, picture in zip((mask, part), (seen.mask, seen.part), true):
                    if picture is not None:
                        _count(counts, i, crop, picture, self._box(row))
                pictures[i] = (_hash(true[0]), _hash(true[1]))
            except (ImageError, KeypointError, MeshError) as error:
                problem[i], usable[i] = str(error), False
                for counts in (mask, part):
                    counts.by_class[i], counts.right[i], counts.all[i] = 0, 0, 0
        return mask, part

    def _box(self, row: int) -> tuple[np.ndarray, float]:
        a = self.truth.annotations
        return a.center_px[row], float(a.scale[row])


def _hash(picture: np.ndarray | None) -> str:
    return "" if picture is None else short_hash(str(picture.shape).encode() + np.ascontiguousarray(picture).tobytes())


def _no_pixels(count: int, classes: int) -> PixelCounts:
    return PixelCounts(np.zeros((count, classes, 3), np.int64), *np.zeros((2, count), np.int64))


def _count(counts: PixelCounts, index: int, crop: np.ndarray, true: np.ndarray, box: tuple[np.ndarray, float]) -> None:
    one = count_pixels(to_image(crop, *box, true.shape), true, counts.by_class.shape[1])
    counts.by_class[index], counts.right[index], counts.all[index] = one.by_class[0], one.right[0], one.all[0]
