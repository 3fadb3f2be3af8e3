"""Files that other code bases of the field read and write, one module a format (docs/formats.md)."""

from __future__ import annotations

from pathlib import Path

from store.errors import ExchangeError
from store.exchange import io
from store.exchange.bedlam import export_bedlam, read_bedlam
from store.exchange.bodies import (
    SampleKeys,
    StaticFits,
    export_final_fits,
    export_mview_fits,
    export_static_fits,
    import_static_fits,
    read_final,
    read_keys,
    read_mview,
    read_static,
    require_rows,
)
from store.exchange.eft import export_eft, read_eft
from store.exchange.humans4d import export_humans4d, read_humans4d_bodies, read_humans4d_samples
from store.exchange.matching import match_samples, same_boxes
from store.exchange.spin_dataset import (
    PUBLISHED_NAMES,
    SampleRows,
    export_spin_dataset,
    lost_in_spin_dataset,
    read_spin_dataset,
)

__all__ = [
    "PUBLISHED_NAMES",
    "SampleKeys",
    "SampleRows",
    "StaticFits",
    "export_bedlam",
    "export_eft",
    "export_final_fits",
    "export_humans4d",
    "export_mview_fits",
    "export_spin_dataset",
    "export_static_fits",
    "import_static_fits",
    "lost_in_spin_dataset",
    "match_samples",
    "read_fits_file",
    "read_keys",
    "read_samples_file",
    "require_rows",
    "same_boxes",
]

_FITS = (
    "fits: a static-fits .npy (n, 82), EFT's .json, or an .npz with pose, betas and valid_fit (SPIN's final fits), pose and "
    "shape (multi-view fits), body_pose and betas (4D-Humans), or pose_cam and shape (BEDLAM)"
)
_SAMPLES = "annotations: SPIN's data set .npz (imgname, center, scale, …), or 4D-Humans'"


def read_fits_file(path: Path) -> StaticFits:
    """Return the bodies of a file; its suffix and keys show the format. Raises ExchangeError; nothing is executed."""
    io.require_file(path, "fits")
    if path.suffix == ".npy":
        return read_static(path)
    if path.suffix == ".json":
        return read_eft(path)
    if path.suffix != ".npz":
        raise ExchangeError(f"{path}: expected {_FITS}")
    names = io.array_names(path, _FITS)
    for needed, read in (
        ({"body_pose", "betas"}, read_humans4d_bodies),
        ({"pose_cam", "shape"}, read_bedlam),
        ({"pose", "shape"}, read_mview),
        ({"pose", "betas", "valid_fit"}, read_final),
    ):
        if needed <= names:
            return read(path)
    raise io.missing_keys(path, _FITS, names)


def read_samples_file(path: Path) -> SampleRows:
    """Return the people in a file of SPIN's or 4D-Humans' format. Raises ExchangeError; nothing is executed."""
    io.require_file(path, "annotations")
    if path.suffix != ".npz":
        raise ExchangeError(f"{path}: expected {_SAMPLES}")
    names = io.array_names(path, _SAMPLES)
    theirs = {"body_keypoints_2d", "extra_keypoints_2d", "has_body_pose", "body_pose"}
    return read_humans4d_samples(path) if theirs & names else read_spin_dataset(path)
