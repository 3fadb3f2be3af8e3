"""Arrays from NASA's CDF files and from MATLAB's, versions 5 to 7 and 7.3.

The packages that read these formats are imported where they are used: most data sets need none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import StageError
from pipelines.readers.formats.isolated import read_arrays

if TYPE_CHECKING:
    from h5py import Dataset, File


def read_cdf(path: Path, variable: str) -> np.ndarray:
    """Return a variable of a CDF file. Raise StageError, naming the file, if there is none."""
    expected = f"a CDF file with a variable {variable!r} of numbers"
    return read_arrays("cdf", path, (variable,), expected)[0][0]


def read_mat5_array(path: Path, name: str) -> np.ndarray:
    """Return an array of real numbers from a MATLAB file of version 5 to 7, in MATLAB's axes.

    Raise StageError, naming the file, if it has no such variable.
    """
    expected = f"a MATLAB 5 file with {name!r}"
    return read_arrays("mat5_array", path, (name,), expected)[0][0]


def read_mat5(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Return cell columns (cells, 1), each cell an array, of a MATLAB file of version 5 to 7.

    Raise StageError, naming the file, if one is missing.
    """
    expected = f"a MATLAB file (version 7 or older) with {', '.join(names)}"
    out = {}
    for name, arrays in zip(names, read_arrays("mat5", path, names, expected)):
        out[name] = np.empty((len(arrays), 1), object)
        for cell, array in enumerate(arrays):
            out[name][cell, 0] = array
    return out


def open_mat73(path: Path) -> File:
    """Open a MATLAB file of version 7.3 (HDF5), to be closed. Raise StageError, naming the file, if it is another."""
    import h5py

    _must_exist(path)
    try:  # a damaged file can make h5py raise nearly anything
        return h5py.File(path, "r")
    except Exception as error:
        raise _foreign(path, "a MATLAB 7.3 file", error) from error


def of_mat73(path: Path, file: File, name: str) -> Dataset:
    """Return a variable of such a file; its dimensions are MATLAB's, reversed. Raise StageError, naming the file, if absent."""
    import h5py

    try:
        found = file[name]
    except Exception as error:
        raise _foreign(path, f"a file with {name!r}", error) from error
    if not isinstance(found, h5py.Dataset):
        raise StageError(f"{path}: {name!r} is not an array")
    return found


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise StageError(f"{path}: no such file")


def _foreign(path: Path, expected: str, error: Exception) -> StageError:
    reason = " ".join(str(error).split())[:200]
    return StageError(f"{path}: not {expected} ({type(error).__name__}: {reason})")
