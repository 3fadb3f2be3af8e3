"""Starts, solver, score and verdict together: observations in, the best body found out."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from spin.fitting import adam, levenberg_marquardt
from spin.fitting.objective import BETA_LIMIT, OBJECTIVES, Objective, prior_cost, reprojection_loss, total_cost
from spin.fitting.observations import Observations, PreparedObservations
from spin.fitting.placement import place_body
from spin.fitting.starts import (
    START_KINDS,
    Start,
    best_of,
    component_starts,
    confident_joints,
    given_start,
    lifter_start,
    mean_pose_starts,
)
from spin.fitting.verdicts import (
    KEPT,
    VALID,
    verdict_of_fit,
    verdict_of_observations,
)
from spin.rotations import axis_angle_to_matrix, matrix_to_axis_angle

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from spin.body.compact import CompactBody
    from spin.fitting.lifter import Lifter
    from spin.fitting.prior import PosePrior
    from spin.fitting.scorer import FitScorer, ScoreBasis

Solver = Literal["lm", "adam"]
Observed: TypeAlias = "PreparedObservations | Observations | Tensor"  # a tensor: keypoints (B, 49, 3) of one crop
PLACES_SEEN = 29  # how many places the body term can see: of the 34 named, five are hips and OpenPose's neck
_KEPT_STARTS = 2  # of the many that are screened for a multistart


@dataclass(frozen=True)
class FitConfig:
    """How a fit is made.

    `iterations` of the solver for each start, at most (Adam: of each of its two stages, exactly). `tolerance`: the share of
    its cost that a step must gain for the next one to be made. `init`: the starts to choose from, by kind; those of the
    kinds 'store', 'file' and 'network' come from outside (`BatchFitter.given`).
    """

    solver: Solver = "lm"
    iterations: int = 20
    objective: Objective = field(default_factory=lambda: OBJECTIVES["anchored"])
    init: tuple[str, ...] = ("lifter",)
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.solver not in ("lm", "adam"):
            raise ValueError(f"solver {self.solver!r}: expected 'lm' or 'adam'")
        if self.iterations < 0:
            raise ValueError(f"iterations {self.iterations}: expected 0 or more")
        unknown = [kind for kind in self.init if kind not in START_KINDS]
        if unknown:
            raise ValueError(f"init {self.init}: expected some of {', '.join(START_KINDS)}")


@dataclass(frozen=True)
class FitResult:
    """One fit a sample, in the frame of its observations (for one crop: the crop's camera).

    `score` decides between fits of one sample, the lower wins. `cost` is the objective, `prior_cost` the published priors,
    for every objective, so that all fits can be compared. `coverage` is the share of the places that keypoints can name which
    were seen. `start` indexes START_KINDS, `verdict` VERDICTS.
    """

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    camera_m: Float[Tensor, "B 3"]
    loss: Float[Tensor, " B"]
    score: Float[Tensor, " B"]
    cost: Float[Tensor, " B"]
    prior_cost: Float[Tensor, " B"]
    coverage: Float[Tensor, " B"]
    iterations: Int[Tensor, " B"]
    start: Int[Tensor, " B"]
    verdict: Int[Tensor, " B"]

    def __len__(self) -> int:
        return len(self.pose_aa)

    @property
    def valid(self) -> Bool[Tensor, " B"]:
        return self.verdict == VALID

    @property
    def storable(self) -> Bool[Tensor, " B"]:
        """Return which fits are kept, even if poor: a better one replaces them."""
        return torch.isin(self.verdict, torch.tensor(KEPT, device=self.verdict.device))

    def to(self, device: torch.device) -> FitResult:
        return FitResult(*(getattr(self, f.name).to(device) for f in fields(self)))


class BatchFitter:
    """Fits a body to observations. Holds no state between calls; inputs are never changed.

    On the CPU solvers run as machine code, on as many threads as torch does; elsewhere as torch operations.
    An anchored objective needs a lifter: it is the default start, and with it the scorer that scores fits.
    """

    def __init__(self, body: CompactBody, prior: PosePrior, config: FitConfig, lifter: Lifter | None = None) -> None:
        if lifter is None and (config.objective.is_anchored or "lifter" in config.init):
            raise ValueError("an anchored objective, and the start 'lifter', need a lifter: none was given")
        self.body, self.prior, self.config, self.lifter = body, prior, config, lifter
        self.device, self.dtype = body.rest_joints.device, body.rest_joints.dtype
        self._compiled = None
        if self.device.type == "cpu":
            from spin.fitting.compiled.tables import make_body  # numba takes half a second to import

            self._compiled = make_body(body, prior)
        self.scorer: FitScorer | None = None
        if config.objective.is_anchored and lifter is not None:
            from spin.fitting.scorer import FitScorer

            self.scorer = FitScorer(body, lifter)

    def prepare(self, observations: Observed) -> PreparedObservations:
        """Return the observations checked and made safe to compute with. What is prepared already comes back unchanged.

        Prepare once and pass the result on where several methods take the same observations.
        """
        if isinstance(observations, PreparedObservations):
            return observations
        if isinstance(observations, torch.Tensor):
            observations = Observations.of(observations if observations.is_floating_point() else observations.to(self.dtype))
        with torch.no_grad():
            verdict = verdict_of_observations(observations)
            usable = observations.without(verdict != VALID).within_reach().centred()
            return PreparedObservations(usable.to(self.device, self.dtype), verdict.to(self.device))

    def fit(self, observations: Observed, starts: list[Start] | None = None) -> FitResult:
        """Return the best fit over the starts: the configured ones, unless others are given.

        A sample whose observations can't be fitted comes out invalid with its reason, and changes nothing for its neighbours.
        Raise KeypointError if keypoints are not of shape (B, 49, 3) or (B, V, 49, 3).
        """
        prepared = self.prepare(observations)
        observations, verdict = prepared.observations, prepared.verdict
        with torch.no_grad():
            every = self._configured_starts(observations) if starts is None else starts
            if not every:
                raise ValueError("a fit needs a start: none is configured, and none was given")
            every = [start.to(self.device, self.dtype) for start in every]
            for start in every:
                if len(start.pose_aa) != len(observations):
                    raise ValueError(f"a start of {len(start.pose_aa)} bodies for {len(observations)} samples")
            solutions = [self._solve(start, observations, self.config.iterations) for start in every]
            return self._best(every, solutions, observations, verdict)

    def starts(self, observations: Observed) -> list[Start]:
        """Return the configured starts, to hand to `fit` together with others."""
        prepared = self.prepare(observations)
        with torch.no_grad():
            return self._configured_starts(prepared.observations)

    def given(
        self,
        pose_aa: Float[Tensor, "B 72"],
        betas: Float[Tensor, "B 10"],
        observations: Observed,
        *,
        kind: str,
        camera_m: Float[Tensor, "B 3"] | None = None,
    ) -> Start:
        """Return a start at a body from elsewhere; its camera from the keypoints, unless it is given."""
        usable = self.prepare(observations).observations
        pose_aa, betas = pose_aa.to(self.device, self.dtype), betas.to(self.device, self.dtype)
        camera_m = None if camera_m is None else camera_m.to(self.device, self.dtype)
        with torch.no_grad():
            return given_start(self.body, pose_aa, betas, usable, kind=kind, camera_m=camera_m)

    def refine(
        self,
        pose_aa: Float[Tensor, "B 72"],
        betas: Float[Tensor, "B 10"],
        observations: Observed,
        camera_m: Float[Tensor, "B 3"] | None = None,
    ) -> FitResult:
        """Return the fit that starts at what a network predicts, as in SPIN's loop."""
        prepared = self.prepare(observations)
        start = self.given(pose_aa, betas, prepared, kind="network", camera_m=camera_m)
        return self.fit(prepared, [start])

    def as_given(self, start: Start, observations: Observed, placed: Bool[Tensor, " B"]) -> FitResult:
        """Return bodies from elsewhere, unchanged and scored like any fit. The keypoints place those that aren't `placed`."""
        prepared = self.prepare(observations)
        observations, verdict = prepared.observations, prepared.verdict
        with torch.no_grad():
            points = self.body.keypoints(self.body(start.pose_aa, start.betas))
            found = place_body(points, start.camera_m, observations, self.config.objective)
            camera = torch.where(placed.to(self.device)[:, None], start.camera_m, found)
            body = (start.pose_aa, start.betas, camera)
            cost = total_cost(self.body, self.prior, self.config.objective, *body, observations)
            none = torch.zeros_like(verdict)
            solution = levenberg_marquardt.Solution(*body, cost, none, none == 0)
            return self._best([start], [solution], observations, verdict)

    def given_in_view(
        self,
        pose_aa: Float[Tensor, "B 72"],
        betas: Float[Tensor, "B 10"],
        observations: Observed,
        view: Int[Tensor, " B"],
        known: Bool[Tensor, " B"],
        *,
        kind: str,
        fallback: list[Start],
    ) -> Start:
        """Return a start at bodies that are each given in the camera of one view.

        Where none is known: the first start of `fallback`, or an upright mean pose, held to by nothing.
        """
        prepared = self.prepare(observations)
        usable = prepared.observations
        rotation = usable.views.rotation[torch.arange(len(view)), view]
        root = rotation.transpose(-1, -2) @ axis_angle_to_matrix(pose_aa[:, :3].to(rotation))
        pose = torch.cat([matrix_to_axis_angle(root), pose_aa[:, 3:].to(rotation)], 1)
        given = self.given(pose, betas, prepared, kind=kind)
        with torch.no_grad():
            other = fallback[0] if fallback else mean_pose_starts(self.body, self.prior, usable, (0.0,))[0]
        return given.where(known.to(self.device), other)

    def seen_from(self, result: FitResult, observations: Observations, view: int) -> PosedBody:
        """Return a fit in the camera of one view, where it may serve as a fit of that view alone."""
        views = observations.to(self.device, self.dtype).views
        rotation = views.rotation[:, view]
        root = matrix_to_axis_angle(rotation @ axis_angle_to_matrix(result.pose_aa[:, :3]))
        pose = torch.cat([root, result.pose_aa[:, 3:]], 1)
        # A root's rotation turns the body about the root's rest position.
        with torch.no_grad():
            pelvis = self.body(torch.zeros_like(pose), result.betas)[:, 0]
        moved = (rotation @ (pelvis + result.camera_m)[..., None])[..., 0]
        return PosedBody(pose, result.betas, moved + views.translation_m[:, view] - pelvis)

    @property
    def needs_compiling(self) -> bool:
        """Return whether the first fit will take half a minute longer: machine code is compiled once, then kept on disk."""
        if self._compiled is None:
            return False
        from spin.fitting.compiled import descend, solve

        solver = descend if self.config.solver == "adam" else solve
        return not solver.is_compiled(self._compiled)

    def _configured_starts(self, observations: Observations) -> list[Start]:
        out: list[Start] = []
        for kind in self.config.init:
            if kind == "lifter":
                assert self.lifter is not None
                out.append(lifter_start(self.body, self.lifter, observations))
            elif kind == "multistart":
                starts = component_starts(self.body, self.prior, observations)
                out += best_of(starts, self._costs(starts, observations), _KEPT_STARTS)
        return out

    def _costs(self, starts: list[Start], observations: Observations) -> Float[Tensor, "S B"]:
        """Return what each start costs before fitting."""
        return torch.stack([self._solve(start, observations, 0).cost for start in starts])

    def _solve(self, start: Start, observations: Observations, iterations: int) -> levenberg_marquardt.Solution:
        config = self.config
        if not config.objective.is_anchored and start.anchor is not None:
            start = replace(start, anchor=None)
        if config.solver == "adam":
            if self._compiled is None:
                return adam.solve(self.body, self.prior, config.objective, start, observations, iterations=iterations)
            from spin.fitting.compiled import descend

            return descend.solve(
                self._compiled, config.objective, start, observations,
                iterations=iterations, threads=torch.get_num_threads(),
            )  # fmt: skip
        if self._compiled is None:
            return levenberg_marquardt.solve_batched(
                self.body, self.prior, config.objective, start, observations,
                iterations=iterations, tolerance=config.tolerance,
            )  # fmt: skip
        from spin.fitting.compiled.solve import solve

        return solve(
            self._compiled, config.objective, start, observations,
            iterations=iterations, tolerance=config.tolerance, threads=torch.get_num_threads(),
        )  # fmt: skip

    def _best(
        self,
        starts: list[Start],
        solutions: list[levenberg_marquardt.Solution],
        observations: Observations,
        observations_verdict: Int[Tensor, " B"],
    ) -> FitResult:
        """Return for each sample the solution of lowest score (without a scorer: cost) among those that can be kept."""
        lift = next((start.lift for start in starts if start.lift is not None), None)
        basis = None if self.scorer is None else self.scorer.basis(observations, lift)
        parts = [self._scored(solution, observations, basis) for solution in solutions]
        order = torch.stack([part.score if self.scorer else s.cost for part, s in zip(parts, solutions)])
        order = torch.nan_to_num(order, nan=torch.inf)
        possible = torch.stack([part.possible for part in parts])
        chosen = torch.where(possible | ~possible.any(0), order, torch.inf).argmin(0)
        rows = torch.arange(len(observations), device=self.device)

        def pick(values: list[Tensor]) -> Tensor:
            return torch.stack(values)[chosen, rows]

        best = levenberg_marquardt.Solution(
            *(pick([getattr(s, f.name) for s in solutions]) for f in fields(levenberg_marquardt.Solution))
        )
        loss, score = pick([part.loss for part in parts]), pick([part.score for part in parts])
        depth = pick([part.depth_m for part in parts])
        return FitResult(
            pose_aa=best.pose_aa,
            betas=best.betas,
            camera_m=best.camera_m,
            loss=loss,
            score=score,
            cost=best.cost,
            prior_cost=prior_cost(self.prior, OBJECTIVES["published"], best.pose_aa, best.betas),
            coverage=confident_joints(observations.keypoints_px).amax(1) / PLACES_SEEN,
            iterations=best.iterations,
            start=pick([start.kinds for start in starts]),
            verdict=verdict_of_fit(observations_verdict, best, loss, score, depth),
        )

    def _scored(self, solution: levenberg_marquardt.Solution, observations: Observations, basis: ScoreBasis | None) -> _Scored:
        points = self.body(solution.pose_aa, solution.betas)
        keypoints = self.body.keypoints(points)
        loss = reprojection_loss(self.config.objective, keypoints, solution.camera_m, observations)
        score = loss
        if self.scorer is not None and basis is not None:
            score = self.scorer.expected_error_mm(basis, points, solution.camera_m)
        root = (points[:, :1] + solution.camera_m[:, None]).to(loss.dtype)
        depth = observations.views.place(root)[..., 2].flatten(1).amin(1)
        return _Scored(loss, score, depth, (depth > 0) & (solution.betas.abs() <= BETA_LIMIT).all(1))


@dataclass(frozen=True)
class _Scored:
    """What is asked of each solution; `possible`: in front of the cameras, and with betas within the limit."""

    loss: Tensor
    score: Tensor
    depth_m: Tensor
    possible: Tensor


@dataclass(frozen=True)
class PosedBody:
    """A posed body in a camera's frame."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    camera_m: Float[Tensor, "B 3"]
