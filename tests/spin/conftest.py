from __future__ import annotations

import pytest

from spin.body import BodyData, CompactBody
from spin.fitting.lifter import OPEN_LIFTER, Lifter, load_lifter
from spin.fitting.prior import PosePrior
from tests.spin.fit_problems import Problem


@pytest.fixture(scope="session")
def lifter(body: BodyData) -> Lifter:
    return load_lifter(OPEN_LIFTER, body.fingerprint)


@pytest.fixture(scope="session")
def problem(compact: CompactBody, prior: PosePrior) -> Problem:
    return Problem(compact, prior, 24)
