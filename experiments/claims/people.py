"""People of the embedded world for `claims`, each in one small picture, and where a network's training begins."""

from __future__ import annotations

import io
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import nn

from spin.body import BodyMesh, CompactBody, load_body
from spin.camera import CROP_PX
from spin.crop import normalise
from spin.fitting.prior import load_pose_prior
from spin.joints import H36M_TO_J14, JOINTS
from spin.network.backbone import BasicBlock
from spin.network.hmr import HMR, MeanParameters
from spin.training.augment import Augmentations, augment_keypoints, sample_augmentations
from spin.training.config import AugmentationConfig
from spin.world import World
from store.files.atomic import write_file

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from torch import Tensor

NOISE_PX = 6.0  # of the annotated keypoints, COCO's 17: what annotators of COCO differ by on a person of this size
_WORLD_SEED = 0
_OTHERS_FROM = 12_500  # numbers below are the experiment's own people
AUGMENTATION = AugmentationConfig(scale=0.15, noise=0.2)
VARIANTS = 8
WARM_AUGMENTATION, WARM_RATE = AugmentationConfig(scale=0.15, noise=0.3), 1.5e-3
EMBEDDING = 256  # numbers in which the small network's convolutions say what they see
_FROM_THE_SEED = ("trunk", "fc", "dec", "init")


@dataclass(frozen=True)
class Size:
    """How large an experiment is: so many people to train on, to measure on, and others that features were learnt from.

    `width`: channels of the small network's first layer; None: the published ResNet-50.
    """

    train: int
    test: int
    others: int
    side_px: int
    width: int | None
    studio: bool
    batch: int
    warm_batch: int
    warm_steps: int  # learning to look,
    begin_steps: int  # training on the others,
    steps: int  # and training in the experiment
    learning_rate: float
    seeds: int


SIZES = {
    "toy": Size(96, 24, 96, 48, 8, True, 16, 16, 8, 4, 12, 1e-3, 1),
    "cpu": Size(1000, 500, 12_000, 64, 24, True, 128, 128, 3000, 1000, 800, 5e-4, 3),
    "gpu": Size(10_000, 2000, 20_000, 224, None, False, 64, 64, 6000, 6000, 12_000, 5e-5, 3),
}


@dataclass(frozen=True)
class People:
    """Pictures, what annotators say of them, and the truth; those for training come first."""

    images: UInt8[np.ndarray, "N S S 3"]
    pose_aa: Float[Tensor, "N 72"]
    betas: Float[Tensor, "N 10"]
    keypoints_px: Float[Tensor, "N 49 3"]  # of the 224 px crop
    joints14_m: Float[Tensor, "N 14 3"]
    joints_m: Float[Tensor, "N 24 4"]

    @classmethod
    def of(cls, size: Size, cache: Path, processes: int = 1) -> People:
        """Those to train and to measure on: drawn once, then kept in `cache`."""
        return cls._drawn(range(size.train + size.test), size, cache, processes)

    @classmethod
    def others(cls, size: Size, cache: Path, processes: int = 1) -> People:
        """Those that features are learnt from."""
        return cls._drawn(range(_OTHERS_FROM, _OTHERS_FROM + size.others), size, cache, processes)

    @classmethod
    def _drawn(cls, numbers: range, size: Size, cache: Path, processes: int) -> People:
        name = f"people-{numbers.start}-{numbers.stop}-{size.side_px}{'-studio' * size.studio}.npz"
        path = cache / name
        if not path.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            shares = np.array_split(np.array(numbers), max(1, len(numbers) // 100))
            with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
                parts = list(pool.map(_draw, shares, [size] * len(shares)))
            out = io.BytesIO()
            np.savez(out, **{k: np.concatenate([part[k] for part in parts]) for k in parts[0]})
            write_file(path, out.getvalue())
        with np.load(path) as drawn:
            pose, betas, pixels = (torch.from_numpy(drawn[k]) for k in ("pose", "betas", "pixels"))
            images = drawn["images"]
        keypoints, named = torch.zeros(len(pose), JOINTS.count, 3), list(JOINTS.coco)
        generator = torch.Generator().manual_seed(1 + numbers.start)
        noise = torch.randn(len(pose), len(named), 2, generator=generator)
        keypoints[:, named, :2] = pixels[:, named] + NOISE_PX * noise
        keypoints[:, named, 2] = 1
        joints = joints24_of(pose, betas)
        known = torch.ones(*joints.shape[:2], 1)
        return cls(images, pose, betas, keypoints, joints14_of(pose, betas), torch.cat([joints, known], -1))

    def augmented(self, rows: np.ndarray, augmentations: Augmentations) -> Float[Tensor, "B 3 S S"]:
        """Network input: turned and scaled, then mirrored, as `spin.training.augment` has it."""
        side, out = self.images.shape[1], []
        numbers = (
            augmentations.flip.tolist(),
            augmentations.rotation_deg.tolist(),
            augmentations.scale.tolist(),
        )
        for row, flip, turn, scale, gain in zip(rows, *numbers, augmentations.channel_gain.numpy()):
            image = self.images[row]
            if turn or scale != 1:
                matrix = cv2.getRotationMatrix2D((side / 2 - 0.5, side / 2 - 0.5), -turn, 1 / scale)
                image = cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
            out.append(normalise(np.ascontiguousarray(image[:, ::-1] if flip else image), gain))
        return torch.from_numpy(np.stack(out))

    def plain(self, rows: np.ndarray) -> Float[Tensor, "B 3 S S"]:
        return self.augmented(rows, Augmentations.none(len(rows)))


def _draw(numbers: np.ndarray, size: Size) -> dict[str, np.ndarray]:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    body = load_body()
    world = World(body, BodyMesh(body), load_pose_prior())
    pictures = [world.portrait(_WORLD_SEED, int(n), size.side_px, studio=size.studio) for n in numbers]
    people = [picture.people[0] for picture in pictures]
    return {
        "images": np.stack([picture.image for picture in pictures]),
        "pose": np.stack([p.pose_aa for p in people]),
        "betas": np.stack([p.betas for p in people]),
        "pixels": np.stack([p.keypoints_px for p in people]).astype(np.float32) * (CROP_PX / size.side_px),
    }


def joints14_of(pose_aa: Float[Tensor, "N 72"], betas: Float[Tensor, "N 10"]) -> Float[Tensor, "N 14 3"]:
    """LSP's 14 of Human3.6M's joints, in metres: what errors are measured on."""
    mesh = BodyMesh(load_body())
    with torch.no_grad():
        parts = [mesh(p, b).joints17_m[:, list(H36M_TO_J14)] for p, b in zip(pose_aa.split(500), betas.split(500))]
    return torch.cat(parts)


def joints24_of(pose_aa: Float[Tensor, "N 72"], betas: Float[Tensor, "N 10"]) -> Float[Tensor, "N 24 3"]:
    """The superset of joints that 3D annotations have, in metres."""
    body = CompactBody(load_body())
    parts = zip(pose_aa.split(2000), betas.split(2000))
    return torch.cat([body.keypoints(body(p, b)) for p, b in parts])[:, JOINTS.superset]


# ---- networks -----------------------------------------------------------------------------------------------------------


class SmallHMR(HMR):
    """The published regressor on a small network: convolutions that keep where things are, then a trunk of full layers.

    The regressor is linear in its features, up to the rotations that it ends with, so something before it must not be: the
    trunk is what training changes, with the regressor, when images' features are computed before.
    """

    def __init__(self, width: int, side_px: int, *, mean: MeanParameters, hidden: int = 512) -> None:
        super().__init__("resnet18", mean=mean)
        self.conv1, self.bn1 = nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width)
        self.maxpool = self.avgpool = nn.Identity()  # type: ignore[assignment]
        channels = [width, width, 2 * width, 4 * width, 8 * width]
        stages = (nn.Sequential(BasicBlock(a, b, stride=2)) for a, b in pairwise(channels))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        flat = channels[-1] * math.ceil(side_px / 32) ** 2
        self.embed = nn.Sequential(nn.Linear(flat, EMBEDDING), nn.LayerNorm(EMBEDDING), nn.ReLU())
        self.trunk = nn.Sequential(
            nn.Linear(EMBEDDING, hidden), nn.ReLU(), Residual(hidden), Residual(hidden), nn.LayerNorm(hidden)
        )
        self.feature_count = hidden
        self.fc1, self.fc2 = nn.Linear(hidden + self.fc1.in_features - 512, hidden), nn.Linear(hidden, hidden)
        self.drop1.p = self.drop2.p = 0.0
        for name in ("decpose", "decshape", "deccam"):
            decoder = nn.Linear(hidden, getattr(self, name).out_features)
            nn.init.xavier_uniform_(decoder.weight, gain=0.01)
            setattr(self, name, decoder)

    def looks(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """What the convolutions make of images: all that the trunk is to know of them."""
        return self.embed(super().features(images))

    def features(self, images: Float[Tensor, "B 3 H W"] | Float[Tensor, "B E"]) -> Float[Tensor, "B F"]:
        """Of images, or of their looks, computed before."""
        return self.trunk(images if images.dim() == 2 else self.looks(images))


class Residual(nn.Module):
    """Two full layers with a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = (part for _ in range(2) for part in (nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        return x + self.layers(x)


def new_network(size: Size, seed: int) -> HMR:
    torch.manual_seed(seed)
    mean = MeanParameters.from_body_pose(load_pose_prior().mean_pose())
    return HMR("resnet50", mean=mean) if size.width is None else SmallHMR(size.width, size.side_px, mean=mean)


def warm_name(size: Size) -> str:
    return f"{size.others}-{size.side_px}-{size.width}-{size.warm_steps}.pt"


def saved(tensors: nn.Module | dict[str, Tensor] | Tensor) -> bytes:
    """As `torch.load` reads it."""
    out = io.BytesIO()
    torch.save(tensors.state_dict() if isinstance(tensors, nn.Module) else tensors, out)
    return out.getvalue()


def warm_start(size: Size, seed: int, cache: Path, device: torch.device) -> HMR:
    """A network before any training on bodies: the seed's trunk and regressor on convolutions that are the same for all.

    The convolutions are what ImageNet's are in the paper. Of other people they have learnt where annotated keypoints are, and
    how far away: what an image shows and a keypoint doesn't, without which there is nothing for a loop to gain.
    """
    network = new_network(size, seed).to(device)
    path = cache / f"warm-{warm_name(size)}"
    if not path.is_file():
        write_file(path, saved(_learn_to_look(People.others(size, cache), size, device)))
    network.load_state_dict(torch.load(path, weights_only=True, map_location=device), strict=False)
    return network


def _learn_to_look(people: People, size: Size, device: torch.device) -> dict[str, Tensor]:
    """Weights of everything before the trunk and the regressor."""
    named, half, seed = list(JOINTS.coco), CROP_PX / 2, 0
    depth = people.joints_m[:, [joint - JOINTS.superset.start for joint in named], 2:3]
    depth = depth - depth.mean(1, keepdim=True)
    network = new_network(size, seed).to(device)
    look = network.looks if isinstance(network, SmallHMR) else network.features
    seen = EMBEDDING if isinstance(network, SmallHMR) else network.feature_count
    answer = nn.Linear(seen, 3 * len(named)).to(device)
    learnt = {n: p for n, p in network.named_parameters() if not n.startswith(_FROM_THE_SEED)}
    optimiser = torch.optim.AdamW([*learnt.values(), *answer.parameters()], lr=WARM_RATE, weight_decay=1e-4)
    network.train()
    for step in range(size.warm_steps):
        set_rate(optimiser, WARM_RATE, step, size.warm_steps)
        epoch, rows = batch_rows(len(people.images), size.warm_batch, seed, step)
        augmentations = sample_augmentations(seed, epoch, [f"warm:{row}" for row in rows], WARM_AUGMENTATION)
        target = people.keypoints_px[rows].clone()
        target[:, named, 2:] = depth[rows]  # goes with its keypoint when sides are swapped
        target = augment_keypoints(target, augmentations)[:, named]
        target[..., :2] = (target[..., :2] - half) / half
        found = answer(look(people.augmented(rows, augmentations).to(device))).view(-1, len(named), 3)
        loss = ((found - target.to(device)) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {n: tensor for n, tensor in network.state_dict().items() if not n.startswith(_FROM_THE_SEED)}


@dataclass(frozen=True)
class Looks:
    """How every training picture looks to the warm start, augmented in VARIANTS ways: what small networks are trained on."""

    features: Float[Tensor, "V N E"]

    @classmethod
    def of(cls, people: People, size: Size, network: SmallHMR, cache: Path, *, others: bool = False) -> Looks:
        """Of the first `size.train` of people who are, or are not, the others."""
        path = cache / f"looks-{'others-' * others}{size.train}-{warm_name(size)}"
        if not path.is_file():
            network.eval()
            rows = np.array_split(np.arange(size.train), max(1, size.train // 100))
            with torch.no_grad():
                found = [
                    torch.cat([network.looks(people.augmented(r, augmentations_of(r, v))) for r in rows])
                    for v in range(VARIANTS)
                ]
            write_file(path, saved(torch.stack(found)))
        return cls(torch.load(path, weights_only=True))


def augmentations_of(rows: np.ndarray, variant: int) -> Augmentations:
    return sample_augmentations(0, variant, [f"world:{row}" for row in rows], AUGMENTATION)


def set_rate(optimiser: torch.optim.Optimizer, rate: float, step: int, steps: int) -> None:
    """Half a cosine, after a short warm-up."""
    for group in optimiser.param_groups:
        group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / 150)


def batch_rows(people: int, batch: int, seed: int, step: int) -> tuple[int, np.ndarray]:
    """Epoch, and the training people of a step."""
    epoch, place = divmod(step, people // batch)
    order = np.random.default_rng([seed, epoch]).permutation(people)
    return epoch, order[place * batch : (place + 1) * batch]
