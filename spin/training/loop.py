"""Fits of predictions, in the loop: started and held by what lifter and network know together (see `spin.training.trust`)."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import torch

from spin.fitting.lifter import Lift
from spin.fitting.objective import Anchor
from spin.fitting.scorer import aligned_distance_mm
from spin.fitting.starts import Start, camera_start
from spin.joints import LSP_POINTS
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from spin.training.trust import BodyParameters, Trust, held_out, interpolate, relative_pose

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from spin.fitting.fitter import BatchFitter, FitResult
    from spin.fitting.observations import Observations, PreparedObservations
    from spin.training.step import Batch
    from spin.training.targets import GroundTruth

_BETAS_LIMIT = 3.0


class LoopFitter:
    """Fits a network's predictions as far as they have earned trust. Without a scorer, as published: from the prediction alone.

    `trust` is all that it remembers; whoever runs the loop updates it, at the same step on every rank.
    """

    def __init__(self, fitter: BatchFitter) -> None:
        self.fitter, self.trust = fitter, Trust.none()

    @property
    def weighs(self) -> bool:
        """Whether predictions are weighed against the lifter at all."""
        return self.fitter.scorer is not None

    def fit(
        self,
        prediction: BodyParameters,
        observations: Observations,
        truth: GroundTruth,
        camera_m: Float[Tensor, "B 3"] | None = None,
    ) -> tuple[FitResult, Trust]:
        """Fits, and what the step measured: of the samples whose `truth` is known, which must be kept from the network.

        `camera_m`, where known, places a prediction that is not weighed; else keypoints do.
        """
        if not self.weighs:
            return self.fitter.refine(prediction.pose_aa, prediction.betas, observations, camera_m), Trust.none()
        with torch.no_grad():
            prediction = BodyParameters(prediction.pose_aa, prediction.betas.clamp(-_BETAS_LIMIT, _BETAS_LIMIT))
            prepared = self.fitter.prepare(observations)
            lifted = self.fitter.starts(prepared)[0]
            assert lifted.lift is not None
            believed = self.believed(lifted.lift, prediction)
            start = self.start(lifted, believed, prepared.observations)
            fits = self.fitter.fit(prepared, [start])
            measured = self.measured(lifted, start, prediction, fits, prepared, truth)
            return replace(fits, score=fits.score * self.trust.score_factor.to(fits.score)), measured

    def believed(self, lift: Lift, prediction: BodyParameters) -> BodyParameters:
        """Interpolate from the lifter's answer towards the prediction, as far as that is trusted."""
        answer = BodyParameters(lift.pose_aa, lift.betas)
        return interpolate(self.fitter.body, answer, prediction, self.trust.share.to(lift.pose_aa))

    def start(self, lifted: Start, believed: BodyParameters, observations: Observations) -> Start:
        """Where the fit begins, how firmly it is held there, and what the scorer is to think of it."""
        assert lifted.anchor is not None and lifted.lift is not None
        lift, body = lifted.lift, self.fitter.body
        factor = self.trust.sigma_factor.to(lift.betas)
        basis = Lift(
            believed.pose_aa,
            believed.betas,
            lift.pose_sigma_rad * factor[:-1].repeat_interleave(3),
            lift.betas_sigma * factor[-1],
            lift.error_mm,
        )
        camera = camera_start(body.keypoints(body(believed.pose_aa, believed.betas)), observations)
        anchor = Anchor(
            believed.pose_aa,
            believed.betas,
            basis.pose_sigma_rad,
            basis.betas_sigma,
            lifted.anchor.noise_px,
        )
        start = replace(lifted, pose_aa=believed.pose_aa, betas=believed.betas, camera_m=camera)
        return replace(start, kind="network", anchor=anchor, lift=basis)

    def measured(
        self,
        lifted: Start,
        start: Start,
        prediction: BodyParameters,
        fits: FitResult,
        observations: PreparedObservations,
        truth: GroundTruth,
    ) -> Trust:
        """The sums of one step."""
        rows = (truth.known & fits.storable).nonzero()[:, 0]
        if not len(rows):
            return Trust.none()
        assert lifted.lift is not None
        body, true = self.fitter.body, BodyParameters(truth.pose_aa, truth.betas).take(rows)
        lift = Lift(*(getattr(lifted.lift, f.name)[rows] for f in fields(Lift)))
        answer, believed = BodyParameters(lift.pose_aa, lift.betas), BodyParameters(start.pose_aa, start.betas).take(rows)
        apart, to_truth = relative_pose(body, answer, prediction.take(rows)), relative_pose(body, answer, true)
        local = axis_angle_to_matrix(torch.stack([believed.pose_aa, true.pose_aa]).view(2, -1, 24, 3))
        left = matrix_to_axis_angle(local[0].transpose(-1, -2) @ local[1])
        without = self.fitter.fit(observations.take(rows), [replace(lifted.take(rows), lift=lift)])
        real = body(true.pose_aa, true.betas)

        def error_mm(pose_aa: Tensor, betas: Tensor) -> Tensor:
            found = body(pose_aa, betas)
            return aligned_distance_mm(found[:, list(LSP_POINTS)], real[:, list(LSP_POINTS)]).sum().double()

        return Trust(
            torch.tensor(float(len(rows)), dtype=torch.float64),
            _by_part(to_truth[0] * apart[0], to_truth[1] * apart[1]),
            _by_part(apart[0] ** 2, apart[1] ** 2),
            _by_part(left**2, (true.betas - believed.betas) ** 2),
            _by_part(lift.pose_sigma_rad.view(-1, 24, 3) ** 2, lift.betas_sigma**2),
            error_mm(fits.pose_aa[rows], fits.betas[rows]),
            fits.score[rows].sum().double(),
            error_mm(without.pose_aa, without.betas),
            without.score.sum().double(),
        )


def hold_out(batch: Batch) -> tuple[Batch, GroundTruth]:
    """Return the batch without the truth of the samples that are held out, which fits then supervise; and that truth."""
    kept = batch.truth.known & held_out(batch.sample_ids).to(batch.truth.known.device)
    shown = replace(batch.truth, known=batch.truth.known & ~kept)
    return replace(batch, truth=shown, joints_known=batch.joints_known & ~kept), replace(batch.truth, known=kept)


def no_truth(truth: GroundTruth) -> GroundTruth:
    return replace(truth, known=torch.zeros_like(truth.known))


def _by_part(of_joints: Float[Tensor, "n 24 3"], of_betas: Float[Tensor, "n 10"]) -> Float[Tensor, " P"]:
    return torch.cat([of_joints.sum((0, 2)), of_betas.sum()[None]]).double()
