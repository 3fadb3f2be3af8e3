"""Files that recorded data sets are made of: MATLAB's two formats, NASA's CDF, videos. The same content, the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from h5py import Dataset, File
    from jaxtyping import Float, UInt8

_HEADER = 116  # bytes of text at the start of a MATLAB file; in those of version 7.3 they precede HDF5
_USER_BLOCK = 512


def write_cdf(path: Path, name: str, values: Float[np.ndarray, "1 T W"]) -> None:
    """Write or replace a CDF file of one variable, a record of T × W numbers (float32)."""
    from cdflib.cdfwrite import CDF

    path.parent.mkdir(parents=True, exist_ok=True)
    file = CDF(path, cdf_spec={"Compressed": 0, "Majority": "Row_major"}, delete=True)
    variable = {
        "Variable": name,
        "Data_Type": CDF.CDF_FLOAT,
        "Num_Elements": 1,
        "Rec_Vary": True,
        "Dim_Sizes": list(values.shape[1:]),
        "Dim_Vary": [True, True],
        "Compress": 6,
    }
    file.write_var(variable, var_data=values.astype(np.float32))
    file.close()


def write_mat5(path: Path, variables: Mapping[str, Any]) -> None:
    """Write a MATLAB file of version 7: version 5's format, compressed."""
    from scipy.io import savemat

    handle = BytesIO()
    savemat(handle, dict(variables), do_compression=True, format="5")
    content = handle.getvalue()
    # scipy's header has the time of writing
    path.write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(_HEADER) + content[_HEADER:])


def write_mat73(path: Path, arrays: Mapping[str, np.ndarray], cells: Mapping[str, Iterable[np.ndarray]] = {}) -> None:
    """Write a MATLAB file of version 7.3 with arrays and cell columns, as h5py has them: dimensions reversed."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=_USER_BLOCK) as file:
        for name, array in arrays.items():
            _matlab(file.create_dataset(name, data=array, compression="gzip"))
        for name, cell in cells.items():
            entries = [_cell_entry(file, name, number, array) for number, array in enumerate(cell)]
            references = file.create_dataset(name, (len(entries), 1), h5py.ref_dtype)
            references[:, 0] = [entry.ref for entry in entries]
            references.attrs["MATLAB_class"] = np.bytes_("cell")
    with path.open("r+b") as handle:
        text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64 HDF5 schema 1.00 ."
        handle.write(text.ljust(_HEADER) + bytes(8) + b"\x00\x02IM")


def _cell_entry(file: File, name: str, number: int, array: np.ndarray) -> Dataset:
    return _matlab(file.create_dataset(f"#refs#/{name}{number:06d}", data=array, compression="gzip"))


def _matlab(dataset: Dataset) -> Dataset:
    """Note MATLAB's class of an array."""
    names = {"float64": "double", "float32": "single"}
    if dataset.dtype == bool:
        dataset.attrs["MATLAB_int_decode"] = np.int32(1)
    dataset.attrs["MATLAB_class"] = np.bytes_(names.get(dataset.dtype.name, dataset.dtype.name))
    return dataset


def write_video(path: Path, frames: Iterable[UInt8[np.ndarray, "H W 3"]], *, codec: str, rate: float) -> None:
    """Write a video of RGB pictures; `codec` by its four letters, for example mp4v or MJPG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer: cv2.VideoWriter | None = None
    for frame in frames:
        if writer is None:
            fourcc = cv2.VideoWriter.fourcc(*codec)
            writer = cv2.VideoWriter(str(path), fourcc, rate, (frame.shape[1], frame.shape[0]))
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    if writer is not None:
        writer.release()
