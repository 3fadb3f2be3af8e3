"""The lifter: a small network from 2D keypoints, partly missing, to a body and how sure it is of each angle.

One view leaves depth open; what closes it is knowledge of how people stand. The lifter holds that knowledge (Martinez et al.,
ICCV 2017, lift poses so; the published static fits came from such a network, which was never released). Its answer starts a
fit, its uncertainty says how firmly the fit is held to it (the anchor), and its expected error makes it the scorer of fits.
`lifter_training` trains one; the package ships one for the open body.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import nn

from spin.body.model_file import ASSETS, OPEN_BODY, read_npz
from spin.errors import BodyFileError, ModelFileError
from spin.joints import KEYPOINT_TO_MODEL, PLACE_MIRROR, PLACES, SMPL_MIRROR
from spin.rotations import matrix_to_axis_angle, rot6d_to_matrix

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from spin.body.compact import CompactBody

OPEN_LIFTER = ASSETS / "open_lifter.npz"
LIFTER_FILE = "lifter.npz"  # in the data folder, for a body that is not the open one

# The meaning of the network's numbers. Rotations are in the body's frame, not in the parent's: that is what an image shows.
_ROTATIONS, _BETAS = slice(0, 144), slice(144, 154)
_LOG_SIGMA_POSE, _LOG_SIGMA_BETAS, _LOG_ERROR = slice(154, 226), slice(226, 236), 236
OUTPUTS = 237
JUDGE_NUMBERS = {"single": 5, "views": 3, "joints3d": 3, "expects": 1}
_SIGMA_RANGE_RAD = (0.02, 2.0)
_ERROR_RANGE_MM = (3.0, 400.0)


@dataclass(frozen=True)
class Lift:
    """A lifter's answer. Sigmas are standard deviations of each number; `error_mm` is the PA-MPJPE it expects of itself."""

    pose_aa: Float[Tensor, "B 72"]
    betas: Float[Tensor, "B 10"]
    pose_sigma_rad: Float[Tensor, "B 72"]
    betas_sigma: Float[Tensor, "B 10"]
    error_mm: Float[Tensor, " B"]


@dataclass(frozen=True)
class LifterInfo:
    """The body that a lifter belongs to, by its fingerprint, and how the lifter was trained."""

    body: str
    steps: int
    seed: int
    poses: str
    width: int
    blocks: int


class _Block(nn.Module):
    """Two linear layers with a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.norm_first, self.norm_second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm_first(self.first(x)))
        return x + torch.relu(self.norm_second(self.second(hidden)))


class Lifter(nn.Module):
    """Residual layers on (x, y, confidence) of the 34 different places that the 49 keypoints name."""

    def __init__(self, info: LifterInfo) -> None:
        super().__init__()
        self.info = info
        self.enter = nn.Linear(3 * len(PLACES), info.width)
        self.blocks = nn.ModuleList(_Block(info.width) for _ in range(info.blocks))
        self.leave = nn.Linear(info.width, OUTPUTS)
        # The weights of the scorer of fits (spin.fitting.scorer); zero until it is calibrated.
        for name, count in JUDGE_NUMBERS.items():
            self.register_buffer(f"judge_{name}", torch.zeros(count))
        nn.init.normal_(self.leave.weight, std=1e-3)
        with torch.no_grad():  # begins at identity rotations, the mean shape and moderate certainty
            self.leave.bias.zero_()
            self.leave.bias[_ROTATIONS] = torch.eye(3)[:, :2].reshape(6).repeat(24)
            self.leave.bias[_LOG_SIGMA_POSE] = float(np.log(0.3))
            self.leave.bias[_LOG_ERROR] = float(np.log(60.0))

    @property
    def expects_mm(self) -> float:
        """Return the PA-MPJPE that it expects of itself, on average over the people it was trained on."""
        return float(self.get_buffer("judge_expects"))

    @property
    def fingerprint(self) -> str:
        """Return the hash of all weights: scores of different lifters are not compared."""
        digest = hashlib.sha256(self.info.body.encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:12]

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B O"]:
        x = torch.relu(self.enter(features))
        for block in self.blocks:
            x = block(x)
        return self.leave(x)

    def lift(self, body: CompactBody, keypoints_crop_px: Float[Tensor, "B 49 3"]) -> Lift:
        """Return the body predicted from keypoints: the mean of those for them and, mirrored back, for their mirror image.

        Any focal length and box will do: centre and size are divided out. Without a visible joint the answer is what
        people do on average, with a sigma to match.
        """
        places = merge_places(keypoints_crop_px)
        mirrored = places[:, list(PLACE_MIRROR)] * places.new_tensor([-1.0, 1.0, 1.0])
        with torch.no_grad():
            raw = self(features(torch.cat([places, mirrored])))
        straight, back = raw.chunk(2)
        rotations = rot6d_to_matrix(straight[:, _ROTATIONS].reshape(-1, 24, 6))
        rotations = rotations + _mirror_rotations(rot6d_to_matrix(back[:, _ROTATIONS].reshape(-1, 24, 6)))
        rotations = rot6d_to_matrix(rotations[..., :2].flatten(2))
        log_sigma = straight[:, _LOG_SIGMA_POSE].reshape(-1, 24, 3)
        log_sigma = (log_sigma + back[:, _LOG_SIGMA_POSE].reshape(-1, 24, 3)[:, list(SMPL_MIRROR)]) / 2
        both = (straight + back) / 2
        return Lift(
            matrix_to_axis_angle(body.local_rotations(rotations)).flatten(1),
            both[:, _BETAS].clamp(-3.0, 3.0),
            log_sigma.flatten(1).exp().clamp(*_SIGMA_RANGE_RAD),
            both[:, _LOG_SIGMA_BETAS].exp().clamp(0.1, 1.5),
            both[:, _LOG_ERROR].exp().clamp(*_ERROR_RANGE_MM),
        )


def _mirror_rotations(rotations: Float[Tensor, "B 24 3 3"]) -> Float[Tensor, "B 24 3 3"]:
    """M R M for the mirror M across x = 0, left and right joints exchanged."""
    sign = rotations.new_tensor([-1.0, 1.0, 1.0])
    return rotations[:, list(SMPL_MIRROR)] * sign[:, None] * sign


def merge_places(keypoints_px: Float[Tensor, "B 49 3"]) -> Float[Tensor, "B 34 3"]:
    """Return one position for each place of the body: the mean over the keypoints that name it, weighted by confidence."""
    confidence = torch.nan_to_num(keypoints_px[..., 2], nan=0.0).clamp(0.0, 1.0)
    xy = torch.where(confidence[..., None] > 0, keypoints_px[..., :2], 0.0)
    member = _membership(keypoints_px)
    total = confidence @ member
    merged = torch.einsum("bkc,bk,kp->bpc", xy, confidence, member) / total.clamp_min(1e-6)[..., None]
    most = (confidence[..., None] * member).amax(1)
    return torch.cat([merged, most[..., None]], -1)


def _membership(like: Tensor) -> Tensor:
    member = torch.zeros(len(KEYPOINT_TO_MODEL), len(PLACES), dtype=like.dtype, device=like.device)
    for keypoint, point in enumerate(KEYPOINT_TO_MODEL):
        member[keypoint, PLACES.index(point)] = 1
    return member


def features(places: Float[Tensor, "B 34 3"]) -> Float[Tensor, "B 102"]:
    """Return the network's input: centred positions, divided by their spread, zero where nothing is seen; and confidences."""
    xy, confidence = places[..., :2], places[..., 2:]
    seen = (confidence > 0).to(xy.dtype)
    count = seen.sum(1, keepdim=True).clamp_min(1.0)
    away = (xy - (xy * seen).sum(1, keepdim=True) / count) * seen
    spread = ((away * away).sum((1, 2), keepdim=True) / count).sqrt().clamp_min(1e-3)
    return torch.cat([away / spread, confidence], -1).flatten(1)


# ---- files --------------------------------------------------------------------------------------------------------------


def find_lifter(data_dir: Path | None, body_path: Path) -> Path:
    """Return the lifter of a body: one trained into the data folder, or the shipped one of the open body.

    ModelFileError, naming the command that makes one, if the body has none.
    """
    own = None if data_dir is None else data_dir / LIFTER_FILE
    if own is not None and own.is_file():
        return own
    if body_path == OPEN_BODY:
        return OPEN_LIFTER
    raise ModelFileError(
        f"no lifter for {body_path.name}: expected {own}; train it once with `spin-pipe train-lifter` (minutes), "
        "or fit without one: --objective published --init multistart"
    )


def save_lifter(handle: BinaryIO, lifter: Lifter) -> None:
    """Write an .npz: each matrix as 8-bit integers with a scale a row, vectors as float16, and what it belongs to."""
    arrays: dict[str, np.ndarray] = {f"info_{name}": np.array(value) for name, value in asdict(lifter.info).items()}
    for name, tensor in lifter.state_dict().items():
        value = tensor.detach().cpu().numpy().astype(np.float32)
        if value.ndim == 2:
            scale = np.maximum(np.abs(value).max(1, keepdims=True), 1e-12) / 127
            arrays[name] = np.rint(value / scale).astype(np.int8)
            arrays[f"{name}_scale"] = scale[:, 0].astype(np.float32)
        else:
            arrays[name] = value.astype(np.float32 if name.startswith("judge_") else np.float16)
    np.savez_compressed(handle, allow_pickle=False, **arrays)


def load_lifter(path: Path, body_fingerprint: str) -> Lifter:
    """Read a lifter. Raise ModelFileError if the file is not one, is damaged, or belongs to another body."""
    try:
        raw = read_npz(path)
    except BodyFileError as error:
        raise ModelFileError(str(error)) from error
    try:
        body, poses = (str(raw[f"info_{name}"]) for name in ("body", "poses"))
        steps, seed, width, blocks = (int(raw[f"info_{n}"]) for n in ("steps", "seed", "width", "blocks"))
        info = LifterInfo(body, steps, seed, poses, width, blocks)
        if not (1 <= info.width <= 8192 and 1 <= info.blocks <= 64):
            raise ValueError(f"width {info.width}, blocks {info.blocks}")
        lifter = Lifter(info)
        state = {}
        for name, like in lifter.state_dict().items():
            value = np.asarray(raw[name], np.float32)
            if f"{name}_scale" in raw:
                value = value * np.asarray(raw[f"{name}_scale"], np.float32)[:, None]
            if value.shape != tuple(like.shape) or not np.isfinite(value).all():
                raise ValueError(f"{name} has shape {value.shape}, or numbers that are none")
            if name.startswith("judge_") and not (value.min() >= 0 and value.max() > 0):
                raise ValueError(f"{name} is not calibrated")
            state[name] = torch.from_numpy(value)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ModelFileError(f"{path}: not a lifter ({error}); make one with `spin-pipe train-lifter --overwrite`") from error
    if info.body != body_fingerprint:
        raise ModelFileError(
            f"{path}: a lifter of the body {info.body}, this body is {body_fingerprint}; train one with "
            "`spin-pipe train-lifter --overwrite`"
        )
    lifter.load_state_dict(state)
    return lifter.eval()
