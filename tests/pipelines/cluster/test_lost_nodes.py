"""A node of a cluster is lost during the work: what comes out is what would have come out anyway."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipelines.fitting.fit_static import fit_static
from pipelines.folders import DataFolder
from tests.pipelines.fitting.test_fit_static import same, stored
from tests.pipelines.node_workers import CONFIG
from tests.pipelines.processes import processes_of

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.slow,  # a minute and two: several nodes start on one machine
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds a node's processes in /proc"),
]


def lose_a_node(what: str, *folders: Path) -> None:
    """Runs `node_workers` in a process of its own, which Ray's settings need, and ends all that it leaves."""
    with tempfile.TemporaryDirectory(prefix="sc-", dir="/tmp", ignore_cleanup_errors=True) as short:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "RAY_TMPDIR": short, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # several nodes on loopback
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "60000",  # a node that is slow on a busy machine is not lost
            "PYTHONPATH": str(Path(__file__).parents[3]),
        }  # fmt: skip
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.pipelines.node_workers", what, *map(str, folders)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            _, said = child.communicate(timeout=1100)
        finally:
            for pid in processes_of(child.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            child.wait(timeout=10)
    assert child.returncode == 0, said[-3000:]


@pytest.fixture
def fitted(ray_running: None, preprocessed: Path, tmp_path: Path) -> DataFolder:
    data = DataFolder(shutil.copytree(preprocessed, tmp_path / "fitted"))
    fit_static(data, "world", CONFIG, batch=1, workers=1)
    return data


def test_fits_are_the_same(fitted: DataFolder, preprocessed: Path, tmp_path: Path) -> None:
    data = DataFolder(shutil.copytree(preprocessed, tmp_path / "data"))
    lose_a_node("fit-static", data.root)
    assert same(stored(data), stored(fitted))


def test_measuring_says_what_it_waits_for_and_goes_on_or_ends(preprocessed: Path, tmp_path: Path) -> None:
    lose_a_node("eval", preprocessed, tmp_path)


def test_a_training_of_two_workers_goes_on_from_its_checkpoint(fitted: DataFolder, tmp_path: Path) -> None:
    """Bit for bit as one that lost nothing: weights, moments, fits. `node_workers` compares them."""
    lose_a_node("train", fitted.root, tmp_path)
