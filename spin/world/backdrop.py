"""Backgrounds made of nothing but numbers: rooms, open country, clutter; with a floor to stand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from spin.world.appearance import cloth_colour, linear

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from spin.rendering import Pinhole


@dataclass(frozen=True)
class Backdrop:
    """A background (linear RGB), and the floor's point (camera frame, m) at each pixel that `floor` marks."""

    colour: Float[np.ndarray, "H W 3"]
    floor: Bool[np.ndarray, "H W"]
    floor_point_m: Float[np.ndarray, "H W 3"]


def octaves(rng: np.random.Generator, height: int, width: int, *, coarsest: int, decay: float) -> np.ndarray:
    """Smooth noise (H, W) of about unit deviation: ever finer grids, each `decay` as strong as the last."""
    out = np.zeros((height, width), np.float32)
    cells, gain, power = coarsest, 1.0, 0.0
    while cells < max(height, width) / 2:
        grid = rng.standard_normal((max(2, cells * height // width), max(2, cells))).astype(np.float32)
        out += gain * np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
        power, cells, gain = power + gain * gain, cells * 2, gain * decay
    return out / np.sqrt(max(power, 1e-9))


def _wall_colour(rng: np.random.Generator) -> np.ndarray:
    """Paint, stone, fabric: any dye, most of it washed out (linear RGB)."""
    dye = cloth_colour(rng)
    return dye + rng.uniform(0.3, 0.9) * (dye.mean() - dye)


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Two colours running into each other along a random direction (H, W, 3)."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-0.5, 0.5, height)[:, None], np.linspace(-0.5, 0.5, width)
    t = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1).astype(np.float32)[..., None]
    first, second = _wall_colour(rng), _wall_colour(rng)
    step = first * rng.uniform(0.4, 1.6) + 0.2 * (second - first) - first
    return first.astype(np.float32) + t * step.astype(np.float32)


def _shapes(rng: np.random.Generator, colour: np.ndarray, count: int, lowest: float) -> np.ndarray:
    """Rectangles and ellipses above row `lowest`: doors, pictures, bushes, or nothing in particular."""
    out = np.ascontiguousarray(colour, np.float32)
    height, width = out.shape[:2]
    for _ in range(count):
        layer = out.copy()
        x, y = int(rng.uniform(0, width)), int(rng.uniform(0, max(lowest, 1)))
        a, b = (int(v) for v in rng.uniform(0.03, 0.22, 2) * max(height, width))
        tint = tuple(float(c) for c in _wall_colour(rng))
        if rng.random() < 0.6:
            cv2.rectangle(layer, (x - a, y - b), (x + a, y + b), tint, -1)
            if rng.random() < 0.5:
                edge = tuple(float(c) for c in cloth_colour(rng))
                cv2.rectangle(layer, (x - a, y - b), (x + a, y + b), edge, int(rng.integers(1, 5)))
        else:
            cv2.ellipse(layer, (x, y), (a, b), float(rng.uniform(0, 180)), 0, 360, tint, -1, cv2.LINE_AA)
        opacity = rng.uniform(0.4, 1.0)
        out = np.asarray(cv2.addWeighted(layer, opacity, out, 1 - opacity, 0), np.float32)
    return out


def _floor_points(camera: Pinhole, floor_y_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the floor is seen (H, W), and the point of it under each pixel (H, W, 3)."""
    ray = camera.directions(camera.grid(camera.whole))
    down = ray[..., 1]
    seen = down > 1e-3
    return seen, ray * (np.float32(floor_y_m) / np.where(seen, down, 1))[..., None]


def _floor_colour(rng: np.random.Generator, point: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Tiles, boards, or speckled ground (n, 3) at floor points (n, 3)."""
    base = _wall_colour(rng) * 0.7 + 0.05
    kind, size = rng.choice(["tiles", "boards", "ground"], p=[0.25, 0.25, 0.5]), rng.uniform(0.2, 0.8)
    angle = rng.uniform(0, np.pi)
    u = (point[:, 0] * np.cos(angle) + point[:, 2] * np.sin(angle)) / size
    v = (point[:, 2] * np.cos(angle) - point[:, 0] * np.sin(angle)) / size
    # far tiles are smaller than a pixel: fade them out before they alias
    fade = np.clip(1.5 - point[:, 2] * 0.1, 0, 1)
    if kind == "tiles":
        step = ((np.floor(u) + np.floor(v)) % 2 - 0.5) * rng.uniform(0.1, 0.6)
    elif kind == "boards":
        step = (np.sin(12.9898 * np.floor(u * 3)) * 43758.5453 % 1 - 0.5) * rng.uniform(0.1, 0.4)
    else:
        step = np.zeros(len(point))
    texture = np.exp(fade * step + rng.uniform(0.05, 0.25) * noise)
    return base * texture[:, None]


def plain_backdrop(camera: Pinhole) -> Backdrop:
    """Dark grey, and nothing to stand on."""
    shape = (camera.height, camera.width)
    grey, nowhere = np.full((*shape, 3), 0.05, np.float32), np.zeros((*shape, 3), np.float32)
    return Backdrop(grey, np.zeros(shape, bool), nowhere)


def random_backdrop(rng: np.random.Generator, camera: Pinhole, floor_y_m: float) -> Backdrop:
    """A background for a camera `floor_y_m` above the floor, looking level."""
    height, width = camera.height, camera.width
    seen, point = _floor_points(camera, floor_y_m)
    kind = str(rng.choice(["room", "outdoors", "clutter"], p=[0.4, 0.35, 0.25]))
    noise = octaves(rng, height, width, coarsest=int(rng.integers(2, 7)), decay=rng.uniform(0.5, 0.85))
    colour = _ramp(rng, height, width)
    horizon = camera.center_px[1]
    if kind == "room":
        # the wall meets the floor at some depth behind the people
        seen &= point[..., 2] < rng.uniform(8, 14)
        colour = colour * np.exp(rng.uniform(0, 0.15) * noise)[..., None]
        colour = _shapes(rng, colour, int(rng.integers(0, 6)), horizon * 1.2)
    elif kind == "outdoors":
        sky, haze = linear(rng.uniform([90, 130, 190], [190, 215, 255])), linear(rng.uniform(190, 250, 3))
        t = np.clip(np.arange(height) / max(horizon, 1), 0, 1)[:, None, None]
        cloud = np.clip(0.35 * noise, 0, 0.8)[..., None] * rng.uniform(0, 1)
        colour = sky + np.maximum(t**1.5, cloud) * (haze - sky)
        colour = _shapes(rng, colour, int(rng.integers(1, 9)), horizon)
        far = octaves(rng, 2, width, coarsest=4, decay=0.6)[0]
        hill = np.arange(height)[:, None] > horizon * (1 - 0.12 * np.clip(far + 0.5, 0, 2))
        colour[hill & ~seen] = cloth_colour(rng) * 0.5 + 0.02
    else:
        seen = np.zeros_like(seen)
        tint = _wall_colour(rng).astype(np.float32)
        weight = 1 / (1 + np.exp(-np.float32(rng.uniform(1, 4)) * noise))[..., None]
        colour = _shapes(rng, colour + weight * (tint - colour), int(rng.integers(2, 12)), height)
    colour = np.asarray(colour, np.float32)
    colour[seen] = _floor_colour(rng, point[seen], noise[seen])
    if rng.random() < 0.5:
        colour = cv2.GaussianBlur(colour, (0, 0), float(rng.uniform(0.5, 2.5)))
    return Backdrop(np.clip(colour, 0, 1.5), seen, point)
