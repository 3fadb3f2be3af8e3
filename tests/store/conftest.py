from __future__ import annotations

from pathlib import Path

import pytest
from places import Place


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Every kind of place in turn: what holds of a store holds in each of them."""
    if request.param == "local":
        return Place(str(tmp_path))
    request.getfixturevalue("s3")
    return Place("s3://bucket/some/prefix")
