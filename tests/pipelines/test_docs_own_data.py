"""Every command that docs/own-data.md shows works, in the order shown, on a folder such as the page describes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from own_data import coco_style, people_of, table_rows, write_csv, write_openpose

from pipelines.cli import main
from pipelines.layout import DataFolder
from pipelines.readers.own.joint_names import joint_index
from spin.joints import OPENPOSE_NAMES

PAGE = Path(__file__).parents[2] / "docs" / "own-data.md"


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """photos/, and the same people as keypoints.json, openpose_json/, keypoints.csv, and under odd names."""
    people = people_of(world, 8)
    (tmp_path / "photos").mkdir()
    for name in {p.image for p in people}:
        shutil.copy(world / "train2014" / name, tmp_path / "photos" / name)
    content = coco_style(people, boxes=False)
    (tmp_path / "keypoints.json").write_text(json.dumps(content))
    content["categories"][0]["keypoints"][1] = "kneecap"
    content["categories"][0]["keypoints"][-1] = "tail"
    (tmp_path / "odd-names.json").write_text(json.dumps(content))
    write_openpose(tmp_path / "openpose_json", people, OPENPOSE_NAMES)
    write_csv(tmp_path / "keypoints.csv", table_rows(people, boxes=False))
    return tmp_path


def test_every_command_of_the_page_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ray_running: None
) -> None:
    monkeypatch.chdir(folder)
    # Ray's workers run since before, in another folder.
    monkeypatch.setenv("SPIN_PIPE_DATA", str(folder / "data"))
    shown = commands()
    assert len(shown) >= 10
    assert {line[0] for line in shown} == {"spin-pipe"}
    for line in shown:
        monkeypatch.setattr(sys, "argv", line)
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        assert not code, f"{shlex.join(line)}: {capsys.readouterr().err}"
    data = DataFolder(folder / "data")
    assert data.known() == ["mine", "mine-odd", "mine-openpose", "mine-table"]
    for file in ("sample.png", "mine.csv", "report.html"):
        assert (folder / file).stat().st_size > 100
    with np.load(folder / "mine.npz") as fits:
        assert fits["pose"].shape[1:] == (72,)
        assert fits["valid_fit"].mean() > 0.5


def test_the_pages_json_is_what_it_says() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    content = json.loads(block)
    names = content["categories"][0]["keypoints"]
    assert len(content["annotations"][0]["keypoints"]) == 3 * len(names)
    assert all(joint_index(name) is not None for name in names)
