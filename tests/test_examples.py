"""The examples run, and end with what they promise."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from examples import fit_keypoints, train_on_your_own_data, use_the_store

NOTEBOOK = Path(fit_keypoints.__file__).parent / "first_fit.ipynb"


def test_keypoints_are_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit_keypoints.main(tmp_path / "fits.npz", people=3)
    assert "3 of 3 fits are valid" in capsys.readouterr().out
    assert np.load(tmp_path / "fits.npz")["pose"].shape == (3, 72)


def test_the_store_keeps_the_better_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use_the_store.main(tmp_path)
    out = capsys.readouterr().out
    assert "of 50 later fits were better" in out and "tags ['first']" in out


@pytest.mark.slow
def test_own_data_are_trained_on(tmp_path: Path) -> None:
    train_on_your_own_data.main(tmp_path, people=16)
    assert np.load(tmp_path / "data" / "final_fits" / "mine.npz")["pose"].shape[1] == 72


def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # Where a notebook runs is the folder that it is in.
    folder = shutil.copytree(NOTEBOOK.parent, tmp_path / "examples")
    client.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    pictures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 2
