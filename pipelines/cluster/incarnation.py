"""The incarnation of a process: which start of the training workers it belongs to.

Each time Ray starts the workers, first or again, they get a new one. By it the store tells their fits from those of workers
that were replaced.
"""

from __future__ import annotations

import os

_INCARNATION = "SPIN_PIPE_INCARNATION"


def incarnation() -> str:
    """Return which start of the workers this process belongs to; '' outside of them."""
    return os.environ.get(_INCARNATION, "")


def set_incarnation(name: str) -> None:
    """Let this process belong to a start of the workers."""
    os.environ[_INCARNATION] = name
