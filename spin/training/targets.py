"""Which body supervises each sample of a batch: the truth, the stored fit, or the fit just made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from spin.training.config import StepConfig


class FitBatch(Protocol):
    """Fits of a batch in the canonical frame: what the fitter returns, and what the store holds."""

    @property
    def pose_aa(self) -> Float[Tensor, "B 72"]: ...
    @property
    def betas(self) -> Float[Tensor, "B 10"]: ...
    @property
    def camera_m(self) -> Float[Tensor, "B 3"]: ...
    @property
    def loss(self) -> Float[Tensor, " B"]:
        """Reprojection loss, px²: decides whether a fit may supervise."""
        ...

    @property
    def score(self) -> Float[Tensor, " B"]:
        """Lower is better: decides between two fits."""
        ...

    @property
    def valid(self) -> Bool[Tensor, " B"]:
        """False where there is no fit."""
        ...


@dataclass(frozen=True)
class StoredFits:
    """The best fits known before the step, canonical frame; `valid` is False for samples that have none."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    camera_m: Float[Tensor, "B 3"]
    loss: Float[Tensor, " B"]
    score: Float[Tensor, " B"]
    valid: Bool[Tensor, " B"]


@dataclass(frozen=True)
class GroundTruth:
    """True bodies, canonical frame; entries of samples that are not `known` mean nothing."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    known: Bool[Tensor, " B"]


@dataclass(frozen=True)
class Targets:
    """What the network is to answer, canonical frame. Where `valid` is False there is no target: zeros."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    valid: Bool[Tensor, " B"]
    improved: Bool[Tensor, " B"]  # the new fit beats the stored one


def select_targets(stored: FitBatch, new: FitBatch | None, truth: GroundTruth, config: StepConfig) -> Targets:
    """Truth where it is known; else the fit of lower score, if it is good enough to supervise.

    A fit is good enough when it is valid and finite, its loss below `config.accept_loss_px2` and its betas
    within `config.accept_beta`. Of equal scores the stored fit stays.
    """
    pose_aa, betas, acceptable = stored.pose_aa, stored.betas, _acceptable(stored, config)
    improved = torch.zeros_like(acceptable)
    if new is not None:
        improved = _score(new, config) < _score(stored, config)
        pose_aa = torch.where(improved[:, None], new.pose_aa, pose_aa)
        betas = torch.where(improved[:, None], new.betas, betas)
        acceptable = torch.where(improved, _acceptable(new, config), acceptable)
    pose_aa = torch.where(truth.known[:, None], truth.pose_aa, pose_aa)
    betas = torch.where(truth.known[:, None], truth.betas, betas)
    valid = acceptable | truth.known
    return Targets(
        pose_aa=torch.where(valid[:, None], pose_aa, 0.0),
        betas=torch.where(valid[:, None], betas, 0.0),
        valid=valid,
        improved=improved,
    )


def _in_range(fit: FitBatch, config: StepConfig) -> Bool[Tensor, " B"]:
    """Fits that the store would take: there, finite, of a plausible shape."""
    finite = torch.isfinite(fit.pose_aa).all(1) & torch.isfinite(fit.loss) & torch.isfinite(fit.score)
    return fit.valid & finite & (fit.betas.abs() <= config.accept_beta).all(1)


def _score(fit: FitBatch, config: StepConfig) -> Float[Tensor, " B"]:
    return torch.where(_in_range(fit, config), fit.score, torch.inf)


def _acceptable(fit: FitBatch, config: StepConfig) -> Bool[Tensor, " B"]:
    return _in_range(fit, config) & (fit.loss < config.accept_loss_px2)
