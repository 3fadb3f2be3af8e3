"""Read arrays for `isolated`, in a process of its own: run as a script, it answers requests until its input ends.

A request is a line of JSON: format, path, names, seconds. The answer is one too, with the shapes of each name's arrays, whose
bytes (float64) follow, or with an error. A file that takes more processor time than it was given ends the process.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys

import numpy as np

_MEMORY = 8 * 2**30  # bytes; the largest files are some hundred megabytes
_LARGEST_ARRAY = 2**25  # numbers: a small compressed file may claim any number
_REAL = {
    "double",
    "single",
    "logical",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}


def cdf(path: str, names: list[str]) -> list[list[np.ndarray]]:
    """Return variables of a CDF file, an array each."""
    import cdflib

    file = cdflib.CDF(path)
    return [[np.asarray(file.varget(name), np.float64)] for name in names]


def mat5(path: str, names: list[str]) -> list[list[np.ndarray]]:
    """Return variables of a MATLAB file of version 5 to 7: the arrays in the first column of cells."""
    from scipy.io import loadmat

    content = loadmat(path, variable_names=names)
    return [[np.asarray(cell, np.float64) for cell in content[name][:, 0]] for name in names]


def mat5_array(path: str, names: list[str]) -> list[list[np.ndarray]]:
    """Return variables of a MATLAB file of version 5 to 7 that are arrays of real numbers."""
    from scipy.io import loadmat, whosmat

    listed = {name: (shape, kind) for name, shape, kind in whosmat(path)}
    for name in names:
        if name not in listed:
            raise ValueError(f"no variable {name!r}, but {', '.join(map(repr, listed)) or 'none'}")
        shape, kind = listed[name]
        if kind not in _REAL:
            raise ValueError(f"the variable is of class {kind}; expected real numbers")
        if math.prod(shape) > _LARGEST_ARRAY:
            raise ValueError(f"an array {shape} is far larger than any data set's")
    content = loadmat(path, variable_names=names)
    for name in names:
        if np.iscomplexobj(content[name]):
            raise ValueError("the variable is complex numbers; expected real numbers")
    return [[np.asarray(content[name], np.float64)] for name in names]


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    sys.stdout = sys.stderr  # what a library prints must not become an answer
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY and sys.platform == "linux":  # macOS does not know this limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, hard))
    for line in sys.stdin:
        request = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime + request["seconds"]) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        try:
            read = {"cdf": cdf, "mat5": mat5, "mat5_array": mat5_array}[request["format"]]
            found = read(request["path"], request["names"])
            header: dict[str, object] = {"shapes": [[array.shape for array in arrays] for arrays in found]}
        except Exception as error:  # a damaged file can make its reader raise nearly anything
            header, found = {"error": f"{type(error).__name__}: {error}"}, []
        answers.write(json.dumps(header).encode() + b"\n")
        for arrays in found:
            for array in arrays:
                answers.write(np.ascontiguousarray(array).tobytes())
        answers.flush()


if __name__ == "__main__":
    main()
