"""Which sample each row of a published result file is of: the file itself has pose, betas and camera, and names no one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import StageError
from pipelines.exchange.agreement import PLACING, Bodies
from pipelines.exchange.assignment import published_names
from pipelines.fitting.assets import FittingFiles
from pipelines.folders import DataFolder
from store.annotations.parquet import read_provenance
from store.exchange import match_samples, read_keys
from store.exchange.io import numbers, read_arrays

if TYPE_CHECKING:
    from jaxtyping import Int

    from store.annotations.table import Annotations

_COMPARED = 2000  # bodies, at most, that are compared with keypoints
_UNSORTED = ("pw3d",)  # readers of data sets that the published scripts read in the order that the file system lists them in


def samples_of_result(data: DataFolder, dataset: str, file: Path, annotations: Annotations) -> Int[np.ndarray, " n"] | None:
    """Return the sample of each row, -1 where the data set doesn't have it; None if the file itself says which.

    Rows are those of SPIN's data set file, if the data folder has it, else the data set's. Raise StageError if the bodies don't
    fit the people of that order; or if they must confirm it, and don't: 3DPW's published order is the file system's.
    """
    found = read_arrays(file, ("pose", "betas", "rows", "images"), "a result file")
    if {"rows", "images"} & set(found) or not {"pose", "betas"} <= set(found):
        return None
    count = len(found["pose"]) if found["pose"].ndim else 0
    names = published_names(data, dataset)
    if names.is_file():
        keys = read_keys(names)
        if len(keys.image) == count:
            return match_samples(keys, annotations)[0]
    if count != len(annotations):
        return None
    shapes = {"pose": (count, 72), "betas": (count, 10)}
    pose, betas = (numbers(file, name, found[name], shape) for name, shape in shapes.items())
    given = np.flatnonzero(np.isfinite(pose).all(1) & np.isfinite(betas).all(1))
    some = given[:: max(1, len(given) // _COMPARED)]
    bodies = Bodies(FittingFiles.of(data, PLACING), annotations, some, pose[some], betas[some])
    unsorted = read_provenance(data.annotations(dataset)).get("reader") in _UNSORTED
    if unsorted and not bodies.confirmed():
        why = "its bodies don't confirm that its rows have the data set's order, and the published order is the file system's"
    elif bodies.agreement().refuted:
        why = "most of its bodies don't fit the people of the data set's order: other bodies of the file fit them better"
    else:
        return np.arange(count)
    raise StageError(f"{file}: {why}; put SPIN's {names.name} into {names.parent}, which says whose each row is")
