"""Data sets and results that the tests of evaluation measure and compare."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.subjects import checkpoint_subject
from pipelines.folders import DataFolder
from pipelines.preprocessing.preprocess import preprocess
from pipelines.readers import DATASETS
from pipelines.readers.base import ReaderOptions
from spin.network.checkpoints import Checkpoint, save_checkpoint
from tests.pipelines.evaluation.measured import CONFIG, IMG_RES, tiny_network
from tests.pipelines.raw_trees import made


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3DPW and LSP of the embedded world as annotations, and two checkpoints of untrained networks. Not to be changed."""
    root = tmp_path_factory.mktemp("measured")
    data = DataFolder(root / "data")
    for name, people in (("3dpw", 6), ("lsp", 3)):
        preprocess(data, DATASETS[name], made(root, name, people), name, ReaderOptions("test"))
    for seed in (0, 1):
        checkpoint = Checkpoint(model=tiny_network(seed).state_dict(), config={"img_res": IMG_RES}, step=7)
        save_checkpoint(root / f"net{seed}.pt", checkpoint)
    return root


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> DataFolder:
    return DataFolder(shutil.copytree(folder / "data", tmp_path / "data"))


@pytest.fixture
def results(data: DataFolder, folder: Path, tmp_path: Path) -> list[Path]:
    for seed in (0, 1):
        evaluate(
            data,
            "3dpw",
            checkpoint_subject(folder / f"net{seed}.pt"),
            tmp_path / f"r{seed}.json",
            config=CONFIG,
        )
    return [tmp_path / "r0.json", tmp_path / "r1.json"]
