"""Runs and times as they are stored with fits."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping

UNKNOWN_RUN = 0


def run_code(name: str) -> int:
    """Return the code under which records name a run: the first eight bytes of the SHA-256 of its name; 0 for ''.

    A function of the name, so that several writers agree on it without communicating.
    """
    if not name:
        return UNKNOWN_RUN
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def now_ms() -> int:
    """Return milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def as_text(time_ms: int) -> str:
    """Return a time as text, UTC; '' if it is not known."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_ms / 1000)) if time_ms else ""


def names_to_json(runs: Mapping[int, str]) -> list[str]:
    """Return names of runs as files hold them; their codes follow from them."""
    return sorted(runs.values())


def names_from_json(value: object) -> dict[int, str]:
    """Return names by code. Entries that are not text are ignored: a bad name must not make fits unreadable."""
    names = [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
    return {run_code(name): name for name in names}
