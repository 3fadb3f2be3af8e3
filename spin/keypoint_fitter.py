"""Bodies from keypoints in one call: the way into this package from Python.

    from spin import Fitter
    fits = Fitter.load().fit_coco(keypoints, boxes)

The same fits as `spin-pipe fit-static` makes of the same keypoints and boxes: `Fitter` crops, fits and returns arrays,
`spin.fitting` does the work.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from spin.body import BodyMesh, CompactBody, choose_body, load_body
from spin.body.model_file import OPEN_BODY
from spin.camera import CROP_PX
from spin.crop import BOX_MARGIN, box_around_keypoints, crop_camera, keypoints_to_crop
from spin.errors import BodyFileError, KeypointError
from spin.fitting import fitter as engine
from spin.fitting.lifter import find_lifter, load_lifter
from spin.fitting.objective import Objective
from spin.fitting.observations import Observations, Views
from spin.fitting.prior import find_prior, load_pose_prior
from spin.fitting.verdicts import VALID, VERDICTS, is_doubtful
from spin.joint_names import joint_index, known_names
from spin.joints import COCO_NAMES, JOINTS, KEYPOINT_TO_MODEL

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy.typing import ArrayLike

    from spin.body import BodyData, MeshOutput

_BATCH = 4096  # people fitted at a time: memory stays below a gigabyte
_LEAST_SPAN_PX = 4.0  # coordinates divided by the image's size span less
NO_BOX = "a box without area, or not in pixels"


@dataclass(frozen=True)
class BodyFits:
    """One body for each person, in the order of the keypoints. All arrays are NumPy's, float32.

    pose: axis angles (rad) of SMPL's 24 joints. betas: shape. camera_m: translation (m) that takes the body's own frame to
    the camera's (x right, y down, z away). focal_px and principal_px: that camera in pixels of the image, so that
    a point X of the body is seen at focal_px * (X + camera_m)_xy / (X + camera_m)_z + principal_px. Without a focal
    length of yours it is SPIN's: 5000 px over a 224 px crop, centred on the person's box.
    score: the expected PA-MPJPE in mm with the default objective; with `published` the reprojection loss in px². The
    lower, the better. status: "valid", or what is wrong with the keypoints or the fit. doubtful: a valid fit whose expected
    error is above 100 mm (with `published` nothing is known of it, and none is).
    """

    pose: Float[np.ndarray, "N 72"]
    betas: Float[np.ndarray, "N 10"]
    camera_m: Float[np.ndarray, "N 3"]
    focal_px: Float[np.ndarray, " N"]
    principal_px: Float[np.ndarray, "N 2"]
    score: Float[np.ndarray, " N"]
    status: tuple[str, ...]
    doubtful: Bool[np.ndarray, " N"]
    body: BodyData

    def __len__(self) -> int:
        return len(self.pose)

    @cached_property
    def valid(self) -> Bool[np.ndarray, " N"]:
        """True where the status is "valid"."""
        return np.array([status == VERDICTS[VALID] for status in self.status], bool)

    @property
    def faces(self) -> np.ndarray:
        """Triangles of the mesh, (F, 3): indices of vertices."""
        return np.asarray(self.body.faces)

    def vertices(self) -> Float[np.ndarray, "N V 3"]:
        """Return the meshes (m) in the camera's frame; add nothing to project them."""
        return self._posed().vertices_m.numpy() + self.camera_m[:, None]

    def joints(self) -> Float[np.ndarray, "N 49 3"]:
        """Return the 49 keypoints of the bodies (m) in the camera's frame, in the order of `joint_names`."""
        return self._posed().points_m[:, list(KEYPOINT_TO_MODEL)].numpy() + self.camera_m[:, None]

    def keypoints_px(self) -> Float[np.ndarray, "N 49 2"]:
        """Return where the image shows the bodies' 49 keypoints, in pixels."""
        joints = self.joints()
        return self.focal_px[:, None, None] * joints[..., :2] / joints[..., 2:] + self.principal_px[:, None]

    def save(self, path: str | Path) -> Path:
        """Write the fits in a format of SPIN's and return the path; the file is whole or not there.

        `.npz`: final fits, pose (N, 72), betas (N, 10), valid_fit (N,). `.npy`: static fits, (N, 82), pose then betas.
        Rows without a valid fit are zeros in an .npy, as published. Raise ValueError for another ending.
        """
        target = Path(path)
        if target.suffix not in (".npz", ".npy"):
            raise ValueError(f"{target}: expected a name that ends in .npz (final fits) or .npy (static fits)")
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                if target.suffix == ".npz":
                    np.savez(file, pose=self.pose, betas=self.betas, valid_fit=self.valid)
                else:
                    rows = np.concatenate([self.pose, self.betas], 1)
                    np.save(file, np.where(self.valid[:, None], rows, 0).astype(np.float32))
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return target

    def _posed(self) -> MeshOutput:
        with torch.no_grad():
            return BodyMesh(self.body)(torch.from_numpy(self.pose), torch.from_numpy(self.betas))


class Fitter:
    """Fits bodies to the 2D keypoints of people. Make one with `Fitter.load()` and use it for any number of calls."""

    def __init__(self, fitter: engine.BatchFitter, body: BodyData) -> None:
        self._fitter, self.body = fitter, body

    @classmethod
    def load(
        cls,
        data: str | Path | None = None,
        *,
        objective: Literal["anchored", "published"] = "anchored",
        solver: Literal["lm", "adam"] = "lm",
        device: str | torch.device = "cpu",
    ) -> Fitter:
        """Return a fitter of the open body, or of the SMPL files in the folder `data`.

        objective: "anchored" holds a fit to the lifter's estimate as firmly as that is certain; "published" is SMPLify's,
        from several starts. Raise BodyFileError or ModelFileError for files that can't be used.
        """
        folder = None if data is None else Path(data)
        config = engine.FitConfig(
            solver=solver,
            objective=Objective.named(objective),
            init=("lifter",) if objective == "anchored" else ("multistart",),
        )
        choice = choose_body(folder)
        if choice.ignored and choice.path == OPEN_BODY:  # nothing would say so
            raise BodyFileError(f"body: {choice.line}; put SMPL's file there, or leave `data` out for the open body")
        path = choice.path
        body = load_body(path)
        chosen = torch.device(device)
        lifter = None
        if objective == "anchored":
            lifter = load_lifter(find_lifter(folder, path), body.fingerprint).to(chosen)
        prior = load_pose_prior(find_prior(folder, path)).to(chosen)
        return cls(engine.BatchFitter(CompactBody(body).to(chosen), prior, config, lifter), body)

    def fit_coco(
        self,
        keypoints: ArrayLike | torch.Tensor,
        boxes: ArrayLike | torch.Tensor | None = None,
        *,
        focal_px: ArrayLike | None = None,
        principal_px: ArrayLike | None = None,
    ) -> BodyFits:
        """Fit COCO's 17 keypoints, (N, 17, 3): x and y in pixels of the image, confidence 0 to 1 (0: not seen).

        COCO's own visibilities 0, 1, 2 are taken for unseen, seen, seen. boxes: (N, 4), x, y, width, height in pixels;
        without them a box is made around the keypoints. focal_px (N,) and principal_px (N, 2): the image's camera, if it
        is known; give both. One person may come without the first axis. Raise KeypointError for another shape, and for
        coordinates that are not pixels; one person who can't be fitted costs no one else a fit (see `BodyFits.status`).
        """
        given = _array(keypoints, len(COCO_NAMES))
        if np.isin(given[..., 2], (0, 1, 2)).all():
            given[..., 2] = given[..., 2] > 0
        return self._fit(given, list(JOINTS.coco), boxes, focal_px, principal_px)

    def fit_openpose(
        self,
        keypoints: ArrayLike | torch.Tensor,
        boxes: ArrayLike | torch.Tensor | None = None,
        *,
        focal_px: ArrayLike | None = None,
        principal_px: ArrayLike | None = None,
    ) -> BodyFits:
        """Fit OpenPose's BODY_25 keypoints, (N, 25, 3), as its files have them. Otherwise as `fit_coco`."""
        indices = list(range(JOINTS.count)[JOINTS.openpose])
        return self._fit(_array(keypoints, len(indices)), indices, boxes, focal_px, principal_px)

    def fit_named(
        self,
        names: Sequence[str],
        keypoints: ArrayLike | torch.Tensor,
        boxes: ArrayLike | torch.Tensor | None = None,
        *,
        focal_px: ArrayLike | None = None,
        principal_px: ArrayLike | None = None,
    ) -> BodyFits:
        """Fit any named joints, (N, len(names), 3): "left_knee", "LKnee", "pelvis" …  Otherwise as `fit_coco`.

        Raise KeypointError for a name that no joint has, with all that there are, and for a joint named twice.
        """
        indices = []
        for name in names:
            index = joint_index(name)
            if index is None:
                raise KeypointError(f"names: no joint is called {name!r}; there are: {known_names()}")
            if index in indices:
                raise KeypointError(f"names: {JOINTS.names[index]} appears twice; leave one out")
            indices.append(index)
        return self._fit(_array(keypoints, len(indices)), indices, boxes, focal_px, principal_px)

    def _fit(
        self,
        keypoints: Float[np.ndarray, "N J 3"],
        indices: list[int],
        boxes: ArrayLike | torch.Tensor | None,
        focal_px: ArrayLike | None,
        principal_px: ArrayLike | None,
    ) -> BodyFits:
        people = np.zeros((len(keypoints), JOINTS.count, 3), np.float32)
        people[:, indices] = keypoints
        _require_pixels(people)
        center, scale, usable = _boxes(people, boxes)
        focal, principal, known = _cameras(len(people), center, focal_px, principal_px)
        crop_focal, crop_principal = crop_camera(center, scale, focal, principal, known)
        crops = keypoints_to_crop(people, center, scale)
        parts = [
            self._fitter.fit(_one_view(crops[at], crop_focal[at], crop_principal[at]))
            for at in (slice(i, i + _BATCH) for i in range(0, len(people), _BATCH))
        ]
        zoom = CROP_PX / (200.0 * scale)

        def column(name: str, *shape: int) -> np.ndarray:
            arrays = [getattr(part, name).cpu().numpy() for part in parts]
            return np.concatenate(arrays) if arrays else np.zeros((0, *shape), np.float32)

        verdicts, score = column("verdict").astype(int), column("score")
        doubtful = is_doubtful(verdicts, score) & usable & (self._fitter.scorer is not None)
        return BodyFits(
            pose=column("pose_aa", 72),
            betas=column("betas", 10),
            camera_m=column("camera_m", 3),
            focal_px=np.where(known, focal, crop_focal / zoom).astype(np.float32),
            principal_px=np.where(known[:, None], principal, center).astype(np.float32),
            score=score,
            status=tuple(VERDICTS[v] if fine else NO_BOX for v, fine in zip(verdicts, usable)),
            doubtful=doubtful,
            body=self.body,
        )


def _array(keypoints: ArrayLike | torch.Tensor, joints: int) -> Float[np.ndarray, "N J 3"]:
    """Return a copy of the keypoints as float64 (N, joints, 3)."""
    if isinstance(keypoints, torch.Tensor):
        keypoints = keypoints.detach().cpu().numpy()
    try:
        out = np.array(keypoints, np.float64)
    except (TypeError, ValueError) as error:
        raise KeypointError(f"keypoints: expected an array of numbers, (N, {joints}, 3); {error}") from error
    out = out[None] if out.shape == (joints, 3) else out
    if out.ndim != 3 or out.shape[1:] != (joints, 3):
        raise KeypointError(f"keypoints have shape {out.shape}, expected (N, {joints}, 3): x, y in pixels, confidence 0 to 1")
    return out


def _require_pixels(people: Float[np.ndarray, "N 49 3"]) -> None:
    """Raise KeypointError if no one spans more than a few pixels: coordinates divided by the image's size."""
    seen = people[people[..., 2] > 0][:, :2]
    if len(seen) and np.isfinite(seen).all() and np.abs(seen).max() < _LEAST_SPAN_PX:
        raise KeypointError(
            f"keypoints: all coordinates are below {_LEAST_SPAN_PX:g}; expected pixels of the image. Multiply "
            "coordinates of 0 to 1 by its width and height"
        )


def _boxes(
    people: Float[np.ndarray, "N 49 3"], boxes: ArrayLike | torch.Tensor | None
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"], np.ndarray]:
    """Return centre (px) and scale (side / 200 px) of each crop, and which boxes have an area."""
    given: np.ndarray
    if boxes is None:
        seen = np.array([(person[:, 2] > 0).any() for person in people], bool)
        found = [box_around_keypoints(p) if any(p[:, 2] > 0) else np.zeros(4) for p in people]
        given = np.array(found, np.float64).reshape(-1, 4)
    else:
        given = np.array(boxes.detach().cpu() if isinstance(boxes, torch.Tensor) else boxes, np.float64)
        given = given[None] if given.shape == (4,) else given
        seen = np.ones(len(people), bool)
        if given.shape != (len(people), 4):
            raise KeypointError(f"boxes have shape {given.shape}, expected ({len(people)}, 4): x, y, width, height in pixels")
    with np.errstate(invalid="ignore"):
        area: np.ndarray = np.isfinite(given).all(1) & (given[:, 2:].min(1) > 0) & (given[:, 2:].max(1) >= 1)
    safe = np.where(area[:, None], given, (0.0, 0.0, 1.0, 1.0))
    center = (safe[:, :2] + safe[:, 2:] / 2).astype(np.float32)
    scale = (BOX_MARGIN * safe[:, 2:].max(1) / 200).astype(np.float32)
    return center, scale, area | ~seen


def _cameras(
    count: int, center: Float[np.ndarray, "N 2"], focal_px: ArrayLike | None, principal_px: ArrayLike | None
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N 2"], Bool[np.ndarray, " N"]]:
    """Return focal length and principal point of each image, and whether they are known."""
    if (focal_px is None) != (principal_px is None):
        raise KeypointError("camera: expected focal_px and principal_px together, found one of them")
    if focal_px is None or principal_px is None:
        return np.ones(count, np.float32), center, np.zeros(count, bool)
    try:
        focal = np.broadcast_to(np.asarray(focal_px, np.float32), (count,))
        principal = np.broadcast_to(np.asarray(principal_px, np.float32), (count, 2))
    except ValueError as error:
        raise KeypointError(f"camera: expected focal_px ({count},) and principal_px ({count}, 2)") from error
    if not (np.isfinite(focal) & (focal > 0)).all() or not np.isfinite(principal).all():
        raise KeypointError("camera: expected focal lengths above 0 and finite principal points, in pixels")
    return focal, principal, np.ones(count, bool)


def _one_view(
    crops: Float[np.ndarray, "n 49 3"], focal: Float[np.ndarray, " n"], principal: Float[np.ndarray, "n 2"]
) -> Observations:
    count = len(crops)
    views = Views(
        torch.eye(3).expand(count, 1, 3, 3),
        torch.zeros(count, 1, 3),
        torch.from_numpy(focal)[:, None],
        torch.from_numpy(principal)[:, None],
    )
    return Observations(torch.from_numpy(crops)[:, None], views)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
