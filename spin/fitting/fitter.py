"""Starts, solver and verdict together: keypoints in, the best body found out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from spin.errors import KeypointError
from spin.fitting import adam, levenberg_marquardt
from spin.fitting.objective import Objective, reprojection_loss
from spin.fitting.starts import MIN_JOINTS, Start, confident_joints, mean_pose_starts, start_from

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.prior import PosePrior

Solver = Literal["lm", "adam"]
ACCEPT_LOSS = 100.0  # px²: SPIN's smplify_threshold
BETA_LIMIT = 3.0  # fits of a shape beyond this are not believed (SPIN)

# Why a fit is not valid. Kept as small numbers so that they can be tensors; VERDICTS[i] is the text.
VALID, TOO_FEW_JOINTS, NOT_FINITE, BEHIND_CAMERA, SHAPE_OUT_OF_RANGE, LOSS_TOO_HIGH = range(6)
VERDICTS = (
    "valid",
    f"fewer than {MIN_JOINTS} confident joints",
    "not a number",
    "behind the camera",
    f"a beta beyond ±{BETA_LIMIT:g}",
    f"loss of {ACCEPT_LOSS:g} px² or more",
)


@dataclass(frozen=True)
class FitConfig:
    """How a fit is made. `iterations` of the solver for each start (Adam: of each of its two stages)."""

    solver: Solver = "lm"
    iterations: int = 12
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        if self.solver not in ("lm", "adam"):
            raise ValueError(f"solver {self.solver!r}: expected 'lm' or 'adam'")
        if self.iterations < 0:
            raise ValueError(f"iterations {self.iterations}: expected 0 or more")


@dataclass(frozen=True)
class FitResult:
    """One fit a sample. `score` decides between fits of one sample (now the loss); `verdict` indexes VERDICTS."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    camera_m: Float[Tensor, "B 3"]
    loss: Float[Tensor, " B"]
    score: Float[Tensor, " B"]
    cost: Float[Tensor, " B"]
    start: Int[Tensor, " B"]
    verdict: Int[Tensor, " B"]

    @property
    def valid(self) -> Bool[Tensor, " B"]:
        return self.verdict == VALID

    @property
    def storable(self) -> Bool[Tensor, " B"]:
        """A fit at all, if perhaps a poor one: a later one can only be better."""
        return (self.verdict == VALID) | (self.verdict == LOSS_TOO_HIGH)


class Fitter:
    """Fits a body to keypoints. Holds no state between calls; inputs are never changed."""

    def __init__(self, body: CompactBody, prior: PosePrior, config: FitConfig) -> None:
        self.body, self.prior, self.config = body, prior, config
        self._solve = {"lm": levenberg_marquardt.solve, "adam": adam.solve}[config.solver]

    def fit(self, keypoints_crop_px: Float[Tensor, "B 49 3"], starts: list[Start] | None = None) -> FitResult:
        """The cheapest fit over the starts (four yaws of the mean pose, if none are given).

        A sample whose keypoints can't be fitted comes out invalid with its reason, and doesn't disturb its neighbours.
        KeypointError if the tensor is not (B, 49, 3).
        """
        if keypoints_crop_px.ndim != 3 or keypoints_crop_px.shape[1:] != (49, 3):
            raise KeypointError(f"keypoints have shape {tuple(keypoints_crop_px.shape)}, expected (B, 49, 3)")
        finite = torch.isfinite(keypoints_crop_px).all(-1).all(-1)
        usable = torch.where(finite[:, None, None], keypoints_crop_px, torch.zeros_like(keypoints_crop_px))
        enough = confident_joints(usable) >= MIN_JOINTS
        if starts is None:
            starts = mean_pose_starts(self.body, self.prior, usable)
        solutions = [
            self._solve(
                self.body, self.prior, self.config.objective, s, usable, iterations=self.config.iterations
            )
            for s in starts
        ]
        costs = torch.stack([torch.nan_to_num(s.cost, nan=torch.inf) for s in solutions])
        # A dearer fit that can be kept is better than the cheapest that can't.
        possible = torch.stack([_possible(s) for s in solutions])
        chosen = torch.where(possible | ~possible.any(0), costs, torch.inf).argmin(0)
        rows = torch.arange(len(usable), device=usable.device)
        pose, betas, camera = (
            torch.stack([getattr(s, name) for s in solutions])[chosen, rows]
            for name in ("pose_aa", "betas", "camera_m")
        )
        with torch.no_grad():
            loss = reprojection_loss(self.body, self.config.objective, pose, betas, camera, usable)
        return FitResult(
            pose,
            betas,
            camera,
            loss,
            loss,
            costs[chosen, rows],
            chosen,
            self._judge(finite, enough, pose, betas, camera, loss),
        )

    def refine(
        self,
        pose_aa: Float[Tensor, "B 72"],
        betas: Float[Tensor, "B 10"],
        keypoints_crop_px: Float[Tensor, "B 49 3"],
        camera_m: Float[Tensor, "B 3"] | None = None,
    ) -> FitResult:
        """The fit that starts at a given body, as in SPIN's loop; its camera from the keypoints unless it is given."""
        if camera_m is None:
            return self.fit(keypoints_crop_px, [start_from(self.body, pose_aa, betas, keypoints_crop_px)])
        return self.fit(keypoints_crop_px, [Start(pose_aa, betas, camera_m)])

    def _judge(
        self, finite: Tensor, enough: Tensor, pose: Tensor, betas: Tensor, camera: Tensor, loss: Tensor
    ) -> Tensor:
        numbers = finite & torch.isfinite(torch.cat([pose, betas, camera, loss[:, None]], 1)).all(1)
        verdict = torch.full(loss.shape, VALID, dtype=torch.long, device=loss.device)
        verdict[~(loss < ACCEPT_LOSS)] = LOSS_TOO_HIGH
        verdict[(betas.abs() > BETA_LIMIT).any(1)] = SHAPE_OUT_OF_RANGE
        verdict[camera[:, 2] <= 0] = BEHIND_CAMERA
        verdict[~enough] = TOO_FEW_JOINTS
        verdict[~numbers] = NOT_FINITE
        return verdict


def _possible(solution: levenberg_marquardt.Solution) -> Bool[Tensor, " B"]:
    """In front of the camera, and of a shape that is believed."""
    return (solution.camera_m[:, 2] > 0) & (solution.betas.abs() <= BETA_LIMIT).all(1)
