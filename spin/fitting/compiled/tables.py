"""The arrays that the compiled solver works on: the body's, the prior's, and those of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spin.fitting.objective import BENDING_INDEX, BENDING_SIGN
from spin.joints import KEYPOINT_TO_MODEL

if TYPE_CHECKING:
    from spin.body.compact import CompactBody
    from spin.fitting.prior import PosePrior

PARAMETERS = 85  # 72 of pose, 10 betas, 3 of translation
STRIDE = 88  # of a matrix row: whole vectors of eight
ROWS = 4  # that are multiplied at a time


def tables_type(pairs: int, components: int, real: np.dtype) -> np.dtype:
    """What does not change between samples. N pairs are (point, bone) with weight, those of a point in one run.

    Records, because compiled code takes one as a single address, and knows every shape in it.
    """
    whole = np.dtype(np.int64)
    return np.dtype(
        [
            ("parents", whole, (24,)),
            (
                "bone_rest",
                real,
                (24, 3),
            ),  # each joint's rest position from its parent's, the root's from the origin
            ("bone_by_betas", real, (24, 3, 10)),
            ("pair_start", whole, (45,)),  # pairs of model point p: pair_start[p] to pair_start[p + 1]
            ("pair_bone", whole, (pairs,)),
            ("pair_weight", real, (pairs,)),  # w
            ("pair_lever", real, (pairs, 3)),  # c - w J: the pair's place about its bone, at rest
            ("pair_lever_by_betas", real, (pairs, 3, 10)),
            ("point_of_keypoint", whole, (49,)),
            (
                "point_order",
                whole,
                (44,),
            ),  # points of a limb one after another: they share the joints that move them
            ("prior_means", real, (components, 69)),
            ("prior_whiten", real, (components, 69, 69)),  # upper triangular
            ("prior_precision", real, (components, 69, 69)),
            ("prior_offset", real, (components,)),
            ("bending_index", whole, (4,)),
            ("bending_sign", real, (4,)),
        ],
        align=True,
    )


def scratch_type(pairs: int, real: np.dtype) -> np.dtype:
    """Room for one sample's computation, used again for the next."""
    flag, whole = np.dtype(np.uint8), np.dtype(np.int64)
    return np.dtype(
        [
            ("rotation", real, (24, 3, 3)),  # of each joint
            ("turned", real, (24, 3, 3)),  # G: the same, in the body's frame
            ("joint", real, (24, 3)),  # t
            ("series", real, (24, 2)),  # coefficients b and c of the left Jacobian
            ("pair", real, (pairs, 3)),  # each pair's share of its point
            ("point", real, (44, 3)),
            ("seen", flag, (44,)),  # whether a point has observations
            ("needed", flag, (24,)),  # whether a joint moves a seen point
            ("away", real, (69,)),  # from a prior component's mean
            ("left", real, (3, 3)),  # a left Jacobian
            ("axes", real, (24, 3, 3)),  # columns: what each parameter of a joint turns about
            ("joint_by_betas", real, (24, 3, 10)),
            ("below", real, (24, 4)),  # a point's share below each joint: position and weight
            ("touched", flag, (24,)),  # joints that move the current point, as flags
            ("active", whole, (24,)),  # and as a list
            ("by_parameter", real, (3, STRIDE)),  # derivative of a point
            ("rows", real, (ROWS, STRIDE)),  # weighted derivatives that wait to be multiplied
            ("touching", flag, (24,)),  # joints that they are not zero at
            ("sum3d", real, (3, STRIDE)),
            ("by_feature", real, (207,)),  # gradient by the pose blend shapes' feature
            ("curvature", real, (STRIDE, STRIDE)),  # upper triangle
            ("factor", real, (STRIDE, STRIDE)),
            ("gradient", real, (STRIDE,)),
            ("right", real, (STRIDE,)),  # right-hand side of a step with pinned betas
            ("target", real, (STRIDE,)),  # and where those are taken
        ],
        align=True,
    )


class Body(NamedTuple):
    """A body and a prior in the form that the compiled code needs."""

    tables: np.ndarray  # (1,) of tables_type
    blend: np.ndarray  # (N, 3, 207) change of each pair by SMPL's pose blend shapes; (0, 3, 207) without them

    @property
    def real(self) -> np.dtype:
        return self.blend.dtype


class Weights(NamedTuple):
    """Weights of the objective's terms, squared where the objective squares them."""

    sigma2_px2: float
    bending_prior: float
    shape_prior: float
    joints3d: float


class Problem(NamedTuple):
    """One sample, as views of a call's arrays. V views; a term without weight costs nothing."""

    keypoints_px: np.ndarray  # (V, 49, 3) positions, and weights in the body term
    view_rotation: np.ndarray  # (V, 3, 3)
    view_translation_m: np.ndarray  # (V, 3)
    focal_px: np.ndarray  # (V,)
    principal_px: np.ndarray  # (V, 2)
    joints3d_m: np.ndarray  # (24, 4), or (0, 4)
    anchor: np.ndarray  # (82,) pose and betas that the fit is held to
    anchor_precision: np.ndarray  # (82,)
    pose_prior: float  # its weight


def make_body(body: CompactBody, prior: PosePrior) -> Body:
    """Tables of a body and a prior, in the body's precision."""
    dtype = body.rest_joints.numpy().dtype
    rest, by_betas = body.rest_joints.numpy(), body.rest_joints_by_betas.numpy()
    parents = np.array(body.parents, np.int64)
    bone_rest, bone_by_betas = rest.copy(), by_betas.copy()
    bone_rest[1:] -= rest[parents[1:]]
    bone_by_betas[1:] -= by_betas[parents[1:]]

    point, pair = body.gather.numpy().nonzero()  # regressed points follow the 24 joints
    bone, weight = body.pair_bone.numpy()[pair], body.pair_weight.numpy()[pair]
    lever = body.pair_rest.numpy()[pair] - weight[:, None] * rest[bone]
    lever_by_betas = body.pair_rest_by_betas.numpy()[pair] - weight[:, None, None] * by_betas[bone]
    blend = (
        np.concatenate([np.zeros((24, 3, 207), dtype), body.pair_rest_by_feature.numpy()[pair]])
        if body.has_pose_blend
        else np.zeros((0, 3, 207), dtype)
    )
    counts = np.concatenate([np.ones(24, np.int64), np.bincount(point, minlength=body.points - 24)])
    tables = np.zeros(1, tables_type(24 + len(bone), len(prior.means), dtype))
    arrays = dict(
        parents=parents,
        bone_rest=bone_rest,
        bone_by_betas=bone_by_betas,
        pair_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        # A joint is a pair of its own: weight one, no lever.
        pair_bone=np.concatenate([np.arange(24), bone]).astype(np.int64),
        pair_weight=np.concatenate([np.ones(24, dtype), weight]),
        pair_lever=np.concatenate([np.zeros((24, 3), dtype), lever]),
        pair_lever_by_betas=np.concatenate([np.zeros((24, 3, 10), dtype), lever_by_betas]),
        point_of_keypoint=np.array(KEYPOINT_TO_MODEL, np.int64),
        point_order=_by_limb(parents, np.concatenate([np.arange(24), bone]), counts),
        prior_means=prior.means.numpy().astype(dtype),
        prior_whiten=prior.whiten.numpy().astype(dtype),
        prior_precision=prior.precision.numpy().astype(dtype),
        prior_offset=prior.offset.numpy().astype(dtype),
        bending_index=np.array(BENDING_INDEX, np.int64),
        bending_sign=np.array(BENDING_SIGN, dtype),
    )
    for name, array in arrays.items():
        tables[0][name] = array
    return Body(tables, np.ascontiguousarray(blend))


def _by_limb(parents: np.ndarray, pair_bone: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Points sorted by the longest chain of joints above them."""
    chains = []
    for bones in np.split(pair_bone, np.cumsum(counts)[:-1]):
        paths = []
        for joint in bones.tolist():
            path = []
            while joint >= 0:
                path.append(joint)
                joint = int(parents[joint])
            paths.append(path[::-1])
        chains.append(max(paths, key=len))
    return np.array(sorted(range(len(chains)), key=lambda point: chains[point]), np.int64)


def make_scratch(body: Body) -> np.ndarray:
    """Scratch for one thread (1,)."""
    return np.zeros(1, scratch_type(body.tables.dtype["pair_bone"].shape[0], body.real))
