"""Work by all cores: in order, by Ray where it pays, and without it where it doesn't."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from pipelines.cluster import ordered_map as module
from pipelines.cluster.ordered_map import ordered_map

Negative = Callable[[int], tuple[int, int]]


@pytest.fixture
def negative() -> Negative:
    """A number's negative, and the process that found it. Local, so that it travels to others by value."""
    return lambda number: (-number, os.getpid())


def test_short_work_starts_no_ray(monkeypatch: pytest.MonkeyPatch, negative: Negative) -> None:
    monkeypatch.setattr(module, "ray_session", None)
    found = list(ordered_map(negative, iter(range(20))))
    assert found == [(-n, os.getpid()) for n in range(20)]


@pytest.mark.parametrize("workers", [None, 2])
def test_long_work_goes_to_other_processes_and_comes_back_in_order(
    monkeypatch: pytest.MonkeyPatch, ray_running: None, negative: Negative, workers: int | None
) -> None:
    begun = iter([0.0, 1.0, 2.0, 1e9])  # two pieces are done here before it turns out to be long
    monkeypatch.setattr(module, "_now", lambda: next(begun))
    found = list(ordered_map(negative, iter(range(20)), workers=workers))
    assert [number for number, _ in found] == [-n for n in range(20)]
    here = [process == os.getpid() for _, process in found]
    assert here == [workers is None] * 2 + [False] * 18


def test_one_worker_is_this_process(monkeypatch: pytest.MonkeyPatch, negative: Negative) -> None:
    monkeypatch.setattr(module, "ray_session", None)
    assert [n for n, _ in ordered_map(negative, range(5), workers=1)] == [0, -1, -2, -3, -4]
