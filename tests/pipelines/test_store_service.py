from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines import store_service
from pipelines.store_service import FitService
from store.fingerprint import Fingerprint
from store.fits import FitStore
from store.records import Fits, Source

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


def test_offers_are_written_by_number_and_by_time(
    service: FitService, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.arange(4)
    service.offer(ids, fits(ids, 5.0), "a")
    assert np.isinf(durable(service)).all()
    monkeypatch.setattr(store_service, "FLUSH_RECORDS", 6)
    more = np.arange(4, 8)
    service.offer(more, fits(more, 5.0), "a")
    assert np.isfinite(durable(service)[:8]).all()
    monkeypatch.setattr(store_service, "FLUSH_SECONDS", 0.0)
    service.offer(ids[:1], fits(ids[:1], 1.0), "a")
    assert durable(service)[0] == 1.0


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


def test_many_segments_become_a_generation(service: FitService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_service, "MAX_SEGMENTS", 3)
    one = np.array([1])
    for score in (9.0, 8.0, 7.0, 6.0):
        service.commit(SimpleNamespace(ids=one, fits=fits(one, score)))
        assert service.store.segments < 3
    assert durable(service)[1] == 6.0
    assert service.summary()["generation"] >= 1
