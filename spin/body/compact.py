"""A body as the 44 points that fitting needs, with their exact derivatives, without ever touching a vertex.

Why it is exact. A keypoint is a fixed combination of posed vertices, x_r = Σ_v R[r,v] posed_v, and linear blend skinning is
linear in the rest vertex: posed_v = Σ_j W[v,j] (G_j (rest_v - J_j) + t_j), G_j and t_j being bone j's rotation and
position, J_j its rest position (Loper et al., SMPL, SIGGRAPH Asia 2015, eq. 2-4). Exchanging the sums,

    x_r = Σ_j  G_j (c_rj - w_rj J_j) + w_rj t_j,        w_rj = Σ_v R[r,v] W[v,j]
    c_rj = Σ_v R[r,v] W[v,j] (template_v + shapedirs_v β + posedirs_v f(θ))

so a handful of small tables, one per (keypoint, bone) pair with weight, replaces the mesh.

Derivatives. Joint k's axis-angle turns everything that hangs below it about the world axis ω_k (a column of
G_parent(k) L(θ_k), L the left Jacobian) through t_k; a point x of weight w below it moves by ω_k × (x - w t_k).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from spin.joints import KEYPOINT_TO_MODEL
from spin.rotations import axis_angle_to_matrix, matrix_and_left_jacobian, skew

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from spin.body.model_file import BodyData

_NEGLIGIBLE = 1e-9  # weights of a (keypoint, bone) pair below this move a keypoint by less than a nanometre


@dataclass(frozen=True)
class PointsJacobian:
    """Points (m) and their derivatives by pose (m/rad) and betas (m)."""

    points_m: Float[Tensor, "B P 3"]
    by_pose: Float[Tensor, "B P 3 72"]
    by_betas: Float[Tensor, "B P 3 10"]


@dataclass(frozen=True)
class _Posed:
    """What the forward pass leaves for the derivatives. N is the number of (keypoint, bone) pairs."""

    joints: Tensor  # (B, 24, 3) posed joints t
    global_rotations: Tensor  # (B, 24, 3, 3) G
    pairs: Tensor  # (B, N, 3) each pair's share of its keypoint


class CompactBody(nn.Module):
    """24 kinematic joints, then the regressed points: 11 of face and feet and SPIN's nine (spin.joints.MODEL_POINTS)."""

    rest_joints: Tensor  # (24, 3)
    rest_joints_by_betas: Tensor  # (24, 3, 10)
    pair_weight: Tensor  # (N,) w
    pair_rest: Tensor  # (N, 3) c of the mean shape
    pair_rest_by_betas: Tensor  # (N, 3, 10)
    pair_rest_by_feature: Tensor  # (N, 3, 207), only where the body has pose blend shapes
    pair_bone: Tensor  # (N,)
    gather: Tensor  # (R, N): 1 where a pair belongs to a regressed point
    below: Tensor  # (24, 24): [k, j] = 1 where joint j hangs below joint k, or is it

    def __init__(self, body: BodyData, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.parents = body.parents
        self.levels, self.in_order = _levels(body.parents)
        regressor = np.concatenate([np.eye(len(body.v_template))[body.keypoint_vertices], body.extra_regressor])
        weighted = np.einsum("rv,vj->rjv", regressor, body.skin_weights)
        self.points = 24 + len(regressor)
        row, bone = np.nonzero(np.abs(weighted).max(-1) > _NEGLIGIBLE)
        tables = {
            "rest_joints": body.joint_regressor @ body.v_template,
            "rest_joints_by_betas": np.einsum("jv,vck->jck", body.joint_regressor, body.shapedirs),
            "pair_weight": weighted[row, bone].sum(-1),
            "pair_rest": weighted[row, bone] @ body.v_template,
            "pair_rest_by_betas": np.einsum("nv,vck->nck", weighted[row, bone], body.shapedirs),
        }
        if body.posedirs is not None and np.any(body.posedirs):
            tables["pair_rest_by_feature"] = np.einsum("nv,vcf->ncf", weighted[row, bone], body.posedirs)
        for name, table in tables.items():
            self.register_buffer(name, torch.as_tensor(table, dtype=dtype))
        self.has_pose_blend = "pair_rest_by_feature" in tables
        self.register_buffer("pair_bone", torch.as_tensor(bone))
        self.register_buffer("gather", torch.as_tensor(np.eye(len(regressor))[:, row], dtype=dtype))
        self.register_buffer("below", torch.as_tensor(_descendants(body.parents), dtype=dtype))

    # ---- points -----------------------------------------------------------------------------------------------------

    def forward(self, pose_aa: Float[Tensor, "B 72"], betas: Float[Tensor, "B 10"]) -> Float[Tensor, "B 44 3"]:
        """The points in the body's own frame; differentiable."""
        return self.from_rotations(axis_angle_to_matrix(pose_aa.reshape(-1, 24, 3)), betas)

    def from_rotations(self, rotations: Float[Tensor, "B 24 3 3"], betas: Float[Tensor, "B 10"]) -> Float[Tensor, "B 44 3"]:
        posed = self._pose(rotations, betas)
        return torch.cat([posed.joints, self.gather @ posed.pairs], 1)

    def keypoints(self, points_m: Float[Tensor, "B 44 3"]) -> Float[Tensor, "B 49 3"]:
        """The 49 keypoints, several of which are the same point of the model."""
        return points_m[:, list(KEYPOINT_TO_MODEL)]

    def global_rotations(self, rotations: Float[Tensor, "B 24 3 3"]) -> Float[Tensor, "B 24 3 3"]:
        """Every joint's rotation in the body's frame: the product along its chain."""
        turned = [rotations[:, :1]]
        for level in self.levels:
            turned.append(turned[-1][:, level.parents] @ rotations[:, level.joints])
        return torch.cat(turned, 1)[:, self.in_order]

    def local_rotations(self, global_rotations: Float[Tensor, "B 24 3 3"]) -> Float[Tensor, "B 24 3 3"]:
        """Each joint's rotation in its parent's frame: the pose."""
        above = global_rotations[:, [max(p, 0) for p in self.parents]]
        local = above.transpose(-1, -2) @ global_rotations
        return torch.cat([global_rotations[:, :1], local[:, 1:]], 1)

    def from_global_rotations(
        self, global_rotations: Float[Tensor, "B 24 3 3"], betas: Float[Tensor, "B 10"]
    ) -> Float[Tensor, "B 44 3"]:
        """The points, of rotations in the body's frame: linear in them, without a chain to follow."""
        rotations = self.local_rotations(global_rotations) if self.has_pose_blend else None
        posed = self._place(global_rotations, rotations, betas)
        return torch.cat([posed.joints, self.gather @ posed.pairs], 1)

    def _pose(self, rotations: Tensor, betas: Tensor) -> _Posed:
        return self._place(self.global_rotations(rotations), rotations, betas)

    def _place(self, turned: Tensor, rotations: Tensor | None, betas: Tensor) -> _Posed:
        """Joints, each the sum of the bones on its chain, and pairs. `rotations` matter to pose blend shapes only."""
        rest = self.rest_joints + torch.einsum("jck,bk->bjc", self.rest_joints_by_betas, betas)
        above = [max(p, 0) for p in self.parents]
        bones = _turn(turned[:, above], rest - rest[:, above])
        joints = rest[:, :1] + torch.einsum("kj,bkc->bjc", self.below, bones)
        pair_rest = self.pair_rest + torch.einsum("nck,bk->bnc", self.pair_rest_by_betas, betas)
        if self.has_pose_blend and rotations is not None:
            eye = torch.eye(3, dtype=turned.dtype, device=turned.device)
            feature = (rotations[:, 1:] - eye).reshape(-1, 207)
            pair_rest = pair_rest + torch.einsum("ncf,bf->bnc", self.pair_rest_by_feature, feature)
        lever = pair_rest - self.pair_weight[:, None] * rest[:, self.pair_bone]
        pairs = _turn(turned[:, self.pair_bone], lever) + self.pair_weight[:, None] * joints[:, self.pair_bone]
        return _Posed(joints, turned, pairs)

    # ---- derivatives ------------------------------------------------------------------------------------------------

    def points_and_jacobian(
        self,
        pose_aa: Float[Tensor, "B 72"],
        betas: Float[Tensor, "B 10"],
        select: Sequence[int] | None = None,
    ) -> PointsJacobian:
        """Points and their Jacobian; with `select`, only those of the 44 (a fit to COCO's joints needs 17)."""
        chosen = list(range(self.points)) if select is None else list(select)
        rotations, left = matrix_and_left_jacobian(pose_aa.reshape(-1, 24, 3))
        posed = self._pose(rotations, betas)
        points = torch.cat([posed.joints, self.gather @ posed.pairs], 1)[:, chosen]

        parents = torch.tensor(self.parents[1:], device=pose_aa.device)
        eye = torch.eye(3, dtype=pose_aa.dtype, device=pose_aa.device).expand(len(pose_aa), 1, 3, 3)
        axes = torch.cat([eye, posed.global_rotations[:, parents]], 1) @ left  # (B, 24, 3 xyz, 3 parameters)
        weight, moved = self._share_below(posed, chosen)
        lever = moved - weight[..., None] * posed.joints[:, None]  # (B, P, 24, 3)
        # ω × lever, for each of a joint's three parameters
        by_pose = torch.linalg.cross(axes.transpose(-1, -2)[:, None], lever[:, :, :, None], dim=-1)  # (B,P,24,3,xyz)
        by_pose = by_pose.permute(0, 1, 4, 2, 3).reshape(len(pose_aa), len(chosen), 3, 72)
        if self.has_pose_blend:
            by_pose = by_pose + self._by_pose_blend(rotations, left, posed, chosen)
        return PointsJacobian(points, by_pose, self._by_betas(posed, chosen))

    def _share_below(self, posed: _Posed, chosen: list[int]) -> tuple[Tensor, Tensor]:
        """For point p and joint k: the weight of p that hangs below k (P, 24), and that share's position (B, P, 24, 3)."""
        eye = torch.eye(24, dtype=posed.joints.dtype, device=posed.joints.device)
        strictly = (self.below - eye).T  # a joint doesn't move under its own rotation
        weight_joints, moved_joints = strictly, strictly[None, :, :, None] * posed.joints[:, :, None]
        pair_below = self.below[:, self.pair_bone]  # (24, N)
        member = self.gather[:, None] * pair_below[None]  # (R, 24, N)
        weight_regressed = member @ self.pair_weight
        moved_regressed = torch.einsum("rkn,bnc->brkc", member, posed.pairs)
        weight = torch.cat([weight_joints, weight_regressed], 0)[chosen]
        return weight, torch.cat([moved_joints, moved_regressed], 1)[:, chosen]

    def _by_betas(self, posed: _Posed, chosen: list[int]) -> Tensor:
        shape = self.rest_joints_by_betas
        batch = len(posed.joints)
        joints = [shape[0].expand(batch, 3, 10)]
        for j in range(1, 24):
            p = self.parents[j]
            joints.append(joints[p] + posed.global_rotations[:, p] @ (shape[j] - shape[p]))
        by_joint = torch.stack(joints, 1)
        w = self.pair_weight[:, None, None]
        pairs = posed.global_rotations[:, self.pair_bone] @ (self.pair_rest_by_betas - w * shape[self.pair_bone])
        pairs = pairs + w * by_joint[:, self.pair_bone]
        return torch.cat([by_joint, torch.einsum("rn,bnck->brck", self.gather, pairs)], 1)[:, chosen]

    def _by_pose_blend(self, rotations: Tensor, left: Tensor, posed: _Posed, chosen: list[int]) -> Tensor:
        """Through SMPL's pose blend shapes, whose feature is R(θ_k) - I of the 23 body joints."""
        batch = len(rotations)
        # dR/dθ_i = skew(L e_i) R
        by_angle = (skew(left.transpose(-1, -2)) @ rotations[:, :, None])[:, 1:].reshape(batch, 23, 3, 9)
        table = self.pair_rest_by_feature.view(-1, 3, 23, 9)
        rest = torch.einsum("ncke,bkie->bncki", table, by_angle).reshape(batch, -1, 3, 69)
        moved = posed.global_rotations[:, self.pair_bone] @ rest
        out = torch.zeros(batch, self.points, 3, 72, dtype=rest.dtype, device=rest.device)
        out[:, 24:, :, 3:] = torch.einsum("rn,bnxz->brxz", self.gather, moved)
        return out[:, chosen]


def _turn(rotations: Tensor, points: Tensor) -> Tensor:
    """R p, for many small R: a sum of products is quicker than a batch of tiny matrix products."""
    return (rotations * points[..., None, :]).sum(-1)


@dataclass(frozen=True)
class _Level:
    """Joints equally far from the root: they are posed together. `parents` are places in the level above."""

    joints: list[int]
    parents: list[int]


def _levels(parents: Sequence[int]) -> tuple[list[_Level], list[int]]:
    """All levels below the root, and where in their concatenation each joint is."""
    levels, above = [], [0]
    order = [0]
    while joints := [j for j in range(len(parents)) if parents[j] in above]:
        levels.append(_Level(joints, [above.index(parents[j]) for j in joints]))
        order += joints
        above = joints
    return levels, [order.index(j) for j in range(len(parents))]


def _descendants(parents: Sequence[int]) -> np.ndarray:
    """[k, j] = 1 where joint j hangs below joint k, or is it."""
    below = np.zeros((24, 24))
    for j in range(24):
        k = j
        while k >= 0:
            below[k, j] = 1
            k = parents[k]
    return below
