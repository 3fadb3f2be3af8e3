"""Fits that lie elsewhere than in the data folder."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from s3_server import S3

from pipelines.cli import cli, main
from pipelines.fitting.assets import FittingFiles
from pipelines.folders import DataFolder
from spin.fitting.fitter import FitConfig
from spin.fitting.objective import Objective
from store.annotations.table import Annotations
from store.fits.records import Fits, Source
from store.fits.store import FitStore


@pytest.fixture
def data(preprocessed: Path, tmp_path: Path) -> Path:
    shutil.copytree(preprocessed, tmp_path / "data")
    return tmp_path / "data"


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_fits_in_an_object_store_are_looked_at_and_exported(data: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/store.md has fit-static make some there; tests/pipelines/test_docs.py runs it."""
    place = "s3://bucket/some/fits"
    folder = DataFolder(data, place)
    annotations = Annotations.read(folder.annotations("world"))
    fingerprint = FittingFiles.of(folder, FitConfig()).fingerprint(Objective(), annotations)
    count = len(annotations)
    store = FitStore.create(folder.fits("world"), samples=count, fingerprint=fingerprint)
    numbers = np.arange(count, dtype=np.float32)
    pose = np.random.default_rng(0).normal(size=(count, 72)).astype(np.float32)
    camera = np.tile(np.float32([0, 0, 40]), (count, 1))
    source = np.full(count, Source.STATIC, np.uint8)
    fits = replace(Fits.empty(count), pose=pose, camera=camera, loss=numbers, score=numbers, source=source)
    store.merge(np.arange(count), fits)
    store.tag("static")
    found = json.loads(run("store", "info", f"{place}/world", "--json"))
    assert found["location"] == f"{place}/world" and found["sources"]["static"] == count
    asked = ("world", "--data", data, "--fits", place, "--json")
    assert json.loads(run("store", "compact", *asked))["generation"] == 1
    assert json.loads(run("store", "verify", *asked))["findings"] == []
    assert json.loads(run("store", "diff", "world@static", *asked))["changed"] == 0
    monkeypatch.setenv("SPIN_PIPE_FITS", place)
    assert json.loads(run("store", "reset", "world", "--where", "sample < 3", "--data", data, "--json"))["retracted"] == 3
    assert f"{count - 3} of {count} samples" in run("info", "world", "--data", data)
    run("export-fits", "world", "--data", data)
    with np.load(data / "final_fits" / "world.npz") as exported:
        assert np.array_equal(exported["pose"][3:], pose[3:])


def test_another_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert DataFolder(data, "elsewhere").fits("world") == tmp_path / "elsewhere" / "world"
    assert DataFolder(data).fits("world") == data / "fits" / "world"
    assert DataFolder(data, "s3://b/p/").fits("world") == "s3://b/p/world"


@pytest.mark.parametrize(
    ("place", "environment", "code", "said"),
    [
        ("ftp://bucket/x", {}, 2, "expected a folder or s3://BUCKET/PREFIX"),
        ("s3://bucket/../x", {}, 2, "expected a folder or s3://BUCKET/PREFIX"),
        ("s3://none/x", {}, 1, "has no bucket 'none'"),
        ("s3://bucket/x", {"AWS_ACCESS_KEY_ID": "other"}, 1, "denies access (InvalidAccessKeyId)"),
        ("s3://bucket/x", {"AWS_ACCESS_KEY_ID": "", "AWS_EC2_METADATA_DISABLED": "true"}, 1, "no credentials; set"),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 1, "look at AWS_ENDPOINT_URL and the network"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_place_is_said_in_one_line_before_anything_begins(
    place: str,
    environment: dict[str, str],
    code: int,
    said: str,
    data: Path,
    s3: S3,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pipelines.fitting.fit_static.compile_solver", lambda *_: pytest.fail("too late"))
    monkeypatch.setattr(sys, "argv", ["spin-pipe", "fit-static", "world", "--data", str(data), "--fits", place])
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == code and said in lines[-1] and place in lines[-1]
