from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from s3_server import S3

from pipelines.cli import main
from pipelines.cluster.session import ray_session
from pipelines.folders import DataFolder
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from pipelines.synthetic.coco_world import synthesize

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PEOPLE, TEST_PEOPLE = 40, 8
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small embedded world on disk, a quarter of its people with known bodies."""
    out = tmp_path_factory.mktemp("raw") / "world"
    synthesize(out, people=PEOPLE, test_people=TEST_PEOPLE, seed=7, truth_share=0.25, workers=1)
    return out


@pytest.fixture(scope="session")
def preprocessed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the world's two splits as annotations. Copy it before changing it."""
    data = DataFolder(tmp_path_factory.mktemp("preprocessed"))
    for name, split in (("world", "train2014"), ("world-test", "val2014")):
        preprocess(data, DATASETS["coco"], world, name, ReaderOptions(split, min_body_joints=8))
    return data.root


@pytest.fixture(scope="session")
def ray_running(s3_running: S3) -> Iterator[None]:
    """One local Ray for all tests that ask for it: starting one takes longer than most of what they do with it.

    Its workers find the tests' object store in their environment.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_running.environment.items():
            patch.setenv(name, value)
        with ray_session(cpus=4):
            yield


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium: $CHROMIUM, the system's, or playwright's own. Of the module, as it keeps an event loop running."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (see CONTRIBUTING.md)")
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = [
            os.environ.get("CHROMIUM"),
            *map(shutil.which, CHROMIUM_NAMES),
            own if Path(own).exists() else None,
        ]
        path = next((p for p in found if p), None)
        if path is None:
            pytest.skip("no Chromium on this machine: install one (see CONTRIBUTING.md) or name it in $CHROMIUM")
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["spin-pipe", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
