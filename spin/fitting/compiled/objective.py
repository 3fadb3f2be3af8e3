"""The objective of one sample: its cost, and its gradient and curvature (see `spin.fitting.objective` for the terms)."""

from __future__ import annotations

import numpy as np

from spin.fitting.compiled.body import differentiate_point, forget_point, pose_points, turn_axes
from spin.fitting.compiled.machine_code import machine_code
from spin.fitting.compiled.tables import PARAMETERS, ROWS, STRIDE, Problem, Weights
from spin.fitting.levenberg_marquardt import NEAREST_M

_CAMERA = 82
_SUPERSET = 25  # first of the keypoints that 3D joints are given for


@machine_code
def prepare(tb: np.record, problem: Problem, s: np.record) -> None:
    """Which points have observations, and which joints move them."""
    for p in range(44):
        s.seen[p] = False
    for k in range(24):
        s.needed[k] = k == 0
    for v in range(problem.keypoints_px.shape[0]):
        for keypoint in range(49):
            if problem.keypoints_px[v, keypoint, 2] > 0:
                s.seen[tb.point_of_keypoint[keypoint]] = True
    for joint in range(problem.joints3d_m.shape[0]):
        if problem.joints3d_m[joint, 3] > 0:
            s.seen[tb.point_of_keypoint[_SUPERSET + joint]] = True
    for p in range(44):
        if s.seen[p]:
            for n in range(tb.pair_start[p], tb.pair_start[p + 1]):
                k = tb.pair_bone[n]
                while k >= 0:
                    s.needed[k] = True
                    k = tb.parents[k]


@machine_code
def cost(
    tb: np.record, blend: np.ndarray, weights: Weights, problem: Problem, x: np.ndarray, s: np.record
) -> tuple[float, int]:
    """Cost at x (85,), and the prior's component that it was taken at; leaves the posed points in `s`."""
    pose_points(tb, blend, x, s)
    total = reprojection(tb, weights, problem, x, s) + joints3d(tb, weights, problem, s)
    prior, component = pose_prior(tb, x, s)
    total += problem.pose_prior * prior
    for i in range(4):
        total += weights.bending_prior * np.exp(2 * tb.bending_sign[i] * x[3 + tb.bending_index[i]])
    for i in range(72, 82):
        total += weights.shape_prior * x[i] * x[i]
    for i in range(82):
        away = x[i] - problem.anchor[i]
        total += problem.anchor_precision[i] * away * away
    return total, component


@machine_code
def reprojection(tb: np.record, weights: Weights, problem: Problem, x: np.ndarray, s: np.record) -> float:
    total = x.dtype.type(0)
    for v in range(problem.keypoints_px.shape[0]):
        r, t = problem.view_rotation[v], problem.view_translation_m[v]
        focal, cx, cy = problem.focal_px[v], problem.principal_px[v, 0], problem.principal_px[v, 1]
        for keypoint in range(49):
            confidence = problem.keypoints_px[v, keypoint, 2]
            if confidence <= 0:
                continue
            p = tb.point_of_keypoint[keypoint]
            qx, qy, qz = s.point[p, 0] + x[82], s.point[p, 1] + x[83], s.point[p, 2] + x[84]
            z = r[2, 0] * qx + r[2, 1] * qy + r[2, 2] * qz + t[2]
            if z < NEAREST_M:
                return x.dtype.type(np.inf)
            dx = focal * (r[0, 0] * qx + r[0, 1] * qy + r[0, 2] * qz + t[0]) / z + cx - problem.keypoints_px[v, keypoint, 0]
            dy = focal * (r[1, 0] * qx + r[1, 1] * qy + r[1, 2] * qz + t[1]) / z + cy - problem.keypoints_px[v, keypoint, 1]
            sigma2 = weights.sigma2_px2
            robust = sigma2 * dx * dx / (sigma2 + dx * dx) + sigma2 * dy * dy / (sigma2 + dy * dy)
            total += confidence * confidence * robust
    return total


@machine_code
def joints3d(tb: np.record, weights: Weights, problem: Problem, s: np.record) -> float:
    """Squared distances to 3D joints, both sets about their centres."""
    total = s.point.dtype.type(0)
    mass = s.point.dtype.type(0)
    sx, sy, sz = total, total, total
    for joint in range(problem.joints3d_m.shape[0]):
        w = problem.joints3d_m[joint, 3]
        if w > 0:
            p = tb.point_of_keypoint[_SUPERSET + joint]
            dx = s.point[p, 0] - problem.joints3d_m[joint, 0]
            dy = s.point[p, 1] - problem.joints3d_m[joint, 1]
            dz = s.point[p, 2] - problem.joints3d_m[joint, 2]
            w = w * w
            total += w * (dx * dx + dy * dy + dz * dz)
            mass, sx, sy, sz = mass + w, sx + w * dx, sy + w * dy, sz + w * dz
    if mass > 0:
        total -= (sx * sx + sy * sy + sz * sz) / mass
    return weights.joints3d * max(total, s.point.dtype.type(0))


@machine_code
def pose_prior(tb: np.record, x: np.ndarray, s: np.record) -> tuple[float, int]:
    """The lowest component's cost, and its number. A component is left as soon as its cost is higher."""
    best, component, half = x.dtype.type(np.inf), 0, x.dtype.type(0.5)
    for m in range(tb.prior_means.shape[0]):
        total = tb.prior_offset[m]
        for i in range(69):
            s.away[i] = x[3 + i] - tb.prior_means[m, i]
        whiten = tb.prior_whiten[m]
        # From the last row up: the short rows first, so that a higher cost is found early.
        for i in range(68, -1, -1):
            z = x.dtype.type(0)
            for j in range(i, 69):
                z += whiten[i, j] * s.away[j]
            total += half * z * z
            if not total < best:
                break
        if total < best:
            best, component = total, m
    return best, component


@machine_code
def linearise(
    tb: np.record,
    blend: np.ndarray,
    weights: Weights,
    problem: Problem,
    x: np.ndarray,
    component: int,
    s: np.record,
) -> None:
    """Half the gradient and half the positive curvature, into `s`, where `cost` has just been called."""
    for i in range(PARAMETERS):
        s.gradient[i] = 0
        for j in range(i & ~7, STRIDE):
            s.curvature[i, j] = 0
    turn_axes(tb, x, s)
    if blend.shape[0] > 0:
        for c in range(207):
            s.by_feature[c] = 0
    mass3d = x.dtype.type(0)
    if problem.joints3d_m.shape[0] > 0:
        for i in range(3):
            for a in range(STRIDE):
                s.sum3d[i, a] = 0
        mass3d = mean_joint3d(tb, problem, s)
    filled = 0
    for order in range(44):
        p = tb.point_order[order]
        if s.seen[p]:
            count = differentiate_point(tb, p, s)
            for v in range(problem.keypoints_px.shape[0]):
                filled = add_view(tb, blend, weights, problem, v, p, count, filled, x, s)
            for joint in range(problem.joints3d_m.shape[0]):
                if problem.joints3d_m[joint, 3] > 0 and tb.point_of_keypoint[_SUPERSET + joint] == p:
                    filled = add_joint3d(tb, blend, weights, problem, joint, p, count, filled, s)
            forget_point(count, s)
    if filled > 0:
        multiply_rows(filled, s)
    if mass3d > 0:
        take_mean_of_joints3d(weights, mass3d, s)
    if blend.shape[0] > 0:
        add_pose_blend(x, s)
    add_priors(tb, weights, problem, x, component, s)


@machine_code
def multiply_rows(filled: int, s: np.record) -> None:
    """Adds Σ rowᵀ row of the waiting rows to the curvature's upper triangle, where they are not zero; then none waits.

    Four rows at a time, so that an element of the curvature is read and written once for four products.
    """
    r = s.rows
    for i in range(filled, ROWS):
        for b in range(STRIDE):
            r[i, b] = 0
    for k in range(24):
        if s.touching[k]:
            s.touching[k] = 0
            for a in range(3 * k, 3 * k + 3):
                f0, f1, f2, f3 = r[0, a], r[1, a], r[2, a], r[3, a]
                for b in range(a & ~7, STRIDE):
                    s.curvature[a, b] += f0 * r[0, b] + f1 * r[1, b] + f2 * r[2, b] + f3 * r[3, b]
    for a in range(72, PARAMETERS):
        f0, f1, f2, f3 = r[0, a], r[1, a], r[2, a], r[3, a]
        for b in range(72, STRIDE):
            s.curvature[a, b] += f0 * r[0, b] + f1 * r[1, b] + f2 * r[2, b] + f3 * r[3, b]


@machine_code
def add_view(
    tb: np.record,
    blend: np.ndarray,
    weights: Weights,
    problem: Problem,
    v: int,
    p: int,
    count: int,
    filled: int,
    x: np.ndarray,
    s: np.record,
) -> int:
    """What one view adds for point p: each residual r with weight w = c σ² / (σ² + r²), its gradient w² r.

    Takes and returns the number of rows that wait to be multiplied.
    """
    r, t = problem.view_rotation[v], problem.view_translation_m[v]
    focal = problem.focal_px[v]
    qx, qy, qz = s.point[p, 0] + x[82], s.point[p, 1] + x[83], s.point[p, 2] + x[84]
    px = r[0, 0] * qx + r[0, 1] * qy + r[0, 2] * qz + t[0]
    py = r[1, 0] * qx + r[1, 1] * qy + r[1, 2] * qz + t[1]
    z = r[2, 0] * qx + r[2, 1] * qy + r[2, 2] * qz + t[2]
    u = focal * px / z + problem.principal_px[v, 0]
    w = focal * py / z + problem.principal_px[v, 1]
    zero = x.dtype.type(0)
    wx, wy, gx, gy = zero, zero, zero, zero
    sigma2 = weights.sigma2_px2
    for keypoint in range(49):
        confidence = problem.keypoints_px[v, keypoint, 2]
        if tb.point_of_keypoint[keypoint] == p and confidence > 0:
            dx, dy = u - problem.keypoints_px[v, keypoint, 0], w - problem.keypoints_px[v, keypoint, 1]
            ax, ay = confidence * sigma2 / (sigma2 + dx * dx), confidence * sigma2 / (sigma2 + dy * dy)
            wx, wy = wx + ax * ax, wy + ay * ay
            gx, gy = gx + ax * ax * dx, gy + ay * ay * dy
    if wx == 0 or wy == 0:
        return filled
    # d(pixel) = f / z (dX - (X / z) dZ), the view's axes turned back into the body's
    slope = focal / z
    lean_x, lean_y = px / z, py / z
    ux, vx = slope * (r[0, 0] - lean_x * r[2, 0]), slope * (r[1, 0] - lean_y * r[2, 0])
    uy, vy = slope * (r[0, 1] - lean_x * r[2, 1]), slope * (r[1, 1] - lean_y * r[2, 1])
    uz, vz = slope * (r[0, 2] - lean_x * r[2, 2]), slope * (r[1, 2] - lean_y * r[2, 2])
    if blend.shape[0] > 0:
        pull_feature(tb, blend, p, gx * ux + gy * vx, gx * uy + gy * vy, gx * uz + gy * vz, s)
    root = np.sqrt(wx)
    filled = push_row(root * ux, root * uy, root * uz, True, gx / root, count, filled, s)
    root = np.sqrt(wy)
    return push_row(root * vx, root * vy, root * vz, True, gy / root, count, filled, s)


@machine_code
def push_row(ux: float, uy: float, uz: float, moves: bool, pull: float, count: int, filled: int, s: np.record) -> int:
    """A residual whose derivative by the current point is u: its row joins those that wait, and its gradient is added."""
    row, d = s.rows[filled], s.by_parameter
    for a in range(STRIDE):
        row[a] = ux * d[0, a] + uy * d[1, a] + uz * d[2, a]
    if moves:  # with the body's translation
        row[_CAMERA], row[_CAMERA + 1], row[_CAMERA + 2] = ux, uy, uz
    for a in range(STRIDE):
        s.gradient[a] += pull * row[a]
    for entry in range(count):
        s.touching[s.active[entry]] = 1
    filled += 1
    if filled == ROWS:
        multiply_rows(filled, s)
        filled = 0
    return filled


@machine_code
def mean_joint3d(tb: np.record, problem: Problem, s: np.record) -> float:
    """Weight of all 3D joints; their mean offset from the body's goes where no parameter is: `sum3d[:, 85]`."""
    mass = s.point.dtype.type(0)
    for joint in range(problem.joints3d_m.shape[0]):
        w = problem.joints3d_m[joint, 3]
        if w > 0:
            p = tb.point_of_keypoint[_SUPERSET + joint]
            for i in range(3):
                s.sum3d[i, PARAMETERS] += w * w * (s.point[p, i] - problem.joints3d_m[joint, i])
            mass += w * w
    if mass > 0:
        for i in range(3):
            s.sum3d[i, PARAMETERS] /= mass
    return mass


@machine_code
def add_joint3d(
    tb: np.record,
    blend: np.ndarray,
    weights: Weights,
    problem: Problem,
    joint: int,
    p: int,
    count: int,
    filled: int,
    s: np.record,
) -> int:
    """A joint's three residuals; see `add_view`."""
    d = s.by_parameter
    confidence = problem.joints3d_m[joint, 3]
    w = weights.joints3d * confidence * confidence
    ex = s.point[p, 0] - problem.joints3d_m[joint, 0] - s.sum3d[0, PARAMETERS]
    ey = s.point[p, 1] - problem.joints3d_m[joint, 1] - s.sum3d[1, PARAMETERS]
    ez = s.point[p, 2] - problem.joints3d_m[joint, 2] - s.sum3d[2, PARAMETERS]
    for i in range(3):
        for a in range(_CAMERA):
            s.sum3d[i, a] += confidence * confidence * d[i, a]
    if blend.shape[0] > 0:
        pull_feature(tb, blend, p, w * ex, w * ey, w * ez, s)
    root, zero = np.sqrt(w), s.point.dtype.type(0)
    filled = push_row(root, zero, zero, False, root * ex, count, filled, s)
    filled = push_row(zero, root, zero, False, root * ey, count, filled, s)
    return push_row(zero, zero, root, False, root * ez, count, filled, s)


@machine_code
def take_mean_of_joints3d(weights: Weights, mass: float, s: np.record) -> None:
    """The joints' common movement costs nothing: Σ w JᵀJ - (Σ w J)ᵀ(Σ w J) / Σ w."""
    for i in range(3):
        row = s.sum3d[i]
        row[PARAMETERS] = 0
        for a in range(_CAMERA):
            f = weights.joints3d / mass * row[a]
            if f != 0:
                for b in range(a & ~7, STRIDE):
                    s.curvature[a, b] -= f * row[b]


@machine_code
def pull_feature(tb: np.record, blend: np.ndarray, p: int, ax: float, ay: float, az: float, s: np.record) -> None:
    """Carries the gradient by point p on to the pose blend shapes' feature."""
    for n in range(tb.pair_start[p], tb.pair_start[p + 1]):
        if n >= 24:
            g = s.turned[tb.pair_bone[n]]
            bx = g[0, 0] * ax + g[1, 0] * ay + g[2, 0] * az
            by = g[0, 1] * ax + g[1, 1] * ay + g[2, 1] * az
            bz = g[0, 2] * ax + g[1, 2] * ay + g[2, 2] * az
            table = blend[n]
            for c in range(207):
                s.by_feature[c] += bx * table[0, c] + by * table[1, c] + bz * table[2, c]


@machine_code
def add_pose_blend(x: np.ndarray, s: np.record) -> None:
    """Gradient through the pose blend shapes, exact; their curvature is left out, which only costs iterations.

    With F = ∂/∂R of joint k and dR/dθ_i = skew(L e_i) R: the gradient is Σ_i (L e_i) · axial(F Rᵀ).
    """
    for k in range(1, 24):
        r = s.rotation[k]
        f = s.by_feature[9 * (k - 1) : 9 * k]
        m = s.left
        for i in range(3):
            for j in range(3):
                m[i, j] = f[3 * i] * r[j, 0] + f[3 * i + 1] * r[j, 1] + f[3 * i + 2] * r[j, 2]
        tx, ty, tz = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
        # Lᵀ τ = τ - b a × τ + c a × (a × τ)
        b, c = s.series[k, 0], s.series[k, 1]
        ax, ay, az = x[3 * k], x[3 * k + 1], x[3 * k + 2]
        ux, uy, uz = ay * tz - az * ty, az * tx - ax * tz, ax * ty - ay * tx
        s.gradient[3 * k] += tx - b * ux + c * (ay * uz - az * uy)
        s.gradient[3 * k + 1] += ty - b * uy + c * (az * ux - ax * uz)
        s.gradient[3 * k + 2] += tz - b * uz + c * (ax * uy - ay * ux)


@machine_code
def add_priors(tb: np.record, weights: Weights, problem: Problem, x: np.ndarray, component: int, s: np.record) -> None:
    half = x.dtype.type(0.5) * problem.pose_prior
    if half > 0:
        precision = tb.prior_precision[component]
        for i in range(69):
            s.away[i] = x[3 + i] - tb.prior_means[component, i]
        for i in range(69):
            pull = x.dtype.type(0)
            for j in range(69):
                pull += precision[i, j] * s.away[j]
            s.gradient[3 + i] += half * pull
            for j in range(i, 69):
                s.curvature[3 + i, 3 + j] += half * precision[i, j]
    for i in range(4):
        a, sign = 3 + tb.bending_index[i], tb.bending_sign[i]
        squared = weights.bending_prior * np.exp(2 * sign * x[a])
        s.curvature[a, a] += squared
        s.gradient[a] += squared * sign
    for a in range(72, 82):
        s.curvature[a, a] += weights.shape_prior
        s.gradient[a] += weights.shape_prior * x[a]
    for a in range(82):
        s.curvature[a, a] += problem.anchor_precision[a]
        s.gradient[a] += problem.anchor_precision[a] * (x[a] - problem.anchor[a])
