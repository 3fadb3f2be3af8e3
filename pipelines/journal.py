"""A line for every finished stage: what ran, with which settings, how long, and which counts. The report shows the times."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@contextmanager
def recorded(path: Path, stage: str, **settings: Any) -> Iterator[dict[str, Any]]:
    """Append one JSON line to `path` when the block ends without error; the block adds its counts to the dictionary."""
    entry: dict[str, Any] = {
        "stage": stage,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **settings,
    }
    begin = time.perf_counter()
    yield entry
    entry["seconds"] = round(time.perf_counter() - begin, 3)
    append(path, entry)


def append(path: Path, entry: dict[str, Any]) -> None:
    """Append a JSON line, with one write call on an append-only file, so that lines of several processes don't mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(entry, default=str) + "\n").encode()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


def read(path: Path) -> list[dict[str, Any]]:
    """Return all whole lines, without one that a kill cut short."""
    if not path.is_file():
        return []
    out = []
    for line in path.read_text().splitlines():
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return out
