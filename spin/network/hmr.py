"""The regressor of HMR and SPIN: from image features to pose, shape and camera, in three steps from the mean body.

Kanazawa et al., CVPR 2018; Kolotouros et al., ICCV 2019, section 3.1. Parameters are named as
published, so that published checkpoints load.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn

from spin.errors import ModelFileError
from spin.network.backbone import ResNetFeatures
from spin.rotations import axis_angle_to_matrix, matrix_to_rot6d, rot6d_to_matrix

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

POSE_6D = 24 * 6
BETAS = 10
CAMERA = 3
HIDDEN = 1024
ITERATIONS = 3
# Of the weak-perspective camera [s, tx, ty]: a person who fills most of the crop, in its middle (published).
MEAN_CAMERA = (0.9, 0.0, 0.0)


@dataclass(frozen=True)
class Prediction:
    """Bodies in the frame of the images from which they were predicted."""

    rotations: Float[Tensor, "B 24 3 3"]
    betas: Float[Tensor, "B 10"]
    weak_camera: Float[Tensor, "B 3"]  # s (crop half-widths per metre), tx, ty (metres)


@dataclass(frozen=True)
class MeanParameters:
    """Where the regressor's iterations start."""

    pose_6d: Float[Tensor, " 144"]
    betas: Float[Tensor, " 10"]
    weak_camera: Float[Tensor, " 3"]

    @classmethod
    def from_body_pose(cls, body_pose_aa: Float[Tensor, " 69"]) -> MeanParameters:
        """Return a body of mean shape in this pose (axis-angle, rad), upright, facing the camera."""
        facing = torch.tensor([torch.pi, 0.0, 0.0])
        pose_aa = torch.cat([facing, torch.as_tensor(body_pose_aa, dtype=torch.float32)])
        pose_6d = matrix_to_rot6d(axis_angle_to_matrix(pose_aa.reshape(24, 3)))
        return cls(pose_6d=pose_6d.flatten(), betas=torch.zeros(BETAS), weak_camera=torch.tensor(MEAN_CAMERA))

    @classmethod
    def from_file(cls, path: str | Path) -> MeanParameters:
        """Read the published smpl_mean_params.npz: pose (144, six numbers a joint), shape (10), cam (3)."""
        expected = {"pose": POSE_6D, "shape": BETAS, "cam": CAMERA}
        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: np.asarray(data[name], np.float32).ravel() for name in expected}
        except FileNotFoundError as error:
            raise ModelFileError(f"mean parameters {path}: no such file; put smpl_mean_params.npz there") from error
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise ModelFileError(
                f"mean parameters {path}: expected an .npz with pose, shape and cam, found: {error}"
            ) from error
        for name, size in expected.items():
            if arrays[name].size != size or not np.isfinite(arrays[name]).all():
                raise ModelFileError(f"mean parameters {path}: {name} has {arrays[name].size} numbers; expected {size}, finite")
        pose_6d, betas, weak_camera = (torch.from_numpy(arrays[name]) for name in expected)
        return cls(pose_6d=pose_6d, betas=betas, weak_camera=weak_camera)


class HMR(ResNetFeatures):
    """Predicts bodies from images (B, 3, H, W) that are normalised with ImageNet's statistics.

    At 224 px this is the published network; smaller images work, from 32 px. `features_dtype`: the type in which the
    convolutions compute; weights and the regressor's iterations are always float32.
    """

    def __init__(self, backbone: str = "resnet50", *, mean: MeanParameters) -> None:
        super().__init__(backbone)
        self.features_dtype = torch.float32
        self.fc1 = nn.Linear(self.feature_count + POSE_6D + BETAS + CAMERA, HIDDEN)
        self.drop1 = nn.Dropout()
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.drop2 = nn.Dropout()
        self.decpose = nn.Linear(HIDDEN, POSE_6D)
        self.decshape = nn.Linear(HIDDEN, BETAS)
        self.deccam = nn.Linear(HIDDEN, CAMERA)
        for decoder in (self.decpose, self.decshape, self.deccam):
            # Small, so that an untrained network answers with the mean body.
            nn.init.xavier_uniform_(decoder.weight, gain=0.01)
        self.init_pose: Tensor
        self.init_shape: Tensor
        self.init_cam: Tensor
        self.register_buffer("init_pose", mean.pose_6d.reshape(1, POSE_6D).clone())
        self.register_buffer("init_shape", mean.betas.reshape(1, BETAS).clone())
        self.register_buffer("init_cam", mean.weak_camera.reshape(1, CAMERA).clone())

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Prediction:
        mixed = self.features_dtype != torch.float32
        with torch.autocast(images.device.type, self.features_dtype if mixed else None, enabled=mixed):
            features = self.features(images)
        features = features.float()
        count = len(features)
        pose = self.init_pose.expand(count, -1)
        betas = self.init_shape.expand(count, -1)
        camera = self.init_cam.expand(count, -1)
        for _ in range(ITERATIONS):
            state = torch.cat([features, pose, betas, camera], 1)
            hidden = self.drop2(self.fc2(self.drop1(self.fc1(state))))
            pose = pose + self.decpose(hidden)
            betas = betas + self.decshape(hidden)
            camera = camera + self.deccam(hidden)
        rotations = rot6d_to_matrix(pose.reshape(count, 24, 6))
        return Prediction(rotations=rotations, betas=betas, weak_camera=camera)
