"""Points of a posed body, and the derivative of one point by every parameter (see `spin.body.compact` for the algebra)."""

from __future__ import annotations

import numpy as np

from spin.fitting.compiled.machine_code import machine_code

_SMALL_SQUARED = 1e-4  # of an angle: below, series instead of closed forms (spin.rotations)


@machine_code
def rotate_joint(x: np.ndarray, k: int, s: np.record) -> None:
    """Rodrigues' rotation of joint k, and what its left Jacobian needs."""
    one = x.dtype.type(1)
    ax, ay, az = x[3 * k], x[3 * k + 1], x[3 * k + 2]
    t2 = ax * ax + ay * ay + az * az
    if t2 < _SMALL_SQUARED:
        a = one - t2 / 6 + t2 * t2 / 120
        b = one / 2 - t2 / 24 + t2 * t2 / 720
        c = one / 6 - t2 / 120 + t2 * t2 / 5040
    else:
        t = np.sqrt(t2)
        sine, cosine = np.sin(t), np.cos(t)
        a, b, c = sine / t, (one - cosine) / t2, (t - sine) / (t2 * t)
    r = s.rotation[k]
    r[0, 0], r[0, 1], r[0, 2] = one - b * (ay * ay + az * az), b * ax * ay - a * az, b * ax * az + a * ay
    r[1, 0], r[1, 1], r[1, 2] = b * ax * ay + a * az, one - b * (ax * ax + az * az), b * ay * az - a * ax
    r[2, 0], r[2, 1], r[2, 2] = b * ax * az - a * ay, b * ay * az + a * ax, one - b * (ax * ax + ay * ay)
    s.series[k, 0], s.series[k, 1] = b, c


# Loops instead of slices throughout: NumPy's own assignments take seconds to compile.
@machine_code
def copy_matrix(a: np.ndarray, out: np.ndarray) -> None:
    for i in range(3):
        for j in range(3):
            out[i, j] = a[i, j]


@machine_code
def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    for i in range(3):
        for j in range(3):
            out[i, j] = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j]


@machine_code
def pose_points(tb: np.record, blend: np.ndarray, x: np.ndarray, s: np.record) -> None:
    """Joints that are needed, and points that are seen, at parameters x (85)."""
    betas = x[72:82]
    for k in range(24):
        if s.needed[k] or blend.shape[0] > 0:
            rotate_joint(x, k, s)
        if not s.needed[k]:
            continue
        parent = tb.parents[k]
        ox, oy, oz = tb.bone_rest[k, 0], tb.bone_rest[k, 1], tb.bone_rest[k, 2]
        for b in range(10):
            ox += tb.bone_by_betas[k, 0, b] * betas[b]
            oy += tb.bone_by_betas[k, 1, b] * betas[b]
            oz += tb.bone_by_betas[k, 2, b] * betas[b]
        if k == 0:
            copy_matrix(s.rotation[0], s.turned[0])
            s.joint[0, 0], s.joint[0, 1], s.joint[0, 2] = ox, oy, oz
            continue
        g = s.turned[parent]
        for i in range(3):
            s.joint[k, i] = s.joint[parent, i] + g[i, 0] * ox + g[i, 1] * oy + g[i, 2] * oz
        multiply(g, s.rotation[k], s.turned[k])
    for p in range(44):
        if not s.seen[p]:
            continue
        for i in range(3):
            s.point[p, i] = 0
        for n in range(tb.pair_start[p], tb.pair_start[p + 1]):
            place_pair(tb, blend, n, betas, s)
            for i in range(3):
                s.point[p, i] += s.pair[n, i]


@machine_code
def place_pair(tb: np.record, blend: np.ndarray, n: int, betas: np.ndarray, s: np.record) -> None:
    """A pair's share of its point: G (c - w J) + w t."""
    bone, weight = tb.pair_bone[n], tb.pair_weight[n]
    if n < 24:  # a joint itself
        for i in range(3):
            s.pair[n, i] = s.joint[bone, i]
        return
    lx, ly, lz = tb.pair_lever[n, 0], tb.pair_lever[n, 1], tb.pair_lever[n, 2]
    for b in range(10):
        lx += tb.pair_lever_by_betas[n, 0, b] * betas[b]
        ly += tb.pair_lever_by_betas[n, 1, b] * betas[b]
        lz += tb.pair_lever_by_betas[n, 2, b] * betas[b]
    if blend.shape[0] > 0:
        for k in range(1, 24):
            for i in range(3):
                for j in range(3):
                    feature = s.rotation[k, i, j] - (1 if i == j else 0)
                    column = 9 * (k - 1) + 3 * i + j
                    lx += blend[n, 0, column] * feature
                    ly += blend[n, 1, column] * feature
                    lz += blend[n, 2, column] * feature
    g = s.turned[bone]
    for i in range(3):
        s.pair[n, i] = g[i, 0] * lx + g[i, 1] * ly + g[i, 2] * lz + weight * s.joint[bone, i]


@machine_code
def turn_axes(tb: np.record, x: np.ndarray, s: np.record) -> None:
    """World axes of each joint's three parameters (G_parent L), and the derivative of joints by betas."""
    left = s.left
    for k in range(24):
        if not s.needed[k]:
            continue
        b, c = s.series[k, 0], s.series[k, 1]
        ax, ay, az = x[3 * k], x[3 * k + 1], x[3 * k + 2]
        t2 = ax * ax + ay * ay + az * az
        left[0, 0], left[0, 1], left[0, 2] = (
            1 + c * (ax * ax - t2),
            c * ax * ay - b * az,
            c * ax * az + b * ay,
        )
        left[1, 0], left[1, 1], left[1, 2] = (
            c * ax * ay + b * az,
            1 + c * (ay * ay - t2),
            c * ay * az - b * ax,
        )
        left[2, 0], left[2, 1], left[2, 2] = (
            c * ax * az - b * ay,
            c * ay * az + b * ax,
            1 + c * (az * az - t2),
        )
        if k == 0:
            copy_matrix(left, s.axes[0])
            for i in range(3):
                for m in range(10):
                    s.joint_by_betas[0, i, m] = tb.bone_by_betas[0, i, m]
            continue
        parent = tb.parents[k]
        g = s.turned[parent]
        multiply(g, left, s.axes[k])
        for i in range(3):
            for m in range(10):
                s.joint_by_betas[k, i, m] = (
                    s.joint_by_betas[parent, i, m]
                    + g[i, 0] * tb.bone_by_betas[k, 0, m]
                    + g[i, 1] * tb.bone_by_betas[k, 1, m]
                    + g[i, 2] * tb.bone_by_betas[k, 2, m]
                )


@machine_code
def differentiate_point(tb: np.record, p: int, s: np.record) -> int:
    """Derivative of point p by pose and betas, in `s.by_parameter`; joints that move it, in `s.active`, and their number.

    The columns of other joints are left as they are: zero.
    """
    below, out, count = s.below, s.by_parameter, 0
    for i in range(3):
        for m in range(72, 82):
            out[i, m] = 0
    for n in range(tb.pair_start[p], tb.pair_start[p + 1]):
        bone, weight = tb.pair_bone[n], tb.pair_weight[n]
        k = bone
        while k >= 0:
            if not s.touched[k]:
                s.touched[k] = True
                s.active[count] = k
                count += 1
            below[k, 0] += s.pair[n, 0]
            below[k, 1] += s.pair[n, 1]
            below[k, 2] += s.pair[n, 2]
            below[k, 3] += weight
            k = tb.parents[k]
        g = s.turned[bone]
        for i in range(3):
            if n < 24:
                for m in range(10):
                    out[i, 72 + m] += s.joint_by_betas[bone, i, m]
            else:
                for m in range(10):
                    out[i, 72 + m] += (
                        g[i, 0] * tb.pair_lever_by_betas[n, 0, m]
                        + g[i, 1] * tb.pair_lever_by_betas[n, 1, m]
                        + g[i, 2] * tb.pair_lever_by_betas[n, 2, m]
                        + weight * s.joint_by_betas[bone, i, m]
                    )
    for entry in range(count):
        k = s.active[entry]
        weight = below[k, 3]
        lx = below[k, 0] - weight * s.joint[k, 0]
        ly = below[k, 1] - weight * s.joint[k, 1]
        lz = below[k, 2] - weight * s.joint[k, 2]
        for m in range(3):
            ax, ay, az = s.axes[k, 0, m], s.axes[k, 1, m], s.axes[k, 2, m]
            out[0, 3 * k + m] = ay * lz - az * ly
            out[1, 3 * k + m] = az * lx - ax * lz
            out[2, 3 * k + m] = ax * ly - ay * lx
        for i in range(4):
            below[k, i] = 0
        s.touched[k] = False
    return count


@machine_code
def forget_point(count: int, s: np.record) -> None:
    """Zero again the columns that `differentiate_point` filled."""
    for entry in range(count):
        k = s.active[entry]
        for i in range(3):
            for m in range(3 * k, 3 * k + 3):
                s.by_parameter[i, m] = 0
