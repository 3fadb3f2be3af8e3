"""`store verify`, `store repair` and `store export`, as people call them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.dataset
import pytest
from click.testing import CliRunner

from pipelines.cli import cli
from store.fits.fingerprint import Fingerprint
from store.fits.records import Fits, Source
from store.fits.store import FitStore

SAMPLES = 30
ALL = np.arange(SAMPLES)


@pytest.fixture
def store(tmp_path: Path) -> FitStore:
    """Two thirds of the samples have fits."""
    made = FitStore.create(tmp_path / "fits" / "world", samples=SAMPLES, fingerprint=Fingerprint("b:1", "o:1", "s:1", "a:1"))
    rng = np.random.default_rng(0)
    fits = replace(
        Fits.empty(20),
        pose=rng.normal(size=(20, 72)).astype(np.float32),
        camera=np.tile(np.float32([0, 0, 40]), (20, 1)),
        loss=np.arange(20, dtype=np.float32),
        score=np.arange(20, dtype=np.float32),
        source=np.where(ALL[:20] % 2, Source.LOOP, Source.STATIC).astype(np.uint8),
        run=np.full(20, made.name_run("first"), np.uint64),
        time=np.full(20, 1_700_000_000_000),
    )
    made.merge(ALL[:20], fits)
    made.tag("then")
    made.compact()
    made.merge(ALL[:1], replace(fits.take(slice(1)), score=np.float32([-1])))
    made.flush()
    return made


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(cli, ["store", *map(str, arguments)])
    assert result.exit_code == code or (code and result.exception), result.output
    return result


def test_repair_takes_what_a_copy_holds_and_reports_what_it_did(store: FitStore, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "copy")
    pose = store.path / "generations" / "000001.zarr" / "pose" / "c" / "0" / "0"
    segment = next((store.path / "segments" / "000001").iterdir())
    for path in (pose, segment):
        path.write_bytes(bytes(path.stat().st_size))
    assert "spin-pipe store repair" in str(run("verify", store.path, code=1).exception)
    usage = run("verify", store.path, "--from", tmp_path / "copy", code=1).exception
    assert "spin-pipe store repair" in str(usage)
    assert "no such folder" in str(run("repair", store.path, "--from", tmp_path / "none", code=1).exception)
    refused = run("repair", store.path, code=1)
    assert "would be lost: the updates in it" in refused.output and "--accept-loss" in refused.output
    repaired = run("repair", store.path, "--from", tmp_path / "copy", "--json")
    found = json.loads(repaired.output)
    assert found["findings"] == [] and {r["action"] for r in found["repairs"]} == {"repaired"}
    assert FitStore.open(store.path).get(ALL[:1]).score == -1


def test_the_earlier_name_of_repair_is_accepted_and_gives_the_new_one(store: FitStore, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "copy")
    next((store.path / "segments" / "000001").iterdir()).write_bytes(b"nothing")
    output = run("verify", store.path, "--repair", "--from", tmp_path / "copy").output
    assert "`spin-pipe store repair`" in output and "repaired" in output
    assert FitStore.open(store.path).get(ALL[:1]).score == -1


def test_accepted_loss_is_listed_and_the_store_is_whole(store: FitStore) -> None:
    segment = next((store.path / "segments" / "000001").iterdir())
    content = bytearray(segment.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4] = b"\xff\xff\xff\xff"
    segment.write_bytes(content)
    found = json.loads(run("repair", store.path, "--accept-loss", "--json").output)
    (repair,) = found["repairs"]
    assert repair["action"] == "lost" and repair["samples"] == [0] and found["findings"] == []
    assert (store.path / "damaged" / repair["file"].replace("/", "--")).read_bytes() == bytes(content)
    assert FitStore.open(store.path).get(ALL[:1]).score == 0


def test_export_as_parquet_is_read_by_sql_and_by_pyarrow(store: FitStore, tmp_path: Path) -> None:
    out = tmp_path / "fits.parquet"
    result = run("export", store.path, "--columns", "pose,score,source,verdict,run,time", "--out", out)
    assert "20 of 30 samples" in result.output
    found = duckdb.sql(
        f"SELECT source, run, count(*), min(score) FROM '{out}' WHERE time > '2023-01-01' GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert found == [("loop", "first", 10, 1.0), ("static", "first", 10, -1.0)]
    rows = pyarrow.dataset.dataset(out).to_table(filter=pyarrow.dataset.field("score") > 17)
    assert rows.column("sample").to_pylist() == [18, 19] and rows.column("verdict").to_pylist() == ["valid"] * 2
    poses = rows.column("pose").combine_chunks().flatten().to_numpy().reshape(-1, 72)
    assert np.array_equal(poses, store.get(ALL[18:20]).pose)


def test_export_of_a_tag_as_numpy_and_of_some_as_csv(store: FitStore, tmp_path: Path) -> None:
    run("export", store.path, "--columns", "betas,score,run", "--tag", "then", "--out", tmp_path / "fits.npz")
    with np.load(tmp_path / "fits.npz") as found:
        assert found["sample"].tolist() == list(range(20)) and found["score"][0] == 0
        names = dict(zip(found["run_code"].tolist(), found["run_name"].tolist()))
        assert {names[code] for code in found["run"].tolist()} == {"first"}
    out = tmp_path / "some"
    where = ("--where", "score > 17")
    run("export", store.path, "--columns", "camera,source", "--format", "csv", *where, "--out", out)
    lines = out.read_text().splitlines()
    assert lines[0] == '"sample","camera_0","camera_1","camera_2","source"'
    assert lines[1:] == ['18,0,0,40,"static"', '19,0,0,40,"loop"']
    run("export", store.path, "--where", "score > 1000", "--out", tmp_path / "none.csv")
    assert len((tmp_path / "none.csv").read_text().splitlines()) == 1


def test_export_says_what_it_does_not_know(store: FitStore, tmp_path: Path) -> None:
    for arguments, part in (
        (("--columns", "poses", "--out", tmp_path / "a.csv"), "there is no 'poses'"),
        (("--out", tmp_path / "a.txt"), "--format"),
        (("--out", tmp_path / "none" / "a.csv"), "there is no folder"),
    ):
        assert part in str(run("export", store.path, *arguments, code=1).exception)
    assert not list(tmp_path.glob("a.*"))
