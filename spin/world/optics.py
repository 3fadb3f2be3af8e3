"""Light on the world, and the camera's sensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class Sun:
    """Coloured light: a direction (camera frame, pointing to it) and two strengths (linear RGB)."""

    toward: Float[np.ndarray, " 3"]
    direct: Float[np.ndarray, " 3"]
    ambient: Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class Lamp:
    """A lamp by the camera, near enough to the person that what is nearer to it is plainly brighter."""

    at_m: Float[np.ndarray, " 3"]  # camera frame
    full_m: float  # the distance at which it lights a surface that faces it with strength 1

    def on(self, points_m: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        """Light on surfaces: inverse square, half of it from walls and ceiling whichever way they face. It casts no shadow."""
        away = self.at_m - points_m
        distance = np.linalg.norm(away, axis=1)
        facing = (away * normals).sum(1) / np.maximum(distance * np.linalg.norm(normals, axis=1), 1e-9)
        falloff = (self.full_m / np.maximum(distance, 0.4 * self.full_m)) ** 2
        return falloff * (0.5 + 0.5 * np.clip(facing, 0, 1))


def random_sun(rng: np.random.Generator) -> Sun:
    """From any side and 20 to 75° up, more or less of it direct, warmer or colder."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(20, 75))
    toward = [np.cos(elevation) * np.sin(azimuth), -np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
    direct = rng.uniform(0.2, 0.9)
    warmth = rng.uniform(-0.12, 0.15)
    tint = np.array([1 + warmth, 1, 1 - warmth])
    return Sun(np.array(toward), direct * tint, (1.05 - 0.75 * direct) / tint)


def expose(rng: np.random.Generator, light: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    """What a camera makes of light: blur, exposure, white balance, photon and sensor noise, display curve."""
    seen = cv2.GaussianBlur(light.astype(np.float32), (0, 0), float(rng.uniform(0.3, 0.8)))
    seen *= (rng.uniform(0.7, 1.3) * rng.uniform(0.93, 1.07, 3)).astype(np.float32)
    photon, sensor = np.float32(rng.uniform(0, 1.5e-3)), np.float32(rng.uniform(0, 0.008) ** 2)
    seen += rng.standard_normal(seen.shape, np.float32) * np.sqrt(seen * photon + sensor)
    return np.rint(255 * np.clip(seen, 0, 1) ** np.float32(1 / 2.2)).astype(np.uint8)
