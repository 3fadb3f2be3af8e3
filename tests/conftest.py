from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from s3_server import S3, serving

from spin.body import BodyData, BodyMesh, CompactBody, load_body
from spin.fitting.prior import PosePrior, load_pose_prior

# Two cores are shared with Ray's workers in the pipeline tests; more threads only get in each other's way.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def body() -> BodyData:
    return load_body()


@pytest.fixture(scope="session")
def compact(body: BodyData) -> CompactBody:
    return CompactBody(body)


@pytest.fixture(scope="session")
def mesh(body: BodyData) -> BodyMesh:
    return BodyMesh(body)


@pytest.fixture(scope="session")
def prior() -> PosePrior:
    return load_pose_prior()


@pytest.fixture(scope="session")
def s3_running() -> Iterator[S3]:
    with serving() as s3:
        yield s3


@pytest.fixture
def s3(s3_running: S3, tmp_path: Path) -> Iterator[S3]:
    """An empty object store without faults, where the environment says it is; nothing else of the user's is seen."""
    s3_running.clear()
    with pytest.MonkeyPatch.context() as patch:  # a test's own may be undone in its middle
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            patch.setenv(name, str(tmp_path / "none"))
        for name, value in s3_running.environment.items():
            patch.setenv(name, value)
        # No test waits long for a server that fails on purpose.
        patch.setattr("store.files.s3_client._RETRIES", 4)
        patch.setattr("store.files.s3_client._FIRST_BACKOFF", timedelta(milliseconds=1))
        yield s3_running
