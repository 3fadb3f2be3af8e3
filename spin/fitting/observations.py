"""What is known of each person: keypoints in one or several views, those views' cameras, and 3D joints if there are any."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from spin.camera import CROP_PX, FOCAL_PX, REACH_PX
from spin.errors import KeypointError
from spin.joints import JOINTS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

# Coordinates beyond this are never measurements, and their squares exceed the digits of float32.
FARTHEST_PX, FARTHEST_M = 1e5, 1e3


@dataclass(frozen=True)
class Views:
    """Cameras of V views. A point X (m) of the fit's frame is seen at f p_xy / p_z + c (px), with p = R X + t."""

    rotation: Float[Tensor, "B V 3 3"]
    translation_m: Float[Tensor, "B V 3"]
    focal_px: Float[Tensor, "B V"]
    principal_px: Float[Tensor, "B V 2"]

    @classmethod
    def crops(cls, like: Tensor) -> Views:
        """The published camera of one crop, for every sample of `like` (B, …): 5000 px, its centre in the middle."""
        count = len(like)
        return cls(
            torch.eye(3, dtype=like.dtype, device=like.device).expand(count, 1, 3, 3),
            like.new_zeros(count, 1, 3),
            like.new_full((count, 1), FOCAL_PX),
            like.new_full((count, 1, 2), CROP_PX / 2),
        )

    def take(self, rows: Int[Tensor, " n"]) -> Views:
        return Views(*(getattr(self, f.name)[rows] for f in fields(Views)))

    def place(self, points_m: Float[Tensor, "B P 3"]) -> Float[Tensor, "B V P 3"]:
        """Points of the fit's frame in each camera's."""
        return points_m[:, None] @ self.rotation.transpose(-1, -2) + self.translation_m[:, :, None]

    def project(self, points_m: Float[Tensor, "B P 3"]) -> Float[Tensor, "B V P 2"]:
        placed = self.place(points_m)
        scaled = self.focal_px[:, :, None, None] * placed[..., :2] / placed[..., 2:]
        return scaled + self.principal_px[:, :, None]


@dataclass(frozen=True)
class Observations:
    """Keypoints (px of each view's crop, confidence 0 to 1; no confidence: not seen), their views, and 3D joints.

    `joints3d_m` are the 24 joints of the superset in the fit's axes, about any origin, with confidences; None: not known.
    """

    keypoints_px: Float[Tensor, "B V 49 3"]
    views: Views
    joints3d_m: Float[Tensor, "B 24 4"] | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.keypoints_px.shape)
        if len(shape) != 4 or shape[2:] != (JOINTS.count, 3) or not shape[1]:
            raise KeypointError(f"keypoints have shape {shape}, expected (B, views, 49, 3)")
        for item in fields(Views):
            found = tuple(getattr(self.views, item.name).shape)
            if found[:2] != shape[:2]:
                raise KeypointError(f"the views' {item.name} has shape {found}, expected {shape[:2]} first: samples and views")
        joints = self.joints3d_m
        if joints is not None and tuple(joints.shape) != (shape[0], 24, 4):
            raise KeypointError(f"3D joints have shape {tuple(joints.shape)}, expected ({shape[0]}, 24, 4)")

    @classmethod
    def of(cls, keypoints_crop_px: Float[Tensor, "B 49 3"], joints3d_m: Tensor | None = None) -> Observations:
        """One crop with the published camera. KeypointError if the tensor is not (B, 49, 3)."""
        if keypoints_crop_px.ndim != 3 or tuple(keypoints_crop_px.shape[1:]) != (JOINTS.count, 3):
            raise KeypointError(f"keypoints have shape {tuple(keypoints_crop_px.shape)}, expected (B, 49, 3)")
        return cls(keypoints_crop_px[:, None], Views.crops(keypoints_crop_px), joints3d_m)

    def __len__(self) -> int:
        return len(self.keypoints_px)

    def take(self, rows: Int[Tensor, " n"]) -> Observations:
        joints = None if self.joints3d_m is None else self.joints3d_m[rows]
        return Observations(self.keypoints_px[rows], self.views.take(rows), joints)

    def view(self, view: int) -> Observations:
        """Return what one view sees, still in the fit's frame, without 3D joints."""
        views = Views(*(getattr(self.views, f.name)[:, view : view + 1] for f in fields(Views)))
        return Observations(self.keypoints_px[:, view : view + 1], views)

    def to(self, device: torch.device, dtype: torch.dtype) -> Observations:
        views = Views(*(getattr(self.views, f.name).to(device, dtype) for f in fields(Views)))
        joints = None if self.joints3d_m is None else self.joints3d_m.to(device, dtype)
        return Observations(self.keypoints_px.to(device, dtype), views, joints)

    def finite(self) -> Bool[Tensor, " B"]:
        """Return where all that is seen is finite. Coordinates without confidence don't matter."""
        out = _known_within(self.keypoints_px, torch.inf)
        for item in fields(Views):
            out = out & torch.isfinite(getattr(self.views, item.name)).flatten(1).all(1)
        return out if self.joints3d_m is None else out & _known_within(self.joints3d_m, torch.inf)

    def within_bounds(self) -> Bool[Tensor, " B"]:
        """Return where all that is seen is finite and near enough to be a measurement."""
        out = _known_within(self.keypoints_px, FARTHEST_PX)
        return out if self.joints3d_m is None else out & _known_within(self.joints3d_m, FARTHEST_M)

    def confidence_in_range(self) -> Bool[Tensor, " B"]:
        """Return where every confidence is between 0 and 1."""
        out = _within_unit(self.keypoints_px[..., 2])
        return out if self.joints3d_m is None else out & _within_unit(self.joints3d_m[..., 3])

    def centred(self) -> Observations:
        """The same with each sample's 3D joints about their weighted mean: their origin means nothing, and costs digits."""
        if self.joints3d_m is None:
            return self
        weight = self.joints3d_m[..., 3:]
        mean = (weight * self.joints3d_m[..., :3]).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1e-6)
        places = torch.where(weight > 0, self.joints3d_m[..., :3] - mean, 0.0)
        return replace(self, joints3d_m=torch.cat([places, weight], -1))

    def beyond_reach(self) -> Bool[Tensor, "B V 49"]:
        """Which keypoints are seen, but further outside their crop than REACH_PX."""
        xy = self.keypoints_px[..., :2]
        outside = torch.maximum(-xy, xy - CROP_PX).amax(-1) > REACH_PX
        return outside & (self.keypoints_px[..., 2] > 0)

    def within_reach(self) -> Observations:
        """The same without the keypoints that are beyond reach."""
        return replace(self, keypoints_px=torch.where(self.beyond_reach()[..., None], 0.0, self.keypoints_px))

    def without(self, refused: Bool[Tensor, " B"]) -> Observations:
        """The same with nothing seen of some samples, and zeros where nothing is seen: safe to compute with."""
        views = self.views
        if bool(refused.any()):
            safe = Views.crops(self.keypoints_px)
            views = Views(
                *(
                    torch.where(_like(refused, getattr(views, f.name)), getattr(safe, f.name), getattr(views, f.name))
                    for f in fields(Views)
                )
            )
        joints = None if self.joints3d_m is None else _cleared(self.joints3d_m, refused)
        return replace(self, keypoints_px=_cleared(self.keypoints_px, refused), views=views, joints3d_m=joints)


@dataclass(frozen=True)
class PreparedObservations:
    """Observations that are safe to compute with, on a fitter's device: what `BatchFitter.prepare` returns.

    They show nothing of a sample that can't be fitted; `verdict` has the reason, an index of VERDICTS.
    """

    observations: Observations
    verdict: Int[Tensor, " B"]

    def __len__(self) -> int:
        return len(self.verdict)

    def take(self, rows: Int[Tensor, " n"]) -> PreparedObservations:
        return PreparedObservations(self.observations.take(rows), self.verdict[rows])


def _like(rows: Tensor, array: Tensor) -> Tensor:
    return rows.reshape(-1, *[1] * (array.ndim - 1))


def _cleared(marked: Tensor, refused: Tensor) -> Tensor:
    """Zeros where the last number, a confidence, is none, and for refused samples."""
    seen = (marked[..., -1:] > 0) & ~_like(refused, marked)
    return torch.where(seen, marked, torch.zeros_like(marked))


def _known_within(marked: Tensor, farthest: float) -> Bool[Tensor, " B"]:
    """Where every last number, a confidence, is finite, and with it, unless it is zero, the numbers before it."""
    confidence, places = marked[..., -1], marked[..., :-1]
    within = ((places.abs() <= farthest) & torch.isfinite(places)).all(-1) | (confidence == 0)
    return (torch.isfinite(confidence) & within).flatten(1).all(1)


def _within_unit(confidence: Tensor) -> Bool[Tensor, " B"]:
    return ((confidence >= 0) & (confidence <= 1)).flatten(1).all(1)
