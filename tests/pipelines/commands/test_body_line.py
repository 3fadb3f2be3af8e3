"""Every command that uses a body names it first, with why and what it ignores; bodies of another body model are counted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.readers.mpi_inf_3dhp.published_fits import FITS
from spin.body import load_body
from store.annotations.table import Annotations
from tests.pipelines.raw_trees import made
from tests.spin.smpl_files import write_regressors, write_smpl

COMMANDS = [
    "info world",
    "info world --sample 0",
    "quality world",
    "export-fits world",
    "export-annotations world --out x.npz",
    "import-fits world x.npy",
    "import-annotations x.npz --name y --root photos",
    "report world",
    "eval world --stored-fits",
    "fit-static world --solver adam --init x.npy",
    "preprocess coco --root raw",
    "preprocess --train-files --root coco=raw",
    "demo --img photo.png --bbox photo.json --checkpoint x.pt",
    "train-lifter",
    "synth --out made --people 1 --test-people 1 --layout lsp-orig",
]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_first_line_is_the_bodys(line: str, run, preprocessed: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(preprocessed, tmp_path / "data"))
    (data / "smpl").mkdir()
    (data / "smpl" / "SMPL_NEUTRAL.pkl").touch()
    for name in ("photo.png", "photo.json"):
        (tmp_path / name).touch()
    first = run(*line.split()).err.splitlines()[0]  # most commands then miss a file of theirs
    assert first.startswith("body: the open body")
    if not line.startswith("synth"):
        assert f"ignored: {data / 'smpl' / 'SMPL_NEUTRAL.pkl'} (it is empty)" in first


def test_info_names_the_body_and_what_is_ignored(run, tmp_path: Path) -> None:
    body = load_body()
    write_regressors(write_smpl(tmp_path / "data" / "smpl" / "SMPL_NEUTRAL.pkl", body).parent, body)
    (tmp_path / "data" / "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl").touch()
    done = run("info")
    assert done.code == 0
    first = done.out.splitlines()[0]
    assert first.startswith(f"body: SMPL_NEUTRAL, from {tmp_path / 'data' / 'smpl' / 'SMPL_NEUTRAL.pkl'}; ignored: ")
    assert first.endswith("basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl (it is empty)")


@pytest.mark.parametrize("layout", ["3dpw", "mpi-inf-3dhp"])
def test_bodies_of_another_body_model_are_counted(layout: str, run, tmp_path: Path) -> None:
    root = made(tmp_path / "raw", layout, 6)
    ours = run("preprocess", layout, "--root", str(root), "--name", "ours", *_fits(layout, root))
    assert ours.code == 0, ours.err
    assert "bodies left out" not in ours.err
    own = Annotations.read(tmp_path / "data" / "annotations" / "ours.parquet")
    (root / "synth.json").unlink()  # says whose bodies the tree has; without it they are SMPL's
    done = run("preprocess", layout, "--root", str(root), "--name", "theirs", *_fits(layout, root))
    assert done.code == 0, done.err
    (line,) = [line for line in done.err.splitlines() if "bodies left out" in line]
    assert line.split()[0] == str(int(own.has_smpl.sum())) != "0"
    assert re.search(r"they are of SMPL, which is not the body in use", line)
    theirs = Annotations.read(tmp_path / "data" / "annotations" / "theirs.parquet")
    assert not theirs.has_smpl.any()
    assert np.array_equal(theirs.has_joints17, own.has_joints17)


def _fits(layout: str, root: Path) -> list[str]:
    return ["--fits", str(root / FITS)] if layout == "mpi-inf-3dhp" else []
