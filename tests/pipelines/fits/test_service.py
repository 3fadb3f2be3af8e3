from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.fits.service import FitService, StaleWorkersError
from store.fits.fingerprint import Fingerprint
from store.fits.records import Fits, Source
from store.fits.store import FitStore

FINGERPRINT = Fingerprint("body:1", "objective:1", "score:1", "annotations:1")


def fits(ids: np.ndarray, score: float) -> Fits:
    n = len(ids)
    camera = np.tile(np.float32([0, 0, 40]), (n, 1))
    scores = np.full(n, score, np.float32)
    source = np.full(n, Source.LOOP, np.uint8)
    return replace(Fits.empty(n), camera=camera, loss=scores, score=scores, source=source)


@pytest.fixture
def service(tmp_path: Path) -> FitService:
    return FitService(tmp_path / "fits", 50, FINGERPRINT, "test")


def durable(service: FitService) -> np.ndarray:
    """Scores that a reader who opens the store now would see."""
    return FitStore.open(service.store.path).get(np.arange(50)).score


def test_commit_returns_once_the_outcome_is_on_disk(service: FitService) -> None:
    ids = np.array([3, 7])
    assert service.commit(SimpleNamespace(ids=ids, fits=fits(ids, 2.0))) == 2
    assert durable(service)[ids].tolist() == [2.0, 2.0]
    assert service.commit(SimpleNamespace(ids=ids, fits=fits(ids, 2.0))) == 0  # delivered twice


def wait_for(found: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not found():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_offers_are_written_by_number_and_by_time(tmp_path: Path) -> None:
    ids, more = np.arange(4), np.arange(4, 8)
    by_number = FitService(tmp_path / "a", 50, FINGERPRINT, "test", flush_seconds=1000, flush_records=6)
    by_number.offer(ids, fits(ids, 5.0), "a")
    assert np.isinf(durable(by_number)).all()
    by_number.offer(more, fits(more, 5.0), "a")
    wait_for(lambda: bool(np.isfinite(durable(by_number)[:8]).all()))
    by_time = FitService(tmp_path / "b", 50, FINGERPRINT, "test", flush_seconds=0.01)
    by_time.offer(ids[:1], fits(ids[:1], 1.0), "a")
    wait_for(lambda: bool(durable(by_time)[0] == 1.0))


def test_offers_wait_for_a_disk_that_falls_behind(tmp_path: Path) -> None:
    service = FitService(tmp_path / "a", 50, FINGERPRINT, "test", flush_seconds=1000, max_pending=3)
    service.offer(np.arange(4), fits(np.arange(4), 5.0), "a")
    assert service.store.pending == 0 and np.isfinite(durable(service)[:4]).all()


def test_closing_writes_what_is_pending_and_metrics_count(tmp_path: Path) -> None:
    service = FitService(tmp_path / "a", 50, FINGERPRINT, "test", "first", flush_seconds=1000)
    ids = np.arange(4)
    service.offer(ids, fits(ids, 5.0), "a")
    service.offer(ids[:2], fits(ids[:2], 3.0), "a")
    service.offer(ids[:1], fits(ids[:1], 9.0), "a")
    service.close()
    found = service.metrics()
    assert (found["offered"], found["accepted"], found["score_gained"], found["written"]) == (7, 6, 4.0, 4)
    assert found["offer_p50_ms"] <= found["offer_p99_ms"]
    again = FitStore.open(tmp_path / "a")
    assert again.get(ids).score.tolist() == [3.0, 3.0, 5.0, 5.0]
    assert {again.runs[int(code)] for code in again.get(ids).run} == {"first"} and again.get(ids).time.min() > 0


def test_a_failed_write_is_told_to_the_next_offer_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = FitService(tmp_path / "a", 50, FINGERPRINT, "test", flush_seconds=0.01)
    ids = np.arange(4)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    service.offer(ids, fits(ids, 5.0), "a")
    wait_for(lambda: service._failure is not None)
    with pytest.raises(OSError, match="No space"):
        service.offer(ids, fits(ids, 4.0), "a")
    monkeypatch.undo()
    wait_for(lambda: bool((durable(service)[:4] == 4.0).all()))


def test_a_retracted_fit_does_not_come_back_with_a_late_offer(service: FitService) -> None:
    ids = np.arange(4)
    service.commit(SimpleNamespace(ids=ids, fits=fits(ids, 5.0)))
    assert FitStore.open(service.store.path).reset(ids[:2], where="by hand") == 2
    late = fits(ids, 1.0)
    service.offer(ids, late, "a")  # this actor has not heard of it yet
    service.refresh()
    service.flush()
    assert durable(service)[:4].tolist() == [np.inf, np.inf, 1.0, 1.0]
    begun_after = replace(late, epoch=service.get(ids).epoch)
    assert service.offer(ids, begun_after, "a").tolist() == [True, True, False, False]


def test_offers_of_workers_that_went_before_are_refused(service: FitService) -> None:
    ids = np.arange(4)
    service.begin("first", None)
    assert service.offer(ids, fits(ids, 5.0), "first").all()
    service.tag("kept")
    service.offer(ids, fits(ids, 4.0), "first")
    service.begin("second", "kept")
    assert service.get(ids).score.tolist() == [5.0] * 4  # restored
    assert not service.offer(ids, fits(ids, 1.0), "first").any()
    assert service.get(ids).score.tolist() == [5.0] * 4
    assert service.offer(ids, fits(ids, 3.0), "second").all()


def test_many_segments_become_a_generation_beside_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.fits.handle.maintenance.WORTH_COMPACTING", 3000)
    service = FitService(tmp_path / "fits", 50, FINGERPRINT, "test", flush_seconds=0.01)
    one = np.array([1])
    for score in np.arange(40.0, 0, -1):
        service.commit(SimpleNamespace(ids=one, fits=fits(one, score)))
    wait_for(lambda: not service.store.worth_compacting)
    service.close()
    assert durable(service)[1] == 1.0
    assert service.store.segments <= 3 and service.summary()["generation"] >= 1


def test_a_restarted_service_still_refuses_the_workers_that_went_before(tmp_path: Path) -> None:
    def start(run: str = "first") -> FitService:
        return FitService(tmp_path / "fits", 50, FINGERPRINT, "train", run, flush_seconds=1000)

    ids = np.arange(4)
    service = start()
    service.begin("one", None)
    service.commit(SimpleNamespace(ids=ids, fits=fits(ids, 5.0)))
    service.begin("two", None)
    # Killed: nothing is closed, and another takes its place.
    again = start()
    assert not again.offer(ids, fits(ids, 1.0), "one").any() and again.metrics()["refused"] == 4
    # The present ones may have been promised what was lost: they go back to their checkpoint first.
    with pytest.raises(StaleWorkersError, match="was killed"):
        again.offer(ids, fits(ids, 3.0), "two")
    with pytest.raises(StaleWorkersError, match="was killed"):
        again.tag("kept", "two")
    again.begin("three", None)
    assert again.offer(ids, fits(ids, 3.0), "three").all()
    with pytest.raises(StaleWorkersError, match="taken over"):
        again.tag("kept", "two")
    again.tag("kept", "three")
    assert again.tags() == ["kept"]
    assert start("another run").offer(ids, fits(ids, 2.0), "").any(), "fences are of one run"


def test_a_compaction_lets_others_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush in the middle of a compaction, by another thread, is durable before that ends."""
    store = FitStore.create(tmp_path / "fits", samples=50, fingerprint=FINGERPRINT)
    ids = np.arange(50)
    store.merge(ids, fits(ids, 5.0))
    from store.fits.handle.maintenance import write_generation

    def slow(*arguments: Any, **named: Any) -> None:
        write_generation(*arguments, **named)
        other = threading.Thread(target=lambda: (store.merge(ids[:9], fits(ids[:9], 1.0)), store.flush()))
        other.start()
        other.join(20)
        assert not other.is_alive() and FitStore.open(store.path).get(ids).score[0] == 1.0

    monkeypatch.setattr("store.fits.handle.maintenance.write_generation", slow)
    assert store.compact() == 1 and store.segments == 1
    assert FitStore.open(store.path).get(ids).score.tolist() == [1.0] * 9 + [5.0] * 41
    monkeypatch.undo()
    assert store.compact() == 2 and store.segments == 0
    assert FitStore.open(store.path).get(ids).score.tolist() == [1.0] * 9 + [5.0] * 41
