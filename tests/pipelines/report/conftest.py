"""Reports to test: a world to build one from, and one that is already built."""

from __future__ import annotations

import pytest
from report_page import build
from report_world import World, make_world


@pytest.fixture
def world(tmp_path) -> World:
    return make_world(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the whole page, its summary and the progress it reported; for tests that only read."""
    world = make_world(tmp_path_factory.mktemp("report"))
    seen: list[tuple[int, int]] = []
    summary, page = build(world, world.run, progress=lambda *now: seen.append(now))
    return summary, page, seen
