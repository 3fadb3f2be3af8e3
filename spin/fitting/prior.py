"""The pose prior: a mixture of eight Gaussians over the 69 body-pose angles (Bogo et al., SMPLify, eq. 5-6)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from spin.body.model_file import ASSETS, OPEN_BODY, read_npz
from spin.body.safe_pickle import read_array_pickle
from spin.errors import ModelFileError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

OPEN_PRIOR = ASSETS / "open_pose_prior.npz"


class PosePrior(nn.Module):
    """min over components m of ½ (x - μ_m)ᵀ Σ_m⁻¹ (x - μ_m) - log(w_m / √|Σ_m|) + constant, as SMPLify has it.

    The constant is SMPLify's: determinants are taken relative to the smallest, so that the value is positive.
    """

    means: Tensor  # (M, 69)
    precision: Tensor  # (M, 69, 69) inverse covariances
    whiten: Tensor  # (M, 69, 69) upper Cholesky factors of the precisions
    offset: Tensor  # (M,)

    def __init__(self, means: np.ndarray, covars: np.ndarray, weights: np.ndarray, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.means_np, self.covars_np, self.weights_np = (np.asarray(a, np.float64) for a in (means, covars, weights))
        precision = np.linalg.inv(self.covars_np)
        log_det = np.linalg.slogdet(self.covars_np)[1]
        offset = -np.log(self.weights_np) + 0.5 * (log_det - log_det.min()) + 69 / 2 * np.log(2 * np.pi)
        for name, table in {
            "means": self.means_np,
            "precision": precision,
            "whiten": np.linalg.cholesky(precision).transpose(0, 2, 1),
            "offset": offset,
        }.items():
            self.register_buffer(name, torch.as_tensor(table, dtype=dtype))

    @property
    def fingerprint(self) -> str:
        """Return the hash of the mixture, which distinguishes fits with different priors."""
        digest = hashlib.sha256()
        for table in (self.means_np, self.covars_np, self.weights_np):
            digest.update(np.ascontiguousarray(table).tobytes())
        return digest.hexdigest()[:8]

    def forward(self, body_pose: Float[Tensor, "B 69"]) -> Float[Tensor, " B"]:
        return self.cost_and_component(body_pose)[0]

    def cost_and_component(self, body_pose: Float[Tensor, "B 69"]) -> tuple[Float[Tensor, " B"], Tensor]:
        """The cost, and which component gave it (B,)."""
        z = torch.einsum("mij,bmj->bmi", self.whiten, body_pose[:, None] - self.means)
        cost = 0.5 * (z * z).sum(-1) + self.offset
        best, component = cost.min(1)
        return best, component

    def mean_pose(self) -> Float[np.ndarray, "69"]:
        """Return the mixture's mean: the pose when nothing is known."""
        return (self.weights_np[:, None] * self.means_np).sum(0).astype(np.float32)

    def sample(self, count: int, generator: np.random.Generator) -> Float[np.ndarray, "N 69"]:
        component = generator.choice(len(self.weights_np), size=count, p=self.weights_np / self.weights_np.sum())
        factor = np.linalg.cholesky(self.covars_np)[component]
        noise = generator.standard_normal((count, 69, 1))
        return (self.means_np[component] + (factor @ noise)[..., 0]).astype(np.float32)


def find_prior(data_dir: Path | None, body_path: Path) -> Path:
    """SMPLify's gmm_08.pkl of the data folder for SMPL, else the open prior: a prior belongs to its body's rest pose."""
    published = None if data_dir is None else data_dir / "gmm_08.pkl"
    if published is not None and published.is_file() and body_path != OPEN_BODY:
        return published
    return OPEN_PRIOR


def load_pose_prior(path: Path | None = None, dtype: torch.dtype = torch.float32) -> PosePrior:
    """Read a mixture (`means`, `covars`, `weights`) from .npz or SMPLify's .pkl. Raise ModelFileError if it is not one."""
    file = OPEN_PRIOR if path is None else Path(path)
    raw = read_array_pickle(file) if file.suffix == ".pkl" else read_npz(file)
    try:
        means, covars, weights = (np.asarray(raw[k], np.float64) for k in ("means", "covars", "weights"))
    except KeyError as missing:
        raise ModelFileError(f"{file}: has no {missing}; expected a pose prior with means, covars, weights") from None
    count = len(weights)
    if means.shape != (count, 69) or covars.shape != (count, 69, 69):
        raise ModelFileError(f"{file}: means {means.shape} and covars {covars.shape} don't belong to 69 pose angles")
    return PosePrior(means, covars, weights, dtype)
