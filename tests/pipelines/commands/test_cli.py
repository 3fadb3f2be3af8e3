from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import COMMANDS, cli
from pipelines.commands.common import training_datasets
from pipelines.errors import StageError, cause
from pipelines.folders import DataFolder
from pipelines.journal import read, recorded
from pipelines.readers import DATASETS


def test_help_of_everything_has_an_example(run) -> None:
    top = run("--help")
    assert top.code == 0
    for name in cli.commands:
        assert name in top.out
        shown = run(name, "--help")
        assert shown.code == 0
        assert name == "preprocess" or "Example" in shown.out
    for dataset in DATASETS:
        shown = run("preprocess", dataset, "--help").out
        assert "ROOT/" in shown
        assert "Example" in shown


def test_help_lines_in_the_table_are_those_of_the_commands() -> None:
    for name, (where, summary) in COMMANDS.items():
        command = cli.commands[name]
        assert command.name == name
        assert command.get_short_help_str(1000) == summary, where


def test_help_imports_no_command() -> None:
    heavy = ("torch", "ray", "zarr", "numpy", "pipelines.commands.train", "pipelines.commands.common")
    code = (
        "import sys; from pipelines.cli import cli; cli.main(['--help'], standalone_mode=False);"
        f"assert not [name for name in {heavy} if name in sys.modules]"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "fit-static" in ended.stdout


def test_no_command_imports_ray() -> None:
    """Ray reads its environment when it is imported, so `ray_session` sets that first."""
    code = "import sys; from pipelines.cli import cli; [cli.commands[n] for n in cli.commands]; sys.exit('ray' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


WRONG = {
    "no such command": ["fly"],
    "no such option": ["fit-static", "--fast"],
    "not a number": ["train", "--name", "x", "--epochs", "many"],
    "not a choice": ["fit-static", "--solver", "newton"],
    "missing option": ["train"],
    "no data yet": ["fit-static"],
    "unknown data set": ["fit-static", "mars"],
    "name that leaves its folder": ["train", "--name", "../../x", "--dataset", "world"],
    "neither run nor checkpoint": ["eval", "--dataset", "world"],
    "run that is not there": ["report", "--name", "none"],
    "resume of nothing": ["train", "--name", "none", "--resume"],
    "no checkpoint yet": ["eval", "--name", "none"],
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_command_says_so_and_exits_2(run, case: str) -> None:
    done = run(*WRONG[case])
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert done.err.strip()


def test_a_failure_is_one_line_and_exits_1(run, tmp_path: Path) -> None:
    cases = {
        ("preprocess", "coco", "--root", "nowhere"): "--root nowhere: no such folder",
        ("preprocess", "coco", "--root", "."): "person_keypoints_train2014.json: no such file",
    }
    for arguments, message in cases.items():
        done = run(*arguments)
        assert done.code == 1
        assert message in done.err
        body, failure = done.err.strip().splitlines()  # which body is used, and the failure
        assert body.startswith("body: ") and failure.startswith("spin-pipe: ")
    broken = tmp_path / "data" / "annotations" / "world.parquet"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not parquet")
    for arguments in (("fit-static", "world"), ("export-fits", "world")):
        done = run(*arguments)
        assert done.code == 1
        assert "world.parquet" in done.err
        assert "Traceback" not in done.err
        assert "Traceback" in run(*arguments, "--debug").err


def test_a_file_that_is_no_checkpoint_is_refused(run, preprocessed: Path, tmp_path: Path) -> None:
    shutil.copytree(preprocessed, tmp_path / "data")
    (tmp_path / "x.pt").write_bytes(b"nothing")
    done = run("eval", "--checkpoint", "x.pt", "--dataset", "world-test")
    assert done.code == 1
    assert "x.pt" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_several_data_sets_must_be_chosen_from(run, preprocessed: Path, tmp_path: Path) -> None:
    shutil.copytree(preprocessed, tmp_path / "data")
    done = run("export-fits")
    assert done.code == 2
    assert "world, world-test" in done.err
    done = run("export-fits", "world")
    assert done.code == 1
    assert "fit-static" in done.err or "no fit store" in done.err.lower()


def test_without_a_name_the_published_training_sets_are_meant(preprocessed: Path, tmp_path: Path) -> None:
    data = DataFolder(shutil.copytree(preprocessed, tmp_path / "data"))
    for name in ("coco", "lspet", "3dpw"):
        shutil.copy(data.annotations("world"), data.annotations(name))
    assert training_datasets(data, ()) == ["lspet", "coco"]
    assert training_datasets(data, ("world",)) == ["world"]


def test_synth_then_preprocess(run, tmp_path: Path) -> None:
    made = run("synth", "--out", "raw", "--people", "4", "--test-people", "2", "--workers", "1")
    assert made.code == 0, made.err
    assert run("synth", "--out", "raw", "--people", "5", "--test-people", "2", "--workers", "1").code == 1
    done = run("preprocess", "coco", "--root", "raw", "--name", "w", "--min-body-joints", "1")
    assert done.code == 0, done.err
    assert re.search(r"w\.parquet: 4 people", done.err)
    stages = [(e["stage"], e.get("people")) for e in read(DataFolder(tmp_path / "data").journal)]
    assert ("preprocess", 4) in stages


def test_the_journal_leaves_out_what_failed_and_half_lines(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with recorded(path, "one", name="a") as entry:
        entry["count"] = 3
    with pytest.raises(ValueError, match="no"), recorded(path, "two"):
        raise ValueError("no")
    with path.open("a") as file:
        file.write('{"stage": "thr')
    (only,) = read(path)
    assert only["stage"] == "one"
    assert only["count"] == 3
    assert only["seconds"] >= 0


def test_the_cause_is_found_under_wrappers() -> None:
    inner = StageError("the reason")

    class Wrapper(Exception):
        pass

    by_cause, by_failures = Wrapper(), Wrapper()
    by_cause.cause = inner  # type: ignore[attr-defined]
    by_failures.worker_failures = {0: by_cause}  # type: ignore[attr-defined]
    assert cause(by_failures) is inner
    loop = Wrapper()
    loop.__cause__ = loop
    assert cause(loop) is loop
