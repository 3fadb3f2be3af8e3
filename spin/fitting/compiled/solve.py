"""The iteration for one sample, and the call for many: samples are dealt out to threads, each with its own scratch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numba import typeof

from spin.fitting.compiled.cholesky import factorise, solve_factorised
from spin.fitting.compiled.machine_code import machine_code
from spin.fitting.compiled.objective import cost, linearise, prepare
from spin.fitting.compiled.tables import PARAMETERS, STRIDE, Body, Problem, Weights, make_scratch
from spin.fitting.levenberg_marquardt import (
    DAMPING_LESS,
    DAMPING_MORE,
    DAMPING_RANGE,
    DAMPING_START,
    RIDGE,
    Solution,
    parameters,
)
from spin.fitting.objective import BETA_LIMIT, body_weights, pose_prior_weight

if TYPE_CHECKING:
    from spin.fitting.objective import Objective
    from spin.fitting.observations import Observations
    from spin.fitting.starts import Start

_DAMPING_LEAST, _DAMPING_MOST = DAMPING_RANGE
_BETAS, _CAMERA = 72, 82  # where betas begin among the parameters, and end
_CHUNK = 64  # samples that a thread takes at a time


class Batch(NamedTuple):
    """The problems of a call, along the first axis; fields as in `Problem`."""

    keypoints_px: np.ndarray  # (N, V, 49, 3)
    view_rotation: np.ndarray  # (N, V, 3, 3)
    view_translation_m: np.ndarray  # (N, V, 3)
    focal_px: np.ndarray  # (N, V)
    principal_px: np.ndarray  # (N, V, 2)
    joints3d_m: np.ndarray  # (N, 24, 4), or (N, 0, 4)
    anchor: np.ndarray  # (N, 82)
    anchor_precision: np.ndarray  # (N, 82)
    pose_prior: np.ndarray  # (N,)


class Answer(NamedTuple):
    """Where each sample ended. `x` holds pose, betas and translation and is the start when a call begins."""

    x: np.ndarray  # (N, 85)
    cost: np.ndarray  # (N,)
    iterations: np.ndarray  # (N,)
    converged: np.ndarray  # (N,)


@machine_code
def pinned_step(x: np.ndarray, damping: float, pinned: int, trial: np.ndarray, s: np.record) -> bool:
    """As `levenberg_marquardt._pinned_step`: `pinned` has a bit for each beta, `trial` their targets, then all parameters."""
    for i in range(PARAMETERS):
        for j in range(i & ~7, STRIDE):
            s.factor[i, j] = s.curvature[i, j]
        s.factor[i, i] += x.dtype.type(damping * s.curvature[i, i] + RIDGE)
    if pinned == 0:
        if not factorise(s.factor):
            return False
        solve_factorised(s.factor, s.gradient, trial)
        for i in range(PARAMETERS):
            trial[i] = x[i] - trial[i]
        return True
    right, target = s.right, s.target
    for i in range(PARAMETERS):
        right[i], target[i] = s.gradient[i], trial[i]
    for a in range(_BETAS, _CAMERA):
        if pinned >> (a - _BETAS) & 1:
            step = x[a] - target[a]
            for i in range(PARAMETERS):
                right[i] -= (s.curvature[i, a] if i < a else s.curvature[a, i]) * step
    for a in range(_BETAS, _CAMERA):
        if pinned >> (a - _BETAS) & 1:
            for i in range(PARAMETERS):
                s.factor[i, a] = s.factor[a, i] = 0
            s.factor[a, a], right[a] = 1, x[a] - target[a]
    if not factorise(s.factor):
        return False
    solve_factorised(s.factor, right, trial)
    for i in range(PARAMETERS):
        trial[i] = x[i] - trial[i]
    for a in range(_BETAS, _CAMERA):
        if pinned >> (a - _BETAS) & 1:
            trial[a] = target[a]
    return True


@machine_code
def after_step(x: np.ndarray, damping: float, trial: np.ndarray, s: np.record) -> bool:
    """As `levenberg_marquardt._after_step`, into `trial`; False if there is no such step."""
    pinned = 0
    for a in range(_BETAS, _CAMERA):
        if (x[a] >= BETA_LIMIT and s.gradient[a] < 0) or (x[a] <= -BETA_LIMIT and s.gradient[a] > 0):
            pinned |= 1 << (a - _BETAS)
            trial[a] = x[a]
    while pinned_step(x, damping, pinned, trial, s):
        more = 0
        for a in range(_BETAS, _CAMERA):
            if trial[a] > BETA_LIMIT or trial[a] < -BETA_LIMIT:
                more |= 1 << (a - _BETAS)
                trial[a] = BETA_LIMIT if trial[a] > 0 else -BETA_LIMIT
        if more == 0:
            return True
        pinned |= more
    return False


@machine_code
def solve_one(
    tb: np.record, blend: np.ndarray, weights: Weights, problem: Problem, x: np.ndarray, trial: np.ndarray,
    s: np.record, limit: int, tolerance: float,
) -> tuple[float, int, bool]:  # fmt: skip
    """Levenberg-Marquardt from x, in place: cost, iterations, whether it converged.

    It has converged when a step gains less than `tolerance` of the cost, or none however short gains anything.
    """
    prepare(tb, problem, s)
    now, component = cost(tb, blend, weights, problem, x, s)
    if not np.isfinite(now):
        return now, 0, False
    damping = x.dtype.type(DAMPING_START)
    stale = True
    for iteration in range(limit):
        if stale:
            linearise(tb, blend, weights, problem, x, component, s)
            stale = False
        better = after_step(x, damping, trial, s)
        trial_cost, trial_component = now, component
        if better:
            trial_cost, trial_component = cost(tb, blend, weights, problem, trial, s)
            better = trial_cost < now  # false for a cost that is not a number
        if better:
            gain = now - trial_cost
            for i in range(PARAMETERS):
                x[i] = trial[i]
            now, component, stale = trial_cost, trial_component, True
            damping = max(damping * DAMPING_LESS, _DAMPING_LEAST)
            if gain <= tolerance * now:
                return now, iteration + 1, True
        else:
            damping *= DAMPING_MORE
            if damping > _DAMPING_MOST:
                return now, iteration + 1, np.isfinite(now)
    return now, limit, False


@machine_code
def solve_range(
    tables: np.ndarray, blend: np.ndarray, weights: Weights, batch: Batch, answer: Answer, scratch: np.ndarray,
    first: int, last: int, limit: int, tolerance: float,
) -> None:  # fmt: skip
    tb, s = tables[0], scratch[0]
    trial = np.empty(PARAMETERS, answer.x.dtype)
    for i in range(first, last):
        problem = Problem(
            batch.keypoints_px[i], batch.view_rotation[i], batch.view_translation_m[i], batch.focal_px[i],
            batch.principal_px[i], batch.joints3d_m[i], batch.anchor[i], batch.anchor_precision[i],
            batch.pose_prior[i],
        )  # fmt: skip
        answer.cost[i], answer.iterations[i], answer.converged[i] = solve_one(
            tb, blend, weights, problem, answer.x[i], trial, s, limit, tolerance
        )


def solve_batch(
    body: Body,
    weights: Weights,
    batch: Batch,
    start: np.ndarray,
    *,
    iterations: int,
    tolerance: float,
    threads: int,
) -> Answer:
    """Minimise every sample from its start (N, 85), which is not changed. The number of threads changes no bit."""
    count = len(start)
    dtype = body.real
    answer = Answer(np.array(start, dtype), np.zeros(count, dtype), np.zeros(count, np.int64), np.zeros(count, np.bool_))

    def work(ranges: list[int]) -> None:
        scratch = make_scratch(body)
        for first in ranges:
            last = min(first + _CHUNK, count)
            solve_range(body.tables, body.blend, weights, batch, answer, scratch, first, last, iterations, tolerance)

    starts = list(range(0, count, _CHUNK))
    threads = max(1, min(threads, len(starts)))
    if threads == 1:
        work(starts)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work, starts[i::threads]) for i in range(threads)]:
                done.result()
    return answer


def batch_of(body: Body, objective: Objective, start: Start, observations: Observations) -> tuple[Weights, Batch]:
    """The problems of a call, in the body's precision."""
    count = len(observations)
    joints = observations.joints3d_m
    views = observations.views
    anchor = precision = torch.zeros(count, 82)
    if start.anchor is not None:
        anchor = torch.cat([start.anchor.pose_aa, start.anchor.betas], 1)
        precision = start.anchor.precision(objective)
    weights = body_weights(observations.keypoints_px, objective.hips)
    keypoints = torch.cat([observations.keypoints_px[..., :2], weights[..., None]], -1)
    arrays = (
        keypoints, views.rotation, views.translation_m, views.focal_px, views.principal_px,
        torch.zeros(count, 0, 4) if joints is None else joints, anchor, precision,
        pose_prior_weight(objective, start.anchor, start.betas[:, 0]),
    )  # fmt: skip
    constants = (
        objective.sigma_px**2,
        objective.bending_prior**2,
        objective.shape_prior**2,
        objective.joints3d**2,
    )
    # All of one precision, so that nothing is widened.
    return (
        Weights(*(body.real.type(w) for w in constants)),
        Batch(*(np.ascontiguousarray(a.numpy(), body.real) for a in arrays)),
    )


def solve(
    body: Body,
    objective: Objective,
    start: Start,
    observations: Observations,
    *,
    iterations: int,
    tolerance: float,
    threads: int,
) -> Solution:
    """Minimise the objective from a start, as `levenberg_marquardt.solve_batched` does; on the CPU, inputs unchanged."""
    weights, batch = batch_of(body, objective, start, observations)
    answer = solve_batch(
        body, weights, batch, parameters(start).numpy(),
        iterations=iterations, tolerance=tolerance, threads=threads,
    )  # fmt: skip
    return Solution.of(*(torch.from_numpy(a) for a in answer))


def nothing_to_solve(body: Body) -> tuple[Weights, Batch, Answer]:
    """A call of one sample, of the types that every call has."""
    dtype = body.real
    view = np.zeros((1, 1, 49, 3), dtype)
    batch = Batch(
        view, np.zeros((1, 1, 3, 3), dtype), np.zeros((1, 1, 3), dtype), np.zeros((1, 1), dtype),
        np.zeros((1, 1, 2), dtype), np.zeros((1, 0, 4), dtype), np.zeros((1, 82), dtype), np.zeros((1, 82), dtype),
        np.zeros(1, dtype),
    )  # fmt: skip
    answer = Answer(np.zeros((1, 85), dtype), np.zeros(1, dtype), np.zeros(1, np.int64), np.zeros(1, np.bool_))
    return Weights(*(dtype.type(0) for _ in Weights._fields)), batch, answer


def is_compiled(body: Body) -> bool:
    """Return whether machine code for this body is in memory or on disk."""
    weights, batch, answer = nothing_to_solve(body)
    scratch = make_scratch(body)
    return is_at_hand(solve_range, (body.tables, body.blend, weights, batch, answer, scratch, 0, 0, 0, 0.0))


def is_at_hand(function: Any, arguments: tuple[Any, ...]) -> bool:
    """Return whether a function has been compiled for arguments of these types."""
    signature = tuple(typeof(a) for a in arguments)
    if signature in function.overloads:
        return True
    # numba offers no public way to ask
    return function._cache.load_overload(signature, function.targetctx) is not None
