"""Cameras that stand around people, so that one moment is seen from several sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spin.rendering import Pinhole

if TYPE_CHECKING:
    from jaxtyping import Float

_PERSON_M = 1.9  # a tall one, with some air
_FILLS = 0.75  # of the picture's height, by a person in the world's middle


@dataclass(frozen=True)
class Viewpoint:
    """A camera and where it stands: p_camera = rotation p_world + translation_m.

    The world's y points down and its middle is at the height of a pelvis; cameras look level, as backdrops need it.
    """

    camera: Pinhole
    rotation: Float[np.ndarray, "3 3"]
    translation_m: Float[np.ndarray, "3"]


def ring(rng: np.random.Generator, count: int, side_px: int = 256) -> tuple[Viewpoint, ...]:
    """`count` cameras around the world's middle, 4 to 5.5 m away, each looking a little past it.

    Pictures are squares; focal lengths and principal points differ as those of real cameras do.
    """
    first = rng.uniform(0, 2 * np.pi)
    out = []
    for number in range(count):
        yaw = first + 2 * np.pi * (number + rng.uniform(-0.2, 0.2)) / count
        cosine, sine = np.cos(yaw), np.sin(yaw)
        rotation = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
        away = rng.uniform(4, 5.5)
        focal = _FILLS * side_px * away / _PERSON_M * rng.uniform(0.95, 1.05)
        center = side_px / 2 + rng.uniform(-0.02, 0.02, 2) * side_px
        camera = Pinhole(float(focal), (float(center[0]), float(center[1])), side_px, side_px)
        out.append(Viewpoint(camera, rotation, np.append(rng.uniform(-0.1, 0.1, 2), away)))
    return tuple(out)
