"""The published solver as machine code: Adam in two stages, as `spin.fitting.adam` runs it in torch.

Only the gradient is needed, and what pulls at points adds up along the limbs: with M and W the moment (about the origin) and
the weighted sum of all pulls below joint k, the gradient by a parameter that turns about axis a is a · (M - t × W). That
costs a tenth of the derivative of every point by every parameter.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.fitting.adam import DEPTH_WEIGHT, STEP_SIZE, camera_keypoints
from spin.fitting.compiled.body import pose_points, turn_axes
from spin.fitting.compiled.machine_code import machine_code
from spin.fitting.compiled.objective import add_pose_blend, cost, pose_prior, prepare, pull_feature
from spin.fitting.compiled.solve import Answer, Batch, batch_of, is_at_hand, nothing_to_solve
from spin.fitting.compiled.tables import PARAMETERS, Body, Problem, Weights, make_scratch
from spin.fitting.levenberg_marquardt import Solution, parameters
from spin.fitting.objective import BETA_LIMIT

if TYPE_CHECKING:
    from spin.fitting.objective import Objective
    from spin.fitting.observations import Observations
    from spin.fitting.starts import Start

_KEEP_FIRST, _KEEP_SECOND, _EPSILON = 0.9, 0.999, 1e-8  # Adam's usual numbers
_CAMERA, _SUPERSET = 82, 25
_CHUNK = 16  # samples that a thread takes at a time


@machine_code
def pull_of_view(tb: np.record, problem: Problem, v: int, sigma2: float, x: np.ndarray, s: np.record, pull: np.ndarray) -> None:
    """Adds half the gradient of one view's reprojection term by each point to `pull` (44, 3).

    `sigma2` 0: squared distances, weighted by confidence, as stage one has them.
    """
    r, t = problem.view_rotation[v], problem.view_translation_m[v]
    focal = problem.focal_px[v]
    for keypoint in range(49):
        confidence = problem.keypoints_px[v, keypoint, 2]
        if confidence <= 0:
            continue
        p = tb.point_of_keypoint[keypoint]
        qx, qy, qz = s.point[p, 0] + x[82], s.point[p, 1] + x[83], s.point[p, 2] + x[84]
        px = r[0, 0] * qx + r[0, 1] * qy + r[0, 2] * qz + t[0]
        py = r[1, 0] * qx + r[1, 1] * qy + r[1, 2] * qz + t[1]
        z = r[2, 0] * qx + r[2, 1] * qy + r[2, 2] * qz + t[2]
        dx = focal * px / z + problem.principal_px[v, 0] - problem.keypoints_px[v, keypoint, 0]
        dy = focal * py / z + problem.principal_px[v, 1] - problem.keypoints_px[v, keypoint, 1]
        if sigma2 > 0:
            ax, ay = confidence * sigma2 / (sigma2 + dx * dx), confidence * sigma2 / (sigma2 + dy * dy)
            gx, gy = ax * ax * dx, ay * ay * dy
        else:
            gx, gy = confidence * dx, confidence * dy
        slope, lean_x, lean_y = focal / z, px / z, py / z
        for i in range(3):
            across = gx * (r[0, i] - lean_x * r[2, i]) + gy * (r[1, i] - lean_y * r[2, i])
            pull[p, i] += slope * across


@machine_code
def pull_of_joints3d(tb: np.record, weights: Weights, problem: Problem, s: np.record, pull: np.ndarray) -> None:
    """The same of the 3D joints' term, both sets about their centres."""
    mass = s.point.dtype.type(0)
    mean = np.zeros(3, s.point.dtype)
    for joint in range(problem.joints3d_m.shape[0]):
        w = problem.joints3d_m[joint, 3] ** 2
        p = tb.point_of_keypoint[_SUPERSET + joint]
        mass += w
        for i in range(3):
            mean[i] += w * (s.point[p, i] - problem.joints3d_m[joint, i]) if w > 0 else 0
    for joint in range(problem.joints3d_m.shape[0]):
        w = problem.joints3d_m[joint, 3] ** 2
        if w > 0:
            p = tb.point_of_keypoint[_SUPERSET + joint]
            for i in range(3):
                away = s.point[p, i] - problem.joints3d_m[joint, i] - mean[i] / mass
                pull[p, i] += weights.joints3d * w * away


@machine_code
def gather(tb: np.record, blend: np.ndarray, x: np.ndarray, s: np.record, pull: np.ndarray, moment: np.ndarray) -> None:
    """Half the gradient by pose, betas and translation, into `s.gradient`, of what pulls at the points."""
    turn_axes(tb, x, s)
    gradient = s.gradient
    for a in range(PARAMETERS):
        gradient[a] = 0
    for k in range(24):
        for i in range(6):
            moment[k, i] = 0
    if blend.shape[0] > 0:
        for c in range(207):
            s.by_feature[c] = 0
    for p in range(44):
        if not s.seen[p]:
            continue
        fx, fy, fz = pull[p, 0], pull[p, 1], pull[p, 2]
        if blend.shape[0] > 0:
            pull_feature(tb, blend, p, fx, fy, fz, s)
        for n in range(tb.pair_start[p], tb.pair_start[p + 1]):
            bone, weight = tb.pair_bone[n], tb.pair_weight[n]
            ax, ay, az = s.pair[n, 0], s.pair[n, 1], s.pair[n, 2]
            moment[bone, 0] += ay * fz - az * fy
            moment[bone, 1] += az * fx - ax * fz
            moment[bone, 2] += ax * fy - ay * fx
            moment[bone, 3] += weight * fx
            moment[bone, 4] += weight * fy
            moment[bone, 5] += weight * fz
            if n >= 24:
                g = s.turned[bone]
                for i in range(3):
                    local = g[0, i] * fx + g[1, i] * fy + g[2, i] * fz
                    for m in range(10):
                        gradient[72 + m] += local * tb.pair_lever_by_betas[n, i, m]
    for back in range(24):
        k = 23 - back
        parent = tb.parents[k]
        if parent >= 0:
            for i in range(6):
                moment[parent, i] += moment[k, i]
    for k in range(24):
        if not s.needed[k]:
            continue
        wx, wy, wz = moment[k, 3], moment[k, 4], moment[k, 5]
        tx, ty, tz = s.joint[k, 0], s.joint[k, 1], s.joint[k, 2]
        mx, my, mz = (
            moment[k, 0] - (ty * wz - tz * wy),
            moment[k, 1] - (tz * wx - tx * wz),
            moment[k, 2] - (tx * wy - ty * wx),
        )
        for m in range(3):
            gradient[3 * k + m] += s.axes[k, 0, m] * mx + s.axes[k, 1, m] * my + s.axes[k, 2, m] * mz
        for i in range(3):
            local = moment[k, 3 + i]
            if k > 0:
                g = s.turned[tb.parents[k]]
                local = g[0, i] * wx + g[1, i] * wy + g[2, i] * wz
            for m in range(10):
                gradient[72 + m] += local * tb.bone_by_betas[k, i, m]
    for i in range(3):
        # Every point's weights add up to one, so that what pulls at the root pulls at the translation.
        gradient[_CAMERA + i] = moment[0, 3 + i]
    if blend.shape[0] > 0:
        add_pose_blend(x, s)


@machine_code
def add_priors(tb: np.record, weights: Weights, problem: Problem, x: np.ndarray, s: np.record) -> None:
    """Half the gradient of all terms that look at no point."""
    _, component = pose_prior(tb, x, s)
    half = x.dtype.type(0.5) * problem.pose_prior
    precision = tb.prior_precision[component]
    for i in range(69):
        s.away[i] = x[3 + i] - tb.prior_means[component, i]
    for i in range(69):
        total = x.dtype.type(0)
        for j in range(69):
            total += precision[i, j] * s.away[j]
        s.gradient[3 + i] += half * total
    for i in range(4):
        a, sign = 3 + tb.bending_index[i], tb.bending_sign[i]
        s.gradient[a] += weights.bending_prior * np.exp(2 * sign * x[a]) * sign
    for a in range(72, 82):
        s.gradient[a] += weights.shape_prior * x[a]
    for a in range(82):
        s.gradient[a] += problem.anchor_precision[a] * (x[a] - problem.anchor[a])


@machine_code
def take_step(x: np.ndarray, a: int, slope: float, step: int, first: np.ndarray, second: np.ndarray) -> None:
    """Adam's step of one parameter. Kingma and Ba, ICLR 2015, algorithm 1."""
    first[a] = _KEEP_FIRST * first[a] + (1 - _KEEP_FIRST) * slope
    second[a] = _KEEP_SECOND * second[a] + (1 - _KEEP_SECOND) * slope * slope
    scale = np.sqrt(second[a] / (1 - _KEEP_SECOND**step)) + _EPSILON
    x[a] -= STEP_SIZE * first[a] / (1 - _KEEP_FIRST**step) / scale


@machine_code
def descend_one(
    tb: np.record, blend: np.ndarray, weights: Weights, problem: Problem, torso: Problem, x: np.ndarray,
    room: np.ndarray, s: np.record, iterations: int,
) -> float:  # fmt: skip
    """Both stages from x, in place; the cost at the end. `room` (44 + 24, 6) and two rows of `s.factor` are scratch."""
    pull, moment = room[:44], room[44:]
    first, second = s.factor[0], s.factor[1]
    for stage in range(2):
        of_stage = torso if stage == 0 else problem
        prepare(tb, of_stage, s)
        depth = x[84]
        for a in range(PARAMETERS):
            first[a] = second[a] = 0
        for step in range(1, iterations + 1):
            pose_points(tb, blend, x, s)
            for p in range(44):
                pull[p, 0] = pull[p, 1] = pull[p, 2] = 0
            for v in range(problem.keypoints_px.shape[0]):
                pull_of_view(tb, of_stage, v, weights.sigma2_px2 if stage else 0.0, x, s, pull)
            if stage:
                pull_of_joints3d(tb, weights, problem, s, pull)
            gather(tb, blend, x, s, pull, moment)
            if stage:
                add_priors(tb, weights, problem, x, s)
                for a in range(82):
                    take_step(x, a, 2 * s.gradient[a], step, first, second)
                for a in range(72, 82):
                    x[a] = min(max(x[a], -BETA_LIMIT), BETA_LIMIT)
            else:
                s.gradient[84] += DEPTH_WEIGHT**2 * (x[84] - depth)
                for a in (0, 1, 2, 82, 83, 84):
                    take_step(x, a, 2 * s.gradient[a], step, first, second)
    prepare(tb, problem, s)
    return cost(tb, blend, weights, problem, x, s)[0]


@machine_code
def descend_range(
    tables: np.ndarray, blend: np.ndarray, weights: Weights, batch: Batch, torso_px: np.ndarray, answer: Answer,
    scratch: np.ndarray, first: int, last: int, iterations: int,
) -> None:  # fmt: skip
    tb, s = tables[0], scratch[0]
    room = np.empty((68, 6), answer.x.dtype)
    for i in range(first, last):
        rest = (batch.view_rotation[i], batch.view_translation_m[i], batch.focal_px[i], batch.principal_px[i])
        prior = (batch.anchor[i], batch.anchor_precision[i], batch.pose_prior[i])
        problem = Problem(batch.keypoints_px[i], *rest, batch.joints3d_m[i], *prior)
        torso = Problem(torso_px[i], *rest, batch.joints3d_m[i, :0], *prior)
        answer.cost[i] = descend_one(tb, blend, weights, problem, torso, answer.x[i], room, s, iterations)


def solve(
    body: Body,
    objective: Objective,
    start: Start,
    observations: Observations,
    *,
    iterations: int,
    threads: int,
) -> Solution:
    """`iterations` of each stage, as `spin.fitting.adam.solve`. No bit depends on the number of threads."""
    weights, batch = batch_of(body, objective, start, observations)
    torso = np.ascontiguousarray(camera_keypoints(observations.keypoints_px).numpy(), body.real)
    count, dtype = len(observations), body.real
    answer = Answer(
        np.array(parameters(start).numpy(), dtype),
        np.zeros(count, dtype),
        np.full(count, 2 * iterations),
        np.ones(count, np.bool_),
    )

    def work(ranges: list[int]) -> None:
        scratch = make_scratch(body)
        for first in ranges:
            last = min(first + _CHUNK, count)
            descend_range(body.tables, body.blend, weights, batch, torso, answer, scratch, first, last, iterations)

    starts = list(range(0, count, _CHUNK))
    with ThreadPoolExecutor(max(1, min(threads, len(starts)))) as pool:
        for done in [pool.submit(work, starts[i::threads]) for i in range(threads)]:
            done.result()
    return Solution.of(*(torch.from_numpy(a) for a in answer))


def is_compiled(body: Body) -> bool:
    """As `spin.fitting.compiled.solve.is_compiled`."""
    weights, batch, answer = nothing_to_solve(body)
    scratch, torso = make_scratch(body), batch.keypoints_px
    return is_at_hand(descend_range, (body.tables, body.blend, weights, batch, torso, answer, scratch, 0, 0, 0))
