"""Trees of the data sets of still images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.synthetic.published import synthesize_layout
from tests.pipelines.still_images import PEOPLE


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tree by the data set's name, made when it is first asked for. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("layouts")

    def tree(name: str) -> Path:
        synthesize_layout(folder / name, name, people=PEOPLE, seed=3)
        return folder / name

    return tree


@pytest.fixture
def mine(trees: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy that a test may spoil."""
    return lambda name: shutil.copytree(trees(name), tmp_path / name)
