"""The full mesh of a body, posed by smplx: for pictures, per-vertex errors, and as the reference of the compact body."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import smplx
import torch
from smplx.utils import Struct
from torch import nn

from spin.joints import FACE_AND_FEET, KEYPOINT_TO_MODEL
from spin.rotations import axis_angle_to_matrix

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from spin.body.model_file import BodyData

# smplx appends finger tips too and insists on having them named; their positions are not used here.
_FINGER_TIPS = [side + tip for side in "lr" for tip in ("thumb", "index", "middle", "ring", "pinky")]


@dataclass(frozen=True)
class MeshOutput:
    """A posed mesh in the body's own frame (metres)."""

    vertices_m: Float[Tensor, "B V 3"]
    points_m: Float[Tensor, "B 44 3"]  # spin.joints.MODEL_POINTS
    joints17_m: Float[Tensor, "B 17 3"]  # Human3.6M's

    @property
    def keypoints_m(self) -> Float[Tensor, "B 49 3"]:
        return self.points_m[:, list(KEYPOINT_TO_MODEL)]


class BodyMesh(nn.Module):
    """SMPL's mesh function on the arrays of any body of its format."""

    def __init__(self, body: BodyData, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        posedirs = np.zeros((len(body.v_template), 3, 207)) if body.posedirs is None else body.posedirs
        ids = dict(zip(FACE_AND_FEET, body.keypoint_vertices.tolist())) | dict.fromkeys(_FINGER_TIPS, 0)
        arrays = Struct(
            v_template=body.v_template,
            shapedirs=body.shapedirs,
            posedirs=posedirs,
            J_regressor=body.joint_regressor,
            weights=body.skin_weights,
            kintree_table=np.array([body.parents, range(24)]),
            f=body.faces,
        )
        # smplx warns that ten shape coefficients are few; SPIN has ten.
        with contextlib.redirect_stdout(io.StringIO()):
            self.smpl = smplx.SMPLLayer("", data_struct=arrays, vertex_ids=ids, dtype=dtype)
        self.register_buffer("extra_regressor", torch.as_tensor(body.extra_regressor, dtype=dtype))
        self.register_buffer("h36m_regressor", torch.as_tensor(body.h36m_regressor, dtype=dtype))

    @property
    def faces(self) -> np.ndarray:
        return np.asarray(self.smpl.faces)

    def forward(self, pose_aa: Float[Tensor, "B 72"], betas: Float[Tensor, "B 10"]) -> MeshOutput:
        return self.forward_rotations(axis_angle_to_matrix(pose_aa.view(-1, 24, 3)), betas)

    def forward_rotations(self, rotations: Float[Tensor, "B 24 3 3"], betas: Float[Tensor, "B 10"]) -> MeshOutput:
        posed = self.smpl(betas=betas, global_orient=rotations[:, :1], body_pose=rotations[:, 1:])
        vertices = posed.vertices
        # The first 35 of smplx's joints are the kinematic ones, then face and feet.
        points = torch.cat([posed.joints[:, :35], self.extra_regressor @ vertices], 1)
        return MeshOutput(vertices, points, self.h36m_regressor @ vertices)
