"""Which sample each row of a file of bodies belongs to: by what the file, or SPIN's data set file, names, or by its order.

A file that names its rows is matched by them. Static and final fits name nothing: their rows are those of SPIN's data set file
(`dataset_extras/coco_2014_train.npz`), which does, if it is in the data folder; else they follow the data set's own order. What
is not certain is compared with the keypoints: a file most of whose bodies don't fit their people is rejected as a whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.errors import StageError
from pipelines.exchange.agreement import PLACING, Agreement, Bodies
from pipelines.fitting.assets import FittingFiles
from pipelines.folders import DataFolder
from spin.rotations import matrix_to_axis_angle
from store.exchange import PUBLISHED_NAMES, StaticFits, match_samples, read_keys, same_boxes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int

    from store.annotations.table import Annotations

MISFIT = "does not fit its person: other bodies of the file fit the keypoints better"
_MOST_RAD = 1000.0  # beyond, float32 no longer tells which way an angle points
_NUMBERED = re.compile(r"joints\.mat (\d+)")


@dataclass(frozen=True)
class Assignment:
    """Usable rows of a file, the sample of each, and why the other rows are not used.

    `by`: what the rows were found by. `certain`: rows that need no comparison with keypoints.
    """

    rows: Int[np.ndarray, " k"]
    samples: Int[np.ndarray, " k"]
    problems: dict[int, str]
    by: str
    certain: Bool[np.ndarray, " k"]


def assign(data: DataFolder, dataset: str, file: Path, found: StaticFits, annotations: Annotations) -> Assignment:
    """Return whose bodies a file holds. `problems` has rows that can't be used or don't fit their people.

    Raise StageError, with the counts, if the file can't be assigned, or if most of its bodies don't fit their people.
    """
    files = FittingFiles.of(data, PLACING)
    rejected: list[str] = []
    for assignment in _candidates(data, dataset, found, annotations):
        doubtful = np.flatnonzero(~assignment.certain)
        rows = assignment.rows[doubtful]
        bodies = Bodies(files, annotations, assignment.samples[doubtful], axis_angles(found)[rows], found.betas[rows])
        agreement = bodies.agreement()
        if found.keys is None and agreement.refuted:
            rejected.append(_refuted(agreement, assignment))
            continue
        misfit = np.zeros(len(assignment.rows), bool)
        misfit[doubtful] = agreement.misfit
        problems = assignment.problems | dict.fromkeys(assignment.rows[misfit].tolist(), MISFIT)
        return Assignment(
            assignment.rows[~misfit], assignment.samples[~misfit], problems, assignment.by, assignment.certain[~misfit]
        )
    raise StageError(f"{file}: {'; '.join(rejected) or _counts(data, dataset, found, annotations)}; {_remedy(data, dataset)}")


def _candidates(data: DataFolder, dataset: str, found: StaticFits, annotations: Annotations) -> list[Assignment]:
    """Return the ways in which the rows may be assigned, the best first."""
    if found.keys is not None:
        samples, problems = match_samples(found.keys, annotations)
        certain = same_boxes(found.keys, annotations, samples)
        return [_assignment(found, samples, problems, "image and box", certain)]
    out: list[Assignment] = []
    names = published_names(data, dataset)
    keys = read_keys(names) if names.is_file() else None
    if keys is not None and len(keys.image) == len(found):
        samples, problems = match_samples(keys, annotations)
        out.append(_assignment(found, samples, problems, f"the rows of {names}"))
    count = len(annotations)
    if len(found) == count:
        out.append(_assignment(found, np.arange(count), {}, "its order"))
    else:
        numbered = numbered_rows(annotations, len(found))
        if numbered is not None:
            missing = "its image or person was rejected by preprocess"
            problems = dict.fromkeys(np.flatnonzero(numbered < 0).tolist(), missing)
            out.append(_assignment(found, numbered, problems, "the rows of joints.mat"))
    return out


def numbered_rows(annotations: Annotations, count: int) -> Int[np.ndarray, " n"] | None:
    """Return the sample of each of `count` rows of joints.mat, -1 where it has none; None if samples don't come from one.

    HR-LSPET's published fits have a row for each of its images, also those that can't be used here.
    """
    numbers = [_NUMBERED.fullmatch(source) for source in annotations.source]
    if not len(numbers) or not all(numbers):
        return None
    places = np.array([int(match[1]) - 1 for match in numbers if match])
    if places.max() >= count or len(np.unique(places)) != len(places):
        return None
    samples = np.full(count, -1)
    samples[places] = np.arange(len(places))
    return samples


def _assignment(
    found: StaticFits,
    samples: Int[np.ndarray, " n"],
    problems: dict[int, str],
    by: str,
    certain: Bool[np.ndarray, " n"] | None = None,
) -> Assignment:
    far = np.flatnonzero((np.abs(found.pose) > _MOST_RAD).any(1))
    problems = problems | dict.fromkeys(far.tolist(), f"an angle above {_MOST_RAD:g} rad") | found.problems
    usable = found.valid & (samples >= 0)
    usable[list(problems)] = False
    rows = np.flatnonzero(usable)
    return Assignment(rows, samples[rows], problems, by, np.zeros(len(rows), bool) if certain is None else certain[rows])


def axis_angles(found: StaticFits) -> Float32[np.ndarray, "n 72"]:
    """Return the file's poses, from matrices where the format has those."""
    if found.rotations is None:
        return found.pose
    matrices = np.where(found.valid[:, None, None, None], found.rotations, np.eye(3))
    return matrix_to_axis_angle(torch.from_numpy(matrices)).flatten(1).numpy().astype(np.float32)


def published_names(data: DataFolder, dataset: str) -> Path:
    """Return where SPIN's data set file is looked for, whose rows its files of fits and results have."""
    return data.dataset_extra(PUBLISHED_NAMES.get(dataset, f"{dataset}.npz"))


def _refuted(agreement: Agreement, assignment: Assignment) -> str:
    wrong, of = int(agreement.misfit.sum()), int(agreement.judged.sum())
    return f"by {assignment.by}, {wrong} of {of} bodies don't fit their people: other bodies of the file fit them better"


def _counts(data: DataFolder, dataset: str, found: StaticFits, annotations: Annotations) -> str:
    listing = data.rejected(dataset)
    why = f" (preprocess rejected others, listed in {listing})" if listing.is_file() else ""
    return f"the data set has {len(annotations)} samples{why}, expected a row for each, found {len(found)} rows"


def _remedy(data: DataFolder, dataset: str) -> str:
    names = published_names(data, dataset)
    return f"SPIN's {names.name} in {names.parent}, if it has the file's rows, says whose each row is"
