"""Errors of a stage, and what counts as one line for the user rather than a traceback."""

from __future__ import annotations

from spin.errors import SpinError
from store.errors import StoreError


class StageError(Exception):
    """A stage can't do its work. One line: what, where, what was expected, what to do."""


class UsageError(StageError):
    """The command itself is wrong (exit code 2): an unknown name, or options that exclude each other."""


EXPECTED = (StageError, SpinError, StoreError)


def cause(error: BaseException) -> BaseException:
    """Return the error that a Ray worker raised, without Ray's wrappers, whose text is the worker's whole traceback."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "cause", None) or next(iter(_worker_failures(error)), None)
        if inner is None and not isinstance(error, EXPECTED):
            inner = error.__cause__
        if isinstance(inner, BaseException):
            error = inner
    return error


def _worker_failures(error: BaseException) -> list[BaseException]:
    """Return the failures of workers, which Ray Train keeps in a dictionary by rank."""
    failures = getattr(error, "worker_failures", None)
    return list(failures.values()) if isinstance(failures, dict) else []
