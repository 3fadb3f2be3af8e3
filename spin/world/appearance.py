"""What a body wears: colours as a function of where a point of the surface is in the rest pose.

Painting in the rest pose (T-pose: arms along ±x, legs down, facing +z, y up, metres) keeps hems and patterns
sharp, however coarse the mesh, and makes them move with the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spin.joints import MODEL_POINTS

if TYPE_CHECKING:
    from jaxtyping import Float

# sRGB, from light to dark, by eye; people lie anywhere between neighbours.
_SKIN = np.array([[255, 219, 190], [236, 188, 150], [206, 150, 110], [161, 102, 66], [108, 66, 43], [66, 41, 29]])
_HAIR = np.array([[24, 19, 17], [46, 30, 21], [88, 56, 33], [138, 92, 48], [205, 170, 112], [150, 145, 142], [120, 48, 24]])
MAPPED = "map"  # the pattern of `mapped_suit`


@dataclass(frozen=True)
class Landmarks:
    """Where clothes begin and end on a body in its rest pose (metres)."""

    points: Float[np.ndarray, "44 3"]
    head_low: Float[np.ndarray, " 3"]
    head_high: Float[np.ndarray, " 3"]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.points[MODEL_POINTS.index(name)]

    @classmethod
    def of(cls, rest_points_m: np.ndarray, rest_vertices_m: np.ndarray, is_head: np.ndarray) -> Landmarks:
        """From the rest pose's points (44, 3) and vertices (V, 3), and which vertices are the head's."""
        chin = 0.5 * (rest_points_m[MODEL_POINTS.index("neck")] + rest_points_m[MODEL_POINTS.index("nose")])[1]
        head = rest_vertices_m[is_head & (rest_vertices_m[:, 1] > chin)]
        return cls(rest_points_m, head.min(0), head.max(0))


@dataclass(frozen=True)
class Outfit:
    """Colours (linear RGB) and cuts: the covered share of arms and legs, where hair and shirt end."""

    skin: Float[np.ndarray, " 3"]
    hair: Float[np.ndarray, " 3"]
    shirt: Float[np.ndarray, "2 3"]
    trousers: Float[np.ndarray, " 3"]
    shoes: Float[np.ndarray, " 3"]
    sleeve: float
    leg: float
    waist: float
    hair_front: float
    hair_back: float
    pattern: str
    pattern_m: float


def linear(srgb: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Light from 0-255 display values, by the plain power law used both ways here."""
    return (np.asarray(srgb, np.float64) / 255) ** 2.2


def _between(rng: np.random.Generator, table: np.ndarray) -> np.ndarray:
    """A colour between two neighbours of the table."""
    where = rng.uniform(0, len(table) - 1)
    low = int(where)
    return linear(table[low] + (where - low) * (table[min(low + 1, len(table) - 1)] - table[low]))


def cloth_colour(rng: np.random.Generator) -> Float[np.ndarray, " 3"]:
    """A dye: greys and muted colours more often than bright ones (linear RGB)."""
    hue, value = rng.uniform(0, 6), rng.uniform(0.08, 0.95)
    saturation = rng.choice([rng.uniform(0, 0.15), rng.uniform(0.2, 0.6), rng.uniform(0.6, 0.95)], p=[0.35, 0.4, 0.25])
    full = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return linear(255 * value * (1 - saturation * (1 - full)))


def random_outfit(rng: np.random.Generator) -> Outfit:
    """Skin, hair and clothes of one person."""
    short_sleeves, shorts, bald = rng.random() < 0.55, rng.random() < 0.35, rng.random() < 0.08
    return Outfit(
        skin=_between(rng, _SKIN),
        hair=linear(_HAIR[rng.integers(len(_HAIR))] * rng.uniform(0.8, 1.15)),
        shirt=np.stack([cloth_colour(rng), cloth_colour(rng)]),
        trousers=cloth_colour(rng) * rng.uniform(0.5, 1),
        shoes=cloth_colour(rng) * rng.uniform(0.3, 1),
        sleeve=rng.uniform(0.05, 0.5) if short_sleeves else rng.uniform(0.85, 1.0),
        leg=rng.uniform(0.2, 0.55) if shorts else rng.uniform(0.85, 1.0),
        waist=rng.uniform(0.1, 0.4),
        hair_front=2.0 if bald else rng.uniform(0.45, 0.8),
        hair_back=2.0 if bald else rng.uniform(-1.1, 0.2),
        pattern=str(rng.choice(["plain", "stripes", "checks", "band"], p=[0.55, 0.2, 0.1, 0.15])),
        pattern_m=rng.uniform(0.02, 0.09),
    )


def mapped_suit() -> Outfit:
    """A suit whose colour says which part of the body it covers, but not which side: easy to read, for small experiments."""
    none = np.zeros(3)
    return Outfit(none, none, np.zeros((2, 3)), none, none, 0, 0, 0, 0, 0, MAPPED, 1.0)


def _map_of_body(p: np.ndarray, marks: Landmarks) -> np.ndarray:
    """Red grows from the middle to the hands, green from the feet to the head, blue from the back to the front.

    All of one brightness, so that what is brighter has more light.
    """
    feet, wrist = marks["left ankle"][1], abs(marks["left wrist"][0])
    place = [np.abs(p[:, 0]) / wrist, (p[:, 1] - feet) / (marks.head_high[1] - feet), 0.5 + p[:, 2] / 0.25]
    colour = (0.12 + 0.8 * np.clip(np.stack(place, 1), 0, 1)) ** 1.5
    return 0.4 * colour / colour.mean(1, keepdims=True)


def _shirt(outfit: Outfit, p: np.ndarray, marks: Landmarks) -> np.ndarray:
    """Colour of the shirt at rest points (n, 3)."""
    phase = p / outfit.pattern_m
    second = np.zeros(len(p), bool)
    if outfit.pattern == "stripes":
        second = (np.floor(phase[:, 1]) % 2).astype(bool)
    elif outfit.pattern == "checks":
        second = ((np.floor(phase[:, 0]) + np.floor(phase[:, 1])) % 2).astype(bool)
    elif outfit.pattern == "band":
        second = np.abs(p[:, 1] - marks["spine3"][1]) < outfit.pattern_m
    return np.where(second[:, None], outfit.shirt[1], outfit.shirt[0])


def paint(outfit: Outfit, rest_m: Float[np.ndarray, "n 3"], marks: Landmarks) -> Float[np.ndarray, "n 3"]:
    """Reflectance (linear RGB) of surface points given by their place in the rest pose."""
    p = np.asarray(rest_m, np.float64)
    if outfit.pattern == MAPPED:
        return _map_of_body(p, marks)
    across, up = np.abs(p[:, 0]), p[:, 1]
    shoulder, wrist = abs(marks["left shoulder"][0]), abs(marks["left wrist"][0])
    hip, ankle = marks["left hip"][1], marks["left ankle"][1]
    colour = np.broadcast_to(outfit.skin, (len(p), 3)).copy()

    waist = marks["pelvis"][1] + outfit.waist * (marks["spine3"][1] - marks["pelvis"][1])
    collar = marks["neck"][1] - 0.35 * across
    shirt = (up > waist) & (across < shoulder + outfit.sleeve * (wrist - shoulder)) & (up < collar)
    shirt |= (up > waist) & (across > 0.6 * shoulder) & (across < shoulder + outfit.sleeve * (wrist - shoulder))
    colour[shirt] = _shirt(outfit, p[shirt], marks)
    hem = hip + outfit.leg * (ankle - hip)
    colour[(up <= waist) & (up > hem)] = outfit.trousers
    colour[up < ankle - 0.01] = outfit.shoes

    middle, half = (marks.head_high + marks.head_low) / 2, (marks.head_high - marks.head_low) / 2
    in_head = (p - middle) / half
    hairline = outfit.hair_back + (outfit.hair_front - outfit.hair_back) * (in_head[:, 2] + 1) / 2
    head = up > marks.head_low[1] - 0.05
    colour[head & (across < shoulder) & (in_head[:, 1] > hairline) & (in_head[:, 2] < 0.75)] = outfit.hair
    for eye in ("leye", "reye"):
        colour[np.linalg.norm(p - marks[eye], axis=1) < 0.012] = 0.02
    mouth = (p - marks["nose"] - [0, -0.042, -0.01]) / [0.022, 0.007, 0.03]
    colour[(mouth**2).sum(1) < 1] = outfit.skin * [0.75, 0.4, 0.4]
    return colour
