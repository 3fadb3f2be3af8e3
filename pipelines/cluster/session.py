"""Ray, started for one command on this machine, or joined where it runs already.

A local session listens on loopback only, asks for a token of its own, reports nothing to anyone, and keeps its files in a
temporary folder that goes with it; the user's home is left alone.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from pipelines.errors import StageError

_LOCAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # On one node: bind to loopback instead of every interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # Workers must not start a thread for each core of every library on top of the actors' own.
    "OMP_NUM_THREADS": "1",
}
# The root of the checkout or of site-packages: workers import the same code as the driver.
_CODE = str(Path(__file__).parents[2])


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _private_folder() -> Path:
    """This process's folder for Ray, with a secret in it; both go when the process ends.

    Sets the environment that Ray reads when it is imported, once: Ray keeps what it read then.
    """
    # Unix sockets allow about a hundred characters of path, and Ray needs most of them.
    base = tempfile.gettempdir()
    base = base if len(base) <= 16 else "/tmp"
    _sweep(Path(base))
    folder = Path(tempfile.mkdtemp(prefix=f"spin-ray-{os.getpid()}-", dir=base))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ.update(_LOCAL | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)})
    return folder


def _sweep(base: Path) -> None:
    """Removes the folders of processes that were killed before they could."""
    for folder in base.glob("spin-ray-*-*"):
        with contextlib.suppress(OSError, ValueError):
            if folder.stat().st_uid == os.getuid():
                try:
                    os.kill(int(folder.name.split("-")[2]), 0)
                except ProcessLookupError:
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ray_session(address: str | None = None, *, cpus: int | None = None) -> Iterator[None]:
    """Ray for the block. `address` joins a running cluster; otherwise a local one is made and ended.

    Inside another session, or where the caller has started Ray, that one is used and left running.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
    elif address is not None:
        with _joined(address):
            yield
    else:
        with _local(cpus or cpu_count()):
            yield


@contextmanager
def _local(cpus: int) -> Iterator[None]:
    folder = Path(tempfile.mkdtemp(prefix="", dir=_private_folder()))
    import ray  # after its environment is set

    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": _python_path()}},
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _python_path() -> str:
    return os.pathsep.join(dict.fromkeys([_CODE, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))


@contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StageError(f"no Ray cluster answers at {address!r} ({error}); check --address") from error
    try:
        yield
    finally:
        ray.shutdown()
