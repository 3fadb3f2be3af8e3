from __future__ import annotations

import pytest
import torch

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
