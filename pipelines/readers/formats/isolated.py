"""Arrays from files whose readers can crash or hang, read in another process under a limit of time and memory.

A few damaged bytes keep cdflib counting for hours, or make it ask for all memory there is; a damaged MATLAB 5 file can end the
process that scipy reads it in. The other process starts once, and again after a file has crashed it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import StageError

_CHILD = Path(__file__).with_name("isolated_child.py")
# Processor time: whole files are read in a tenth of it.
_SECONDS, _BYTES_A_SECOND = 2, 2**20
_child: subprocess.Popen[bytes] | None = None


def read_arrays(kind: str, path: Path, names: tuple[str, ...], expected: str) -> list[list[np.ndarray]]:
    """Return, for each name, the arrays (float64) of a variable of a file.

    `kind`: "cdf" or "mat5_array" for a variable that is one array; "mat5" for a MATLAB variable that is a column of cells.
    Raise StageError, naming the file and what was expected, if there are none.
    """
    if not path.is_file():
        raise StageError(f"{path}: no such file")
    seconds = _SECONDS + path.stat().st_size / _BYTES_A_SECOND
    header, data = _ask({"format": kind, "path": str(path.resolve()), "names": names, "seconds": seconds})
    if "error" in header:
        reason = " ".join(str(header["error"]).split())[:200]
        raise StageError(f"{path}: not {expected} ({reason})")
    out: list[list[np.ndarray]] = []
    at = 0
    for shapes in header["shapes"]:
        out.append([])
        for shape in shapes:
            count = math.prod(shape)
            out[-1].append(np.frombuffer(data, np.float64, count, at).reshape(shape).copy())
            at += 8 * count
    return out


def _ask(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Return the answer's header, and the bytes that it announces."""
    global _child
    if _child is None:
        _child = _start()
    assert _child.stdin and _child.stdout
    try:
        _child.stdin.write(json.dumps(request).encode() + b"\n")
        _child.stdin.flush()
        header = json.loads(_child.stdout.readline())
        size = 8 * sum(math.prod(shape) for shapes in header.get("shapes", []) for shape in shapes)
        data = _child.stdout.read(size)
        if len(data) == size:
            return header, data
    except (OSError, ValueError):
        pass
    except BaseException:
        _stop()  # an answer that was not read is not the next request's
        raise
    _stop()
    return {"error": "its reader broke down, or asked for more time or memory than such a file needs"}, b""


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # threads of a linear algebra that is not used would reserve memory
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def _stop() -> None:
    global _child
    if _child is not None:
        _child.kill()
        _child.communicate()
        _child = None
