from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from store.fits.store import FitStore
from tests.pipelines.conftest import PEOPLE
from tests.pipelines.processes import processes_of

ROOT = Path(__file__).parents[3]
TOKEN = "0123456789abcdef" * 4
SPIN_PIPE = [sys.executable, "-m", "pipelines.cli"]


def test_the_example_cluster_is_one_that_ray_up_takes(
    ray_running: None,
) -> None:  # Ray reads its settings once
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert {"type", "region"} <= set(config["provider"]) and config["auth"]["ssh_user"]
    assert not {"ssh_private_key", "KeyName"} & set(config["auth"])
    prepared = prepare_config(config)
    # What the provider would look up for these machines when it is asked.
    for name, node in prepared["available_node_types"].items():
        node.setdefault("resources", {"CPU": 16} | ({"GPU": 1} if name == "trainer" else {}))
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert prepared["head_node_type"] == "head" and types["head"]["max_workers"] == 0
    # The code asks for CPU and GPU, nothing of its own: any other name here would be one that nothing uses.
    assert {r for node in types.values() for r in node["resources"]} <= {"CPU", "GPU"}
    assert sum(n["max_workers"] for n in types.values()) <= prepared["max_workers"]
    head, worker = prepared["head_start_ray_commands"], prepared["worker_start_ray_commands"]
    assert any("dashboard-host=127.0.0.1" in c for c in head)
    # Whoever starts Ray does it with the token, and the token comes to every node.
    starts = [c for c in (*head, *worker) if "ray start" in c]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in c for c in starts)
    (token,) = {c.split('RAY_AUTH_TOKEN_PATH="$HOME/')[1].split('"')[0] for c in starts}
    assert prepared["file_mounts"][f"~/{token}"].endswith(token) and token in config["rsync_exclude"]
    setup = "\n".join(prepared["setup_commands"])
    assert "tools/constraints.txt" in setup and (ROOT / "tools" / "constraints.txt").is_file()
    assert 'SHARED="SET-ME' in setup and '"$SHARED" /shared' in setup
    assert types["fitter"]["min_workers"] and types["trainer"]["min_workers"]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def job_server() -> Iterator[dict[str, str]]:
    """A head with a job server on loopback, with a token; the environment to reach it."""
    # Short, as unix sockets allow about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="sc-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        port, dashboard, client = (_free_port() for _ in range(3))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        }  # fmt: skip
        # Ray's own ports are the same for every head on a machine.
        head = subprocess.Popen(
            [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2",
             "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client}",
             "--min-worker-port=0", "--max-worker-port=0", "--dashboard-host=127.0.0.1",
             f"--dashboard-port={dashboard}", "--dashboard-agent-listen-port=0", f"--temp-dir={folder}",
             "--disable-usage-stats"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            end = time.monotonic() + 120
            while not _listens(dashboard):
                assert head.poll() is None and time.monotonic() < end, "the head did not start"
                time.sleep(0.5)
            yield environment
        finally:
            head.terminate()  # with --block, it ends what it has started
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(20)
            for pid in processes_of(head.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            head.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def _submit(environment: dict[str, str], *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SPIN_PIPE, "submit", *words], env=environment, cwd=cwd, capture_output=True, text=True, timeout=200)


def test_a_job_shows_its_log_and_hands_on_its_exit_code(job_server: dict[str, str], preprocessed: Path, tmp_path: Path) -> None:
    """fit-static joins the cluster, with its token, and fits there; of another one only the name is printed."""
    shutil.copytree(preprocessed, tmp_path / "data")
    done = _submit(job_server, "fit-static", "world", "--init", "lifter", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"{PEOPLE} fitted" in done.stdout and done.stderr.startswith("job raysubmit_")
    assert "static" in FitStore.open(tmp_path / "data" / "fits" / "world").tags()

    wrong = _submit(job_server, "--no-wait", "fit-static", "nowhere", cwd=tmp_path)
    assert wrong.returncode == 0, wrong.stderr
    job = wrong.stdout.strip()
    followed = _submit(job_server, "--logs", job, cwd=tmp_path)
    assert followed.returncode == 2 and "no data set 'nowhere'" in followed.stdout
    status = _submit(job_server, "--status", job, cwd=tmp_path)
    assert status.stdout.strip() == f"{job}: failed, exit code 2", status.stderr


def test_a_job_is_stopped(job_server: dict[str, str], tmp_path: Path) -> None:
    job = _submit(job_server, "--no-wait", "synth", "--people", "50000", "--out", "world", cwd=tmp_path).stdout.strip()
    end = time.monotonic() + 60
    while "running" not in (status := _submit(job_server, "--status", job, cwd=tmp_path)).stdout:
        assert time.monotonic() < end, status.stdout + status.stderr
    assert _submit(job_server, "--stop", job, cwd=tmp_path).stdout.strip() == f"{job}: stopping"
    followed = _submit(job_server, "--logs", job, cwd=tmp_path)
    assert followed.returncode not in (0, 2)
    assert "stopped" in _submit(job_server, "--status", job, cwd=tmp_path).stdout


def test_no_such_job_is_one_line(job_server: dict[str, str], tmp_path: Path) -> None:
    done = _submit(job_server, "--logs", "unknown", cwd=tmp_path)
    assert done.returncode == 1 and "Job unknown does not exist" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words, says",
    [
        ("nothing", "expected a command of spin-pipe"),
        ("submit info", "expected a command of spin-pipe"),
        ("", "expected a COMMAND, or one of"),
        ("--status a info", "expected a COMMAND, or one of"),
        ("--address 127.0.0.1:8265 info", "expected the job server's address, as http://"),
    ],
)
def test_what_submit_refuses(words: str, says: str, run: Any) -> None:
    done = run("submit", *words.split())
    assert done.code == 2 and says in done.err
    assert len(done.err.splitlines()) == 1


def test_another_token_is_refused_in_one_line(job_server: dict[str, str], tmp_path: Path) -> None:
    done = _submit(job_server | {"RAY_AUTH_TOKEN": "f" * 64}, "info", cwd=tmp_path)
    assert done.returncode == 1 and "does not accept the token" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_job_server_is_one_line(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{_free_port()}"
    done = _submit(dict(os.environ, PYTHONPATH=str(ROOT)), "--address", address, "info", cwd=tmp_path)
    assert done.returncode == 1 and f"no Ray job server answers at {address}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_node_that_does_not_see_the_data_is_named(ray_running: None, tmp_path: Path) -> None:
    from pipelines.cluster.nodes import require_seen
    from pipelines.errors import StageError

    require_seen(tmp_path)
    with pytest.raises(StageError, match=r"elsewhere: not seen from node 127\.0\.0\.1"):
        require_seen(tmp_path / "elsewhere")
