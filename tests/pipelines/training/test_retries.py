"""Failures of workers end a run if it gets no further, and only then; work without a place is not waited for in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipelines.cluster.waiting
from pipelines.cluster.waiting import NO_PLACE_S, SILENT_S, Waiting
from pipelines.errors import StageError
from pipelines.folders import RunFolder
from pipelines.training import retries
from pipelines.training.retries import MAX_FAILURES, _until_done


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(pipelines.cluster.waiting, "say", lines.append)
    monkeypatch.setattr(retries, "say", lines.append)
    return lines


class Attempts:
    """Stands for Ray Train: each attempt makes so many checkpoints, then fails as the test sets; the last one succeeds."""

    def __init__(self, run: RunFolder, gains: list[int], error: Callable[[], Exception]) -> None:
        self.run, self.gains, self.error, self.made = run, gains, error, 0
        run.checkpoints.mkdir(parents=True)

    def __call__(self, settings: Any, asked: Any, meeting: Any, in_process: bool) -> None:
        self.made += 1
        for _ in range(self.gains[self.made - 1]):
            self.run.checkpoint(len(self.run.all_checkpoints())).touch()
        if self.made < len(self.gains):
            raise self.error()


def killed() -> Exception:
    from ray.train import WorkerGroupError

    return WorkerGroupError("its process is gone", {1: RuntimeError("the actor died\nfor want of memory")})


def no_place() -> Exception:
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return ControllerError(WorkerGroupStartupTimeoutError(num_workers=2))


def attempts_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gains: list[int], error: Callable[[], Exception] = killed
) -> tuple[Attempts, Callable[[], None]]:
    run = RunFolder.of(tmp_path, "run")
    attempts = Attempts(run, gains, error)
    monkeypatch.setattr(retries, "_fit", attempts)
    settings = SimpleNamespace(run=run, failure=tmp_path / "failure", config=SimpleNamespace(workers=2))
    return attempts, lambda: _until_done(settings, {"CPU": 1}, None, False)


def test_a_run_that_gets_on_survives_any_number_of_failures(
    ray_running: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    attempts, until_done = attempts_of(tmp_path, monkeypatch, [1, 0, 0, 2, 0, 0, 1, 1, 1, 1, 0])
    until_done()
    assert attempts.made == 11
    assert "they go on from step_00000000.pt again, 3 of at most 3 times" in said[2]
    assert said[3] == "the workers failed (RuntimeError: the actor died); they go on from step_00000002.pt"


def test_a_failure_that_repeats_itself_ends_the_run_in_a_line(
    ray_running: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    attempts, until_done = attempts_of(tmp_path, monkeypatch, [1, 1, *[0] * 20])
    with pytest.raises(StageError, match=r"failed 4 times without coming further than step_00000001\.pt, at last with "):
        until_done()
    assert attempts.made == 2 + MAX_FAILURES


def test_what_a_worker_says_of_itself_is_told_though_another_s_consequence_came_first(
    ray_running: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, until_done = attempts_of(tmp_path, monkeypatch, [0] * 20)
    (tmp_path / "failure").write_text("the loss of step 7 is no number")
    with pytest.raises(StageError, match="step 7"):
        until_done()
    assert attempts.made == 1


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]]) -> None:
        self.now, self.nodes, self.free = 0.0, nodes, {"CPU": 0.0}
        fake = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(pipelines.cluster.waiting, "time", fake)
        monkeypatch.setattr(pipelines.cluster.waiting, "_nodes", lambda: self.nodes)
        monkeypatch.setattr("ray.available_resources", lambda: self.free)


def test_workers_without_a_place_wait_audibly_and_not_for_ever(
    ray_running: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    attempts, until_done = attempts_of(tmp_path, monkeypatch, [0] * 100, no_place)
    clock = Clock(monkeypatch, [{"CPU": 1}, {"GPU": 1}])
    monkeypatch.setattr(retries, "time", SimpleNamespace(monotonic=lambda: clock.now))
    attempt = attempts.__call__

    def a_minute_of_waiting(*arguments: Any) -> None:
        clock.now += 60
        attempt(*arguments)

    monkeypatch.setattr(retries, "_fit", a_minute_of_waiting)
    with pytest.raises(StageError, match=r"train run: waited 15 minutes for 2 × 1 CPU, and the cluster has 1 CPU and 1 GPU"):
        until_done()
    assert attempts.made == 15
    (line,) = said
    assert line.startswith("train run: nothing done for 60 s; it needs 2 × 1 CPU, the cluster has 1 CPU and 1 GPU on 2 nodes")


def test_waiting_says_each_thing_once_and_begins_anew_when_nodes_come(
    ray_running: None, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    clock = Clock(monkeypatch, [])
    waiting = Waiting("eval world", {"CPU": 1})
    clock.now = SILENT_S - 1
    waiting.look()
    assert not said
    for clock.now in (SILENT_S, SILENT_S + 5, NO_PLACE_S - 1):
        waiting.look()
    assert said == [
        "eval world: nothing done for 30 s; it needs 1 CPU, the cluster has 0 CPU and 0 GPU on 0 nodes: goes on when nodes "
        "with that come, ends after 15 minutes without"
    ]
    clock.nodes = [{"CPU": 1}]
    waiting.look()
    assert said[1].endswith("the cluster has 1 CPU and 0 GPU on 1 node: all of it in use, by this command or by others")
    clock.free = {"CPU": 1.0}  # being started
    waiting.look()
    clock.now, clock.nodes = 2 * NO_PLACE_S - 2, []
    waiting.look()
    assert len(said) == 3
    clock.now += 1
    with pytest.raises(StageError, match="eval world: waited 15 minutes for 1 CPU"):
        waiting.look()
