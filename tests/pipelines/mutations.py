"""Damage to files, for fuzz tests: bytes cut, flipped and mixed up, documents of the wrong shape; the same for the same seed.

    for what, content in byte_mutations(file.read_bytes(), 200, seed=0):
        file.write_bytes(content)
        outcomes = outcomes_of(reader, root, options)      # Person and Rejected only, or one StageError

`what` says which damage it was, for a test's message.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import StageError
from pipelines.readers import read_all
from pipelines.readers.base import Person, Reader, ReaderOptions, Rejected

Random = np.random.Generator

FOREIGN: tuple[bytes, ...] = (
    b"",
    b"\0" * 512,
    b"\xff" * 512,
    b"not what was expected\n",
    b"{}",
    b"[]",
    b"null",
    b'{"people": [], "images": [], "annotations": []}',
    b"<html><body>404 Not Found</body></html>",
    b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
    b"PK\x03\x04" + b"\0" * 64,
    b"\x89HDF\r\n\x1a\n" + b"\0" * 64,
    b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"\0" * 64,
    b"PAR1" + b"\0" * 64 + b"PAR1",
    b"\x80\x04N.",
)
"""Whole files of other kinds."""


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: int(random.integers(0, max(len(data), 1)))]


def _flip_bits(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    for _ in range(int(random.integers(1, 9)) if out else 0):
        out[int(random.integers(len(out)))] ^= 1 << int(random.integers(8))
    return bytes(out)


def _set_bytes(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    for _ in range(int(random.integers(1, 9)) if out else 0):
        out[int(random.integers(len(out)))] = int(random.integers(256))
    return bytes(out)


def _splice(data: bytes, random: Random) -> bytes:
    """Bytes of one place over those of another."""
    first, last = _range(data, random)
    piece = data[first:last]
    at = int(random.integers(0, len(data) + 1))
    return data[:at] + piece + data[at + len(piece) :]


def _duplicate(data: bytes, random: Random) -> bytes:
    first, last = _range(data, random)
    return data[:last] + data[first:last] + data[last:]


def _drop(data: bytes, random: Random) -> bytes:
    first, last = _range(data, random)
    return data[:first] + data[last:]


def _zero(data: bytes, random: Random) -> bytes:
    first, last = _range(data, random)
    return data[:first] + bytes(last - first) + data[last:]


def _noise(data: bytes, random: Random) -> bytes:
    first, last = _range(data, random)
    return data[:first] + random.bytes(last - first) + data[last:]


def _foreign(data: bytes, random: Random) -> bytes:
    return FOREIGN[int(random.integers(len(FOREIGN)))]


def _range(data: bytes, random: Random) -> tuple[int, int]:
    """First and last of some bytes, seldom many: damage to a few leaves the file readable for long."""
    length = min(len(data), int(2 ** random.uniform(0, 12)))
    first = int(random.integers(0, len(data) - length + 1))
    return first, first + length


BYTES: dict[str, Callable[[bytes, Random], bytes]] = {
    "truncated": _truncate,
    "bits flipped": _flip_bits,
    "bytes set": _set_bytes,
    "spliced": _splice,
    "bytes repeated": _duplicate,
    "bytes dropped": _drop,
    "bytes zeroed": _zero,
    "bytes random": _noise,
    "a foreign file": _foreign,
}


def byte_mutations(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged versions, each kind of damage in turn."""
    kinds = list(BYTES)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield (
            f"{kind} (seed {seed}, number {number})",
            BYTES[kind](data, np.random.default_rng([seed, number])),
        )


# ---- Documents: what json.load gives. Containers are dictionaries and lists; places are chosen evenly among all of them.

ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 1e308, -1e308, float("nan"), float("inf"), "", "text", "../../etc/passwd", "a\0b", "\ud800",
    [], [[]], [None], {}, {"a": {}}, [1, 2], ["1", "2", "3"], "9" * 400,
)  # fmt: skip


def _places(document: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a document."""
    out: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        container = waiting.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            out.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    return out


def _drop_value(container: Any, key: Any, random: Random) -> None:
    del container[key]


def _odd_value(container: Any, key: Any, random: Random) -> None:
    container[key] = copy.deepcopy(ODD_VALUES[int(random.integers(len(ODD_VALUES)))])


def _emptied(container: Any, key: Any, random: Random) -> None:
    container[key] = type(container[key])() if isinstance(container[key], dict | list) else []


def _repeated(container: Any, key: Any, random: Random) -> None:
    if isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    else:
        container[key] = [container[key], container[key]]


def _nested(container: Any, key: Any, random: Random) -> None:
    for _ in range(int(random.integers(1, 200))):
        container[key] = [container[key]]


def _exchanged(container: Any, key: Any, random: Random) -> None:
    keys = list(container) if isinstance(container, dict) else range(len(container))
    other = list(keys)[int(random.integers(len(keys)))]
    container[key], container[other] = container[other], container[key]


VALUES: dict[str, Callable[[Any, Any, Random], None]] = {
    "a value missing": _drop_value,
    "an odd value": _odd_value,
    "a list emptied": _emptied,
    "a value repeated": _repeated,
    "a value nested": _nested,
    "values exchanged": _exchanged,
}


def document_mutations(document: Any, count: int, seed: int) -> Iterator[tuple[str, Any]]:
    """`count` damaged copies of a document of dictionaries and lists, each kind of damage in turn.

    Half of the damage is to values near the top, which otherwise the many numbers at the bottom would hide.
    """
    kinds = list(VALUES)
    for number in range(count):
        random = np.random.default_rng([seed, number])
        kind = kinds[number % len(kinds)]
        damaged = copy.deepcopy(document)
        places = _places(damaged)
        if random.random() < 0.5:
            places = [p for p in places if isinstance(p[0], dict)] or places
        container, key = places[int(random.integers(len(places)))]
        VALUES[kind](container, key, random)
        yield f"{kind} at {key!r} (seed {seed}, number {number})", damaged


def json_mutations(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Damaged versions of a JSON file: half of them are still JSON. One in fifty is nested too deeply to be read."""
    deep = b"[" * 100_000
    for number, (what, damaged) in enumerate(document_mutations(json.loads(data), count // 2, seed)):
        yield (what, json.dumps(damaged).encode()) if number % 50 else ("nested without end", deep)
    yield from byte_mutations(data, count - count // 2, seed)


def outcomes_of(reader: Reader, root: Path, options: ReaderOptions, what: str = "") -> list[Person | Rejected] | StageError:
    """What a reader makes of a damaged tree: people and rejections, or the one error it may end with; nothing else is allowed.

    A person must have finite numbers, a box, and confidences within [0, 1].
    """
    try:
        outcomes = list(read_all(reader, root, options))
    except StageError as error:
        assert "\n" not in str(error).strip(), f"{what}: not one line: {error}"
        return error
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    for outcome in outcomes:
        assert isinstance(outcome, Person | Rejected), f"{what}: {outcome!r}"
        if isinstance(outcome, Rejected):
            assert outcome.reason, f"{what}: rejected without a reason"
            continue
        assert np.isfinite(outcome.center_px).all() and 0 < outcome.scale < np.inf, f"{what}: {outcome}"
        keypoints = outcome.keypoints_px
        assert keypoints.shape == (49, 3) and np.isfinite(keypoints).all(), f"{what}: {outcome}"
        assert keypoints[:, 2].min() >= 0 and keypoints[:, 2].max() <= 1, f"{what}: {outcome}"
    return outcomes
