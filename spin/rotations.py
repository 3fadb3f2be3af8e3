"""Rotations of joints: axis-angle, matrices, and the six numbers a network predicts. Angles in radians.

The conversions are exact and differentiable everywhere they are used: at zero (series instead of a division) and close
to a half turn (where the published code needed its NaNs patched).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.joints import mirror_permutation_of_pose

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# Below this squared angle the closed forms lose digits; the series used instead are exact to the last bit there.
_SMALL_SQUARED = 1e-4


def skew(v: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """The matrix K with K x = v × x."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*v.shape[:-1], 3, 3)


def _coefficients(axis_angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin t / t, (1 - cos t) / t² and (t - sin t) / t³ for the angle t, each finite and smooth at t = 0."""
    t2 = (axis_angle * axis_angle).sum(-1)
    small = t2 < _SMALL_SQUARED
    safe = torch.where(small, torch.ones_like(t2), t2)
    t = safe.sqrt()
    sine, cosine = t.sin(), t.cos()
    a = torch.where(small, 1 - t2 / 6 + t2 * t2 / 120, sine / t)
    b = torch.where(small, 0.5 - t2 / 24 + t2 * t2 / 720, (1 - cosine) / safe)
    c = torch.where(small, 1 / 6 - t2 / 120 + t2 * t2 / 5040, (t - sine) / (safe * t))
    return a[..., None, None], b[..., None, None], c[..., None, None]


def axis_angle_to_matrix(axis_angle: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rodrigues' formula."""
    a, b, _ = _coefficients(axis_angle)
    k = skew(axis_angle)
    return torch.eye(3, dtype=k.dtype, device=k.device) + a * k + b * (k @ k)


def matrix_and_left_jacobian(axis_angle: Float[Tensor, "*b 3"]) -> tuple[Tensor, Tensor]:
    """The rotation R and its left Jacobian L, both (*b, 3, 3): R(a + da) = (I + skew(L da)) R(a), to first order."""
    a, b, c = _coefficients(axis_angle)
    k = skew(axis_angle)
    kk = k @ k
    eye = torch.eye(3, dtype=k.dtype, device=k.device)
    return eye + a * k + b * kk, eye + b * k + c * kk


def matrix_to_axis_angle(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """The axis-angle of a rotation matrix, of length 0 to pi, through the quaternion with the best-conditioned pivot."""
    m = matrix.reshape(-1, 9)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m.unbind(-1)
    trace = m00 + m11 + m22
    candidates = torch.stack(
        [
            torch.stack([1 + trace, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m01 + m10, m02 + m20], -1),
            torch.stack([m02 - m20, m01 + m10, 1 - m00 + m11 - m22, m12 + m21], -1),
            torch.stack([m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22], -1),
        ],
        1,
    )
    pivot = torch.stack([trace, m00, m11, m22], -1).argmax(-1)
    q = candidates[torch.arange(len(m), device=m.device), pivot]
    q = torch.nn.functional.normalize(q, dim=-1)
    q = torch.where(q[:, :1] < 0, -q, q)
    w, xyz = q[:, :1], q[:, 1:]
    sine2 = (xyz * xyz).sum(-1, keepdim=True)
    small = sine2 < 1e-12
    sine = torch.where(small, torch.ones_like(sine2), sine2).sqrt()
    # half angle / sine tends to 1 at the identity, where the axis is undefined but the vector is not
    factor = torch.where(small, 2 / w.clamp_min(0.5), 2 * torch.atan2(sine, w) / sine)
    return (xyz * factor).reshape(*matrix.shape[:-2], 3)


def rot6d_to_matrix(x: Float[Tensor, "*b 6"]) -> Float[Tensor, "*b 3 3"]:
    """Six numbers, read as a (3, 2) matrix of two columns, made orthonormal (Zhou et al., CVPR 2019)."""
    first, second = x.reshape(*x.shape[:-1], 3, 2).unbind(-1)
    b1 = torch.nn.functional.normalize(first, dim=-1)
    b2 = torch.nn.functional.normalize(second - (b1 * second).sum(-1, keepdim=True) * b1, dim=-1)
    return torch.stack([b1, b2, torch.linalg.cross(b1, b2)], -1)


def matrix_to_rot6d(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 6"]:
    """The first two columns, laid out as `rot6d_to_matrix` reads them."""
    return matrix[..., :2].reshape(*matrix.shape[:-2], 6)


def mirror_pose(pose_aa: Float[Tensor, "b 72"]) -> Float[Tensor, "b 72"]:
    """The pose seen in a mirror across x = 0: left and right joints swap, y and z of every axis-angle change sign."""
    permutation = torch.as_tensor(mirror_permutation_of_pose(), device=pose_aa.device)
    sign = torch.tensor([1.0, -1.0, -1.0], dtype=pose_aa.dtype, device=pose_aa.device).repeat(24)
    return pose_aa[..., permutation] * sign


def in_plane(angle_deg: Float[Tensor, " b"]) -> Float[Tensor, "b 3 3"]:
    """Rotation about the camera's z axis that turns an image point p (y down) into R(angle) p."""
    turn = torch.zeros(len(angle_deg), 3, dtype=angle_deg.dtype, device=angle_deg.device)
    turn[:, 2] = torch.deg2rad(angle_deg)
    return axis_angle_to_matrix(turn)


def rotate_in_plane(pose_aa: Float[Tensor, "b 72"], angle_deg: Float[Tensor, " b"]) -> Float[Tensor, "b 72"]:
    """The pose with its root turned about the camera's z axis, so that its image turns by `angle_deg`."""
    root = in_plane(angle_deg) @ axis_angle_to_matrix(pose_aa[:, :3])
    return torch.cat([matrix_to_axis_angle(root), pose_aa[:, 3:]], 1)


def upright(yaw_deg: float) -> np.ndarray:
    """Root axis-angle (3,) of a person upright in a camera frame whose y points down, turned by `yaw_deg`."""
    flip = axis_angle_to_matrix(torch.tensor([np.pi, 0.0, 0.0], dtype=torch.float64))
    yaw = axis_angle_to_matrix(torch.tensor([0.0, np.deg2rad(yaw_deg), 0.0], dtype=torch.float64))
    return matrix_to_axis_angle(flip @ yaw).numpy()
