"""Fits for a training without 3D (`--ignore-3d`): of one view's keypoints alone, which the name of their run says.

A fit to 3D joints, or to several views of a pose, knows the depth that such a training must do without. The store's records
hold the run that made them, so that one can be told from the other: runs that use no 3D have a name that ends in MARK.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import StageError
from pipelines.fitting.from_annotations import groups_of
from store.errors import FitStoreNotFoundError
from store.fits.records import Source
from store.fits.store import FitStore

if TYPE_CHECKING:
    from jaxtyping import Bool

    from pipelines.folders import DataFolder
    from store.annotations.table import Annotations
    from store.fits.records import Fits

MARK = " --ignore-3d"  # no run that a user names has a blank in it
_PLACE = "fits-without-3d"


def run_name(run: str, ignore_3d: bool) -> str:
    """Return the name by which the store knows a run."""
    return run + MARK if ignore_3d else run


def fits_with_3d(annotations: Annotations, fits: Fits, runs: Mapping[int, str]) -> Bool[np.ndarray, " n"]:
    """Return which fits may know 3D: of a pose with 3D joints or several views, and by a run that is not marked.

    `runs`: the names of the store's runs by their codes. A fit of an unknown run, such as an imported one, may know 3D.
    """
    helped = np.zeros(len(annotations), bool)
    for group in groups_of(annotations):
        helped[group] = len(group) > 1 or annotations.has_joints3d[group].any()
    without = [code for code, name in runs.items() if name.endswith(MARK)]
    marked: np.ndarray = np.isin(fits.run, np.array(without, np.uint64))
    return helped & (fits.source != Source.NONE) & ~marked


def require_without_3d(data: DataFolder, dataset: str, annotations: Annotations) -> None:
    """Raise StageError, with the commands that make other fits, if one of a data set's fits may know 3D."""
    try:
        store = FitStore.open(data.fits(dataset))
    except FitStoreNotFoundError:
        return
    count = int(fits_with_3d(annotations, store.get(np.arange(len(annotations))), store.runs).sum())
    if count:
        raise StageError(
            f"data set {dataset}: {count} of its fits may have been made with 3D joints or several views; --ignore-3d expects "
            f"fits of one view's keypoints: make them with `spin-pipe fit-static {dataset} --ignore-3d --fits "
            f"{data.root / _PLACE}` (of a file: `spin-pipe import-fits --ignore-3d`), and give the same --fits here"
        )
