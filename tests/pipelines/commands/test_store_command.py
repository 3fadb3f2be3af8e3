from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipelines.cli import cli
from store.errors import ExpressionError
from store.fits.fingerprint import Fingerprint
from store.fits.query import matching
from store.fits.records import Fits, Source
from store.fits.repair.verify import verify
from store.fits.runs import run_code
from store.fits.store import FitStore

SAMPLES = 30
ALL = np.arange(SAMPLES)


def fits(score: np.ndarray | float, run: int = 0) -> Fits:
    scores = np.broadcast_to(np.float32(score), SAMPLES).copy()
    camera = np.tile(np.float32([0, 0, 40]), (SAMPLES, 1))
    source = np.full(SAMPLES, Source.LOOP, np.uint8)
    runs = np.full(SAMPLES, run, np.uint64)
    return replace(Fits.empty(SAMPLES), camera=camera, loss=scores, score=scores, source=source, run=runs)


@pytest.fixture
def store(tmp_path: Path) -> FitStore:
    made = FitStore.create(tmp_path / "fits" / "world", samples=SAMPLES, fingerprint=Fingerprint("b:1", "o:1", "s:1", "a:1"))
    made.merge(ALL, fits(np.arange(SAMPLES, dtype=np.float32), made.name_run("first")))
    made.tag("then")
    return made


def run(store: FitStore, *arguments: str) -> Any:
    command = ["store", *arguments, "--data", str(store.path.parent.parent), "--json"]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.output)


def test_reset_retracts_what_the_expression_names_and_diff_and_log_say_so(store: FitStore) -> None:
    expression = "run == 'first' and score > 24"
    assert run(store, "reset", "world", "--where", expression, "--dry-run")["retracted"] == 5
    assert run(store, "reset", "world", "--where", expression) == {"retracted": 5, "dry_run": False}
    store.merge(ALL, fits(0.5))
    store.flush()
    now = FitStore.open(store.path).get(ALL)
    assert (now.source[25:] == Source.NONE).all() and (now.source[:25] == Source.LOOP).all()
    found = run(store, "diff", "world@then", "world", "--limit", "3")
    assert (found["removed"], found["better"], found["worse"], len(found["changes"])) == (5, 24, 0, 3)
    assert run(store, "info", "world")["retracted"] == 5
    store.compact()
    entries = run(store, "log", "world")["log"]
    assert entries[0]["operation"] == "create"
    assert expression in [entry.get("where") for entry in entries]
    run(store, "restore", "world", "then")
    assert (FitStore.open(store.path).get(ALL).source == Source.LOOP).all()


def test_compact_tag_and_gc(store: FitStore) -> None:
    assert run(store, "compact", "world")["generation"] == 1
    assert run(store, "tag", "world", "now")["tags"] == ["now", "then"]
    assert run(store, "tag", "world", "then", "--delete")["tags"] == ["now"]
    expected = {"generations/000000.zarr", "generations/000000.json"}
    planned = run(store, "gc", "world", "--dry-run")["removed"]
    assert expected <= set(planned) and run(store, "gc", "world")["removed"] == planned
    assert run(store, "gc", "world")["removed"] == []
    assert run(store, "verify", "world")["findings"] == []


def test_a_flipped_bit_in_every_file_is_found_and_named(store: FitStore, tmp_path: Path) -> None:
    store.compact()
    store.merge(ALL, fits(0.5))
    store.flush()
    assert verify(store.path).whole
    rng = np.random.default_rng(0)
    paths = [path for path in sorted(store.path.rglob("*")) if path.is_file() and path.name != "lock"]
    assert len(paths) > 40
    for path in paths:
        content = bytearray(path.read_bytes())
        for _ in range(2):
            flipped = bytearray(content)
            flipped[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            if path.name == "store.json":
                with pytest.raises(Exception, match=r"store\.json"):
                    verify(store.path)
            else:
                named = [finding.file for finding in verify(store.path).findings]
                assert str(path.relative_to(store.path)) in named
        path.unlink()
        if path.suffix != ".arrow" and path.parent.name != "tags":
            try:
                assert not verify(store.path).whole
            except FileNotFoundError:
                assert path.name == "store.json"
        path.write_bytes(content)
    assert verify(store.path).whole
    shutil.rmtree(store.path / "generations" / "000001.zarr" / "pose")
    result = CliRunner().invoke(cli, ["store", "verify", str(store.path)])
    assert result.exit_code == 1 and "pose" in result.output and "missing" in result.output


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ("score < 3", 3),
        ("not score < 3", 27),
        ("3 <= score < 5 or sample == 29", 3),
        ("source == 'loop'", 30),
        ("source in ('static', 'imported')", 0),
        ("run != 'first'", 0),
        ("time < '2026-01-31T12:00' and verdict == 'valid'", 30),
        ("score > -1", 30),
    ],
)
def test_expressions_choose_fits(expression: str, count: int) -> None:
    given = fits(np.arange(SAMPLES, dtype=np.float32), run_code("first"))
    assert matching(expression, given).sum() == count
    assert not matching(expression, Fits.empty(3)).any()


@pytest.mark.parametrize(
    "expression",
    [
        "", "score", "score >", "__import__('os')", "score.real > 1", "pose > 1", "score > 'x'", "source == 'x'",
        "time > 'soon'", "[x for x in y]", "score > 1 + 1", "score is 1", "(" * 500,
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused_in_one_line(expression: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        matching(expression, fits(1.0))
    assert "\n" not in str(caught.value)
