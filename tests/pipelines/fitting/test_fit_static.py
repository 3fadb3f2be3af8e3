from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.exchange.export import export_fits
from pipelines.fits.open import STATIC_TAG
from pipelines.fitting.fit_static import (
    GivenBodies,
    _digest,
    fit_static,
    pending_batches,
)
from pipelines.folders import DataFolder
from pipelines.rejections import RejectedLedger
from spin.fitting.fitter import FitConfig
from spin.fitting.verdicts import TOO_FEW_JOINTS, VALID
from store.annotations.table import Annotations
from store.errors import FingerprintMismatchError
from store.fits.records import Fits, Source
from store.fits.store import FitStore
from tests.pipelines.processes import processes_of
from tests.store.annotations.test_annotations import some_annotations

pytestmark = pytest.mark.usefixtures("ray_running")
CONFIG = FitConfig("lm", 3)
BATCH = 4


@pytest.fixture
def data(preprocessed: Path, tmp_path: Path) -> DataFolder:
    return DataFolder(shutil.copytree(preprocessed, tmp_path / "data"))


def stored(data: DataFolder) -> Fits:
    store = FitStore.open(data.fits("world"))
    return store.get(np.arange(store.samples))


def same(a: Fits, b: Fits) -> bool:
    """To the bit, but for when the store was offered them."""
    names = [name for name in Fits.__dataclass_fields__ if name != "time"]
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


@pytest.fixture(scope="module")
def undisturbed(ray_running: None, preprocessed: Path, tmp_path_factory: pytest.TempPathFactory) -> Fits:
    """The fits of a run that was not killed."""
    data = DataFolder(shutil.copytree(preprocessed, tmp_path_factory.mktemp("undisturbed") / "data"))
    fit_static(data, "world", CONFIG, workers=2, batch=BATCH)
    return stored(data)


def test_every_sample_is_fitted_once_and_running_again_does_nothing(data: DataFolder, undisturbed: Fits) -> None:
    first = fit_static(data, "world", CONFIG, workers=1, batch=BATCH)
    assert first.done == 0
    assert first.fitted + len(_rejected(data)) == first.samples
    assert same(stored(data), undisturbed)  # the number of workers doesn't matter
    assert STATIC_TAG in FitStore.open(data.fits("world")).tags()
    second = fit_static(data, "world", CONFIG, workers=2, batch=BATCH)
    assert (second.done, second.fitted) == (first.fitted, 0)
    assert same(stored(data), undisturbed)


def _rejected(data: DataFolder) -> list[dict]:
    path = data.rejected_fits("world")
    return json.loads(path.read_text())["rejected"] if path.is_file() else []


def test_samples_without_joints_are_rejected_listed_and_not_tried_again(data: DataFolder) -> None:
    annotations = Annotations.read(data.annotations("world"))
    keypoints = annotations.keypoints_px.copy()
    keypoints[[1, 6], :, 2] = 0
    replace(annotations, keypoints_px=keypoints).write(data.annotations("world"), provenance={"reader": "test"})
    # More workers than this Ray has places for: no work waits for those that never start.
    summary = fit_static(data, "world", CONFIG, workers=9, batch=BATCH)
    assert summary.fitted == len(annotations) - 2
    assert {e["sample"]: e["reason"] for e in _rejected(data)} == dict.fromkeys((1, 6), "fewer than 4 confident joints")
    assert (stored(data).source[[1, 6]] == Source.NONE).all()
    again = fit_static(data, "world", CONFIG, workers=1, batch=BATCH)
    assert again.verdicts == {}
    done = export_fits(data, "world", data.exported("world"))
    with np.load(done.path) as final:
        assert final["pose"].shape == (len(annotations), 72)
        assert not final["valid_fit"][[1, 6]].any()
        assert np.array_equal(final["betas"], stored(data).betas)


def test_fits_are_not_exported_for_other_people(data: DataFolder) -> None:
    fit_static(data, "world", CONFIG, workers=1, batch=BATCH)
    annotations = Annotations.read(data.annotations("world"))
    annotations.take(np.arange(len(annotations))[::-1]).write(data.annotations("world"), provenance={"reader": "test"})
    with pytest.raises(FingerprintMismatchError, match="annotations: stored"):
        export_fits(data, "world", data.exported("world"))
    with pytest.raises(FingerprintMismatchError, match="preprocess under another name"):
        fit_static(data, "world", CONFIG, workers=1, batch=BATCH)


def test_a_batch_is_done_again_as_a_whole() -> None:
    settled = np.array([1, 1, 1, 1, 1, 0, 1, 1, 1, 1], bool)
    alone = [np.array([i]) for i in range(10)]

    def rows(batches: list) -> list:
        return [np.concatenate(b).tolist() for b in batches]

    assert rows(pending_batches(settled, alone, 4)) == [[4, 5, 6, 7]]
    assert rows(pending_batches(~settled, alone, 4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert pending_batches(np.ones(3, bool), alone[:3], 4) == []
    # The views of a pose are never parted, not even by a batch smaller than their number.
    together = [np.array(g) for g in ([0, 5, 7], [1], [2, 3], [4, 6, 8, 9])]
    assert rows(pending_batches(~settled, together, 3)) == [[0, 5, 7], [1, 2, 3], [4, 6, 8, 9]]


# ---- kills ------------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from pipelines.fitting.fit_static import fit_static
from pipelines.folders import DataFolder
from spin.fitting.fitter import FitConfig
fit_static(DataFolder(Path(sys.argv[1])), "world", FitConfig("lm", 3), workers=2, batch=4)
"""


def start(data: DataFolder) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(data.root)], stderr=subprocess.DEVNULL, start_new_session=True)


def fitted(data: DataFolder) -> int:
    try:
        return int((stored(data).source != Source.NONE).sum())
    except FileNotFoundError:
        return 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes of a run in /proc")
@pytest.mark.parametrize("victim", ["driver", "raylet", "fit_batch", "FitService"])
def test_a_killed_run_started_again_ends_with_the_same_store(data: DataFolder, undisturbed: Fits, victim: str) -> None:
    child = start(data)
    try:
        deadline = time.monotonic() + 120
        killed = False
        while not killed and child.poll() is None and time.monotonic() < deadline:
            # A batch may be the last one: its process is killed in the first that is seen.
            if victim == "fit_batch" or fitted(data) > 0:
                names = processes_of(child.pid)
                pids = [p for p, line in names.items() if victim in line] if victim != "driver" else [child.pid]
                for pid in random.Random(0).sample(pids, min(1, len(pids))):
                    os.kill(pid, signal.SIGKILL)
                    killed = True
            time.sleep(0.02)
        assert killed, f"no {victim} among {processes_of(child.pid)}"
        child.wait(timeout=120)
    finally:
        for pid in processes_of(child.pid):
            os.kill(pid, signal.SIGKILL)
        child.wait(timeout=30)
    if child.returncode != 0:  # a worker's death is repaired within the run; a driver's needs another run
        assert victim in ("driver", "raylet")
        fit_static(data, "world", CONFIG, workers=2, batch=BATCH)
    assert same(stored(data), undisturbed)
    assert STATIC_TAG in FitStore.open(data.fits("world")).tags()


def test_the_list_of_rejected_forgets_who_has_a_fit_now_and_what_was_tried_otherwise(tmp_path: Path) -> None:
    path, annotations = tmp_path / "rejected.json", some_annotations(3)

    def ledger(key: str) -> RejectedLedger:
        return RejectedLedger(path, key, annotations)

    ledger("a").record(np.arange(3), np.array([TOO_FEW_JOINTS, VALID, TOO_FEW_JOINTS]))
    assert list(ledger("a").reasons) == [0, 2]
    ledger("a").record(np.arange(3), np.array([VALID, VALID, TOO_FEW_JOINTS]))
    assert list(ledger("a").reasons) == [2]
    assert not ledger("b").reasons


def test_bodies_to_start_from_are_told_apart() -> None:
    zeros = GivenBodies("file", np.zeros((2, 72)), np.zeros((2, 10)), np.ones(2, bool))
    others = [replace(zeros, betas=np.ones((2, 10))), replace(zeros, known=np.zeros(2, bool))]
    assert len({_digest(()), *(_digest((g,)) for g in (zeros, *others)), _digest((zeros, zeros))}) == 5
