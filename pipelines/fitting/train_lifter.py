"""Trains the lifter of the body in use and keeps it in the data folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pipelines.errors import UsageError
from pipelines.folders import DataFolder
from pipelines.progress import progress, say
from spin.body import CompactBody, load_body
from spin.body.model_file import OPEN_BODY, read_npz
from spin.errors import BodyFileError
from spin.fitting.lifter import LifterInfo, save_lifter
from spin.fitting.lifter_training import BLOCKS, WIDTH
from spin.fitting.lifter_training import train_lifter as train
from spin.fitting.prior import load_pose_prior
from spin.fitting.sampling import PoseSource
from spin.fitting.scorer_calibration import PEOPLE, calibrate
from store.files.atomic import write_named_by_content

if TYPE_CHECKING:
    from jaxtyping import Float

_LARGEST_RAD = 4 * np.pi  # of an axis-angle number that is an angle at all


@dataclass(frozen=True)
class LifterSummary:
    """`expects_mm` is the PA-MPJPE that the lifter expects of itself, on average, on people it practised on."""

    path: Path
    expects_mm: float


def train_lifter(
    data: DataFolder,
    *,
    steps: int,
    seed: int = 0,
    poses: Path | None = None,
    again: bool = False,
    people: int = PEOPLE,
) -> LifterSummary:
    """Writes data/lifter.npz, whole or not at all. UsageError if there is a lifter already, and `again` is not given.

    `people`: how many the scorer is calibrated on.
    """
    if data.own_lifter.is_file() and not again:
        raise UsageError(f"{data.own_lifter}: there is a lifter already; --overwrite trains another")
    if data.body == OPEN_BODY and not again:
        raise UsageError(
            "the open body comes with a lifter; --overwrite trains another one into the data folder, which then takes its place"
        )
    body = load_body(data.body)
    more = None if poses is None else read_poses(poses)
    compact, prior = CompactBody(body), load_pose_prior(data.prior)
    source = PoseSource(prior, more)
    words = data.prior.name if poses is None or more is None else f"{data.prior.name}, {len(more)} of {poses.name}"
    info = LifterInfo(body.fingerprint, steps, seed, words, WIDTH, BLOCKS)
    with progress(steps, "train-lifter", "step") as bar:

        def follow(step: int, figures: dict[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix_str(", ".join(f"{n} {v:.3g}" for n, v in figures.items()), refresh=False)

        lifter = train(compact, source, info, progress=follow)
        bar.update(steps - bar.n)
    say("calibrating its judgement of fits")
    calibrate(compact, prior, lifter, source, seed, people)

    def fill(handle: BinaryIO) -> str:
        save_lifter(handle, lifter)
        return data.own_lifter.name

    data.root.mkdir(parents=True, exist_ok=True)
    write_named_by_content(data.root, fill)
    return LifterSummary(data.own_lifter, lifter.expects_mm)


def read_poses(path: Path) -> Float[np.ndarray, "N 69"]:
    """Body poses of an .npz. UsageError if it has none of that shape."""
    try:
        content = read_npz(path)
    except BodyFileError as error:
        raise UsageError(f"--poses {error}") from error
    for key in ("poses", "pose"):
        if key in content:
            array = np.asarray(content[key])
            wide = array.ndim == 2 and (array.shape[1] == 69 or array.shape[1] >= 72)
            if wide and np.issubdtype(array.dtype, np.floating):
                # 69 are body angles; 72 and more begin with the root's. Beyond 72 (AMASS: 156) fingers follow the wrists.
                out = np.array(array if array.shape[1] == 69 else array[:, 3:72], np.float32)
                if array.shape[1] > 72:
                    out[:, 63:] = 0
                out = out[(np.abs(out) <= _LARGEST_RAD).all(1)]  # false for what is not a number
                if not len(out):
                    raise UsageError(f"--poses {path}: none of its {len(array)} poses is one of finite angles (rad)")
                return out
    raise UsageError(f"--poses {path}: has {sorted(content)}; expected 'poses' or 'pose' of shape (N, 72) or (N, 69)")
