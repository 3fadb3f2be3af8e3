"""One step of SPIN (Kolotouros et al., ICCV 2019, Fig. 2): predict, fit, choose the better fit, learn.

The prediction is taken to the canonical frame before it is fitted, so that a fit's loss doesn't depend on the
epoch's augmentation; the chosen fit is taken to the augmented frame before the network is compared with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.parallel import DistributedDataParallel

from spin.camera import project, weak_to_translation
from spin.errors import TrainingError
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from spin.training import losses as terms
from spin.training.augment import (
    Augmentations,
    augment_joints,
    augment_keypoints,
    augment_pose,
    to_canonical,
)
from spin.training.targets import FitBatch, GroundTruth, StoredFits, Targets, select_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor, nn

    from spin.body import BodyMesh, CompactBody
    from spin.network.hmr import Prediction
    from spin.training.config import StepConfig

# (pose_aa, betas, camera_m, keypoints_crop_px), all canonical, to the fit that starts there.
FitFunction = Callable[["Tensor", "Tensor", "Tensor", "Tensor"], FitBatch]


@dataclass(frozen=True)
class Batch:
    """Augmented images; everything else in the canonical frame, with the augmentations that lead from it."""

    sample_ids: tuple[str, ...]
    images: Float[Tensor, "B 3 H W"]
    keypoints_crop_px: Float[Tensor, "B 49 3"]
    augmentations: Augmentations
    truth: GroundTruth
    joints_m: Float[Tensor, "B 24 4"]  # 3D joints of the superset, camera axes, and their confidence
    joints_known: Bool[Tensor, " B"]


@dataclass(frozen=True)
class Accumulation:
    """One of `count` batches whose mean gradient the optimiser follows: the batch of several workers on one.

    BatchNorm sees each batch by itself, as each of the workers would; its running statistics follow all of them.
    """

    count: int = 1
    place: int = 0

    @property
    def is_first(self) -> bool:
        return self.place == 0

    @property
    def is_last(self) -> bool:
        return self.place == self.count - 1


@dataclass(frozen=True)
class StepResult:
    """What a step did."""

    losses: dict[str, float]  # by the names of `losses.Losses`, before their weights, and the total
    gradient_norm: float  # before it is clipped
    new_fits: FitBatch | None  # canonical, to be offered to the store; None if no fitter ran
    improved: Bool[Tensor, " B"]  # the new fit beats the stored one
    valid: Bool[Tensor, " B"]  # the sample had a target
    timings_s: dict[str, float]  # forward, fit, backward

    @property
    def share_improved(self) -> float:
        return float(self.improved.float().mean())

    @property
    def share_valid(self) -> float:
        return float(self.valid.float().mean())


def train_step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    body: CompactBody,
    batch: Batch,
    fitter: FitFunction | None,
    stored: StoredFits,
    config: StepConfig,
    *,
    step: int,
    mesh: BodyMesh | None = None,
    accumulation: Accumulation = Accumulation(),
) -> StepResult:
    """Takes one optimiser step on the network; changes nothing else. Without a fitter, stored fits teach it.

    `mesh` is needed for the per-vertex loss only. `step` is named in errors. With `accumulation`, the optimiser moves at the
    last of its batches. Raises TrainingError, before the optimiser is touched, if the batch is empty or a prediction, the
    loss or a gradient is not a number.
    """
    if not batch.sample_ids:
        raise TrainingError(f"step {step}: the batch is empty; a data set smaller than the batch, or all skipped?")
    clock = _Clock(batch.images.device)
    network.train()
    with _averaged_when_complete(network, accumulation):
        prediction: Prediction = network(batch.images)
        _require_finite(prediction, batch, step)
        points_m = body.from_rotations(prediction.rotations, prediction.betas)
        clock.lap("forward")

        new_fits = None if fitter is None else _fit_prediction(fitter, prediction, points_m, batch)
        targets = select_targets(stored, new_fits, batch.truth, config)
        clock.lap("fit")

        losses = step_losses(body, prediction, points_m, targets, batch, config, mesh)
        gradient_norm = _descend(network, optimiser, losses, batch.sample_ids, step, accumulation, config.clip_norm)
        clock.lap("backward")
    return StepResult(
        losses=losses.as_floats(),
        gradient_norm=gradient_norm,
        new_fits=new_fits,
        improved=targets.improved,
        valid=targets.valid,
        timings_s=clock.seconds,
    )


def _averaged_when_complete(network: nn.Module, accumulation: Accumulation) -> AbstractContextManager[None]:
    """In it, DistributedDataParallel averages gradients over workers at the last of several batches only."""
    if accumulation.is_last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


def step_losses(
    body: CompactBody,
    prediction: Prediction,
    points_m: Float[Tensor, "B 44 3"],
    targets: Targets,
    batch: Batch,
    config: StepConfig,
    mesh: BodyMesh | None = None,
) -> terms.Losses:
    """The losses of a prediction, in the augmented frame it was made in. `points_m` are its body's points."""
    weights = config.weights
    keypoints_m = body.keypoints(points_m)
    projected = project(keypoints_m, weak_to_translation(prediction.weak_camera))
    target_pose = augment_pose(targets.pose_aa, batch.augmentations)
    target_rotations = axis_angle_to_matrix(target_pose.reshape(-1, 24, 3))
    shape = points_m.new_zeros(())
    if weights.shape > 0:
        if mesh is None:
            raise TrainingError(f"LossWeights.shape is {weights.shape}: the per-vertex loss needs the full mesh")
        predicted = mesh.forward_rotations(prediction.rotations, prediction.betas).vertices_m
        target = mesh.forward_rotations(target_rotations, targets.betas).vertices_m
        shape = terms.shape_loss(predicted, target, targets.valid)
    return terms.total_loss(
        keypoints=terms.keypoint_loss(projected, augment_keypoints(batch.keypoints_crop_px, batch.augmentations), weights),
        joints=terms.joint_loss(keypoints_m, augment_joints(batch.joints_m, batch.augmentations), batch.joints_known),
        pose=terms.pose_loss(prediction.rotations, target_rotations, targets.valid),
        betas=terms.betas_loss(prediction.betas, targets.betas, targets.valid),
        shape=shape,
        camera=terms.camera_loss(prediction.weak_camera),
        weights=weights,
    )


def _fit_prediction(fitter: FitFunction, prediction: Prediction, points_m: Float[Tensor, "B 44 3"], batch: Batch) -> FitBatch:
    """The fits that start from the predicted bodies, taken to the canonical frame."""
    pose_aa, camera_m = to_canonical(
        matrix_to_axis_angle(prediction.rotations.detach()).flatten(1),
        weak_to_translation(prediction.weak_camera.detach()),
        points_m[:, 0].detach(),
        batch.augmentations,
    )
    return fitter(pose_aa, prediction.betas.detach(), camera_m, batch.keypoints_crop_px)


def _descend(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    losses: terms.Losses,
    sample_ids: Sequence[str],
    step: int,
    accumulation: Accumulation,
    clip_norm: float,
) -> float:
    """Backward, and at the last batch of several one optimiser step; the norm of the gradient so far, before it is clipped."""
    if not torch.isfinite(losses.total):
        wrong = [f"{name} {value}" for name, value in losses.as_floats().items() if not math.isfinite(value)]
        raise TrainingError(f"step {step}: loss is not a number ({', '.join(wrong)}); samples {_some(sample_ids)}")
    if accumulation.is_first:
        optimiser.zero_grad(set_to_none=True)
    (losses.total / accumulation.count).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])))
    if not math.isfinite(norm):
        optimiser.zero_grad(set_to_none=True)
        raise TrainingError(f"step {step}: the gradient is not a number; samples {_some(sample_ids)}")
    if accumulation.is_last:
        if 0 < clip_norm < norm:
            for gradient in gradients:
                gradient.mul_(clip_norm / norm)
        optimiser.step()
    return norm


def _require_finite(prediction: Prediction, batch: Batch, step: int) -> None:
    numbers = [prediction.rotations.flatten(1), prediction.betas, prediction.weak_camera]
    wrong = ~torch.isfinite(torch.cat(numbers, 1).detach()).all(1)
    if not wrong.any():
        return
    # BatchNorm spreads one bad image over the whole batch, so the images are asked first.
    bad_images = ~torch.isfinite(batch.images.flatten(1)).all(1)
    subject, remedy, rows = "the network's answer", "lower the learning rate", wrong
    if bad_images.any():
        subject, remedy, rows = "the image", "leave it out", bad_images
    named = [batch.sample_ids[i] for i in rows.nonzero().flatten().tolist()]
    raise TrainingError(f"step {step}: {subject} is not a number for samples {_some(named)}; {remedy}")


def _some(names: Sequence[str], count: int = 8) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(str(name) for name in names[:count]) + rest


class _Clock:
    """Seconds of the parts of a step. A GPU works in the background: it is waited for at every lap."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[name] = now - self.last
        self.last = now
