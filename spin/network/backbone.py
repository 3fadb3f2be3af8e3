"""ResNet feature extractors (He et al., CVPR 2016), with torchvision's parameter names and shapes.

Weights trained with torchvision, and those of published HMR and SPIN checkpoints, load by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from spin.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Float
    from torch import Tensor

STAGE_CHANNELS = (64, 128, 256, 512)


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Return a square convolution without bias, padded so that stride 1 keeps the size."""
    return nn.Conv2d(inputs, outputs, kernel_size=size, stride=stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """What both residual blocks share: relu(path(x) + shortcut(x))."""

    expansion: int

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = channels * self.expansion
        self.relu = nn.ReLU(inplace=True)
        # A shortcut without parameters is None, not Identity, as in torchvision's state dicts and repr.
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def path(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.path(x) + shortcut)


class BasicBlock(Block):
    """Two 3 × 3 convolutions: ResNet 18 and 34."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__(inputs, channels, stride)
        self.conv1, self.bn1 = conv(inputs, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3), nn.BatchNorm2d(channels)

    def path(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(Block):
    """1 × 1, 3 × 3 (which carries the stride) and 1 × 1 convolutions: ResNet 50 and 101."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__(inputs, channels, stride)
        self.conv1, self.bn1 = conv(inputs, channels, 1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = conv(channels, 4 * channels, 1), nn.BatchNorm2d(4 * channels)

    def path(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


# Block and number of blocks in each of the four stages.
BACKBONES: dict[str, tuple[type[Block], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNetFeatures(nn.Module):
    """A ResNet up to its average pooling: images to one feature vector each."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ModelFileError(f"backbone '{backbone}' is not known; choose one of {', '.join(BACKBONES)}")
        block, counts = BACKBONES[backbone]
        self.backbone = backbone
        self.feature_count = STAGE_CHANNELS[-1] * block.expansion
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        inputs, stages = 64, []
        for stage, (channels, count) in enumerate(zip(STAGE_CHANNELS, counts)):
            blocks = []
            for i in range(count):
                blocks.append(block(inputs, channels, stride=2 if stage > 0 and i == 0 else 1))
                inputs = channels * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        # Published: AvgPool2d(7), the whole map of a 224 px crop. Adaptive is equal there and takes any size.
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Return pooled features of images normalised with ImageNet's statistics."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return torch.flatten(self.avgpool(x), 1)


def identify_backbone(names: Iterable[str]) -> str | None:
    """Return the name in BACKBONES that these parameter names belong to; None if there is none."""
    parts = [name.split(".") for name in names]
    counts = tuple(len({p[1] for p in parts if len(p) > 2 and p[0] == f"layer{stage}"}) for stage in (1, 2, 3, 4))
    block = Bottleneck if any(p[0] == "layer1" and "conv3" in p for p in parts) else BasicBlock
    for backbone, description in BACKBONES.items():
        if description == (block, counts):
            return backbone
    return None
