"""Names that options have had, or have in the published system: taken as before, and not shown."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from pipelines.cli import cli

# What is written, and the same in former or published words.
SAME = {
    "train world --run first": "train --name first --dataset world",
    "train coco mine --run both": "train --name=both --dataset coco --dataset=mine",
    "train world coco": "train world --dataset coco",
    "train --run x --iterations 7": "train --name x --num_smplify_iters 7",
    "eval world-test --run first": "eval --name first --dataset world-test",
    "eval world --stored-fits then": "eval --stored-fits then --dataset world",
    "eval world --stored-fits": "eval --stored-fits --dataset world",
    "report world --run first": "report --name first --dataset world",
    "fit-static world --overwrite": "fit-static world --again",
    "train-lifter --overwrite": "train-lifter --again",
    "fetch-data --overwrite": "fetch-data --again",
    "export-annotations world --overwrite": "export-annotations world --replace",
}


def parsed(line: str) -> tuple[dict[str, Any], str]:
    """What the command would be given, and its help."""
    name, *words = shlex.split(line)
    context = click.Context(cli, info_name="spin-pipe", **cli.context_settings)
    command = cli.commands[name]
    made = command.make_context(name, words, parent=context)
    return made.params, command.get_help(made)


@pytest.mark.parametrize("line", SAME)
def test_a_former_name_means_the_same_and_is_not_in_the_help(line: str) -> None:
    now, shown = parsed(line)
    before, _ = parsed(SAME[line])
    assert now == before
    assert now != parsed(line.split()[0])[0]
    words = {word.partition("=")[0].replace("_", "-") for word in SAME[line].split() if word.startswith("--")}
    former = {word for word in words if word not in line}
    assert former and not former & set(shown.replace(",", " ").split())
    for word in line.split():
        assert not word.startswith("--") or word in shown


@pytest.mark.parametrize(
    ("words", "datasets"),
    {"": ("a",), "--dataset b": ("b",), "c": ("c",), "c --dataset b": ("c", "b")}.items(),
)
def test_data_sets_on_the_command_line_come_before_those_of_a_file(
    tmp_path: Path, words: str, datasets: tuple[str, ...]
) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"dataset": ["a"], "iterations": 3, "run": "r"}')
    found, _ = parsed(f"train {words} --from-json {file}")
    assert (found["datasets"], found["smplify_iterations"], found["name"]) == (datasets, 3, "r")
