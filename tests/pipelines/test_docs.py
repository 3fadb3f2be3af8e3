"""What the documentation shows: every command runs, or where it can't here, is at least one that the program takes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import click
import duckdb
import numpy as np
import pytest
from docs_folder import make_docs_folder

from pipelines.cli import cli, main
from spin.joint_names import joint_index

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SOURCES = [path for room in ("spin", "store", "pipelines") for path in sorted((ROOT / room).rglob("*.py"))]

# Commands that are only read by the command line, and why they don't run in a test of a minute.
ONLY_READ = {
    r"spin-pipe train ": "training; tests/pipelines/training/test_train.py runs it",
    r"spin-pipe submit ": "needs a cluster; tests/pipelines/cluster/test_submit.py starts one",
    r"spin-pipe .*--address ": "the same",
    r"spin-pipe train-lifter": "a quarter of an hour; tests/pipelines/fitting/test_train_lifter.py runs a short one",
    r"spin-pipe fetch-data( [a-z_]+)*$": "downloads; tests/pipelines/download has a server of its own",
    r"spin-pipe preprocess .*raw/3dpw": "licensed files; tests/pipelines/preprocessing/test_preprocess.py reads made-up ones",
    r"spin-pipe preprocess --train-files .*--root coco=raw/coco": "the same, of several data sets",
    r"spin-pipe import-fits coco static_fits": "SMPL's bodies; tests/pipelines/exchange/test_exchange_commands.py has some",
    r"spin-pipe eval --checkpoint.data/model_checkpoint.pt --dataset.(h36m-p2|3dpw)$": "as h36m-p1, which runs",
    r"spin-pipe synth --out raw/world": "hundreds of people; tests/pipelines/synthetic/test_synth.py draws fewer",
}
# Other programs, and those that take long or are no part of this; what they are given is not looked at.
PROGRAMS = {"export", "ray", "sh", "tensorboard", "tools/quickstart", "tools/test"}


def commands(page: Path) -> list[str]:
    """Lines of the page's shell blocks, continued lines as one; on the page for SPIN's users, its tables' too."""
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    if page.name in ("from-spin.md", "README.md"):
        lines += re.findall(r"\| `((?:spin-pipe|tensorboard) [^`]*)`", text)
    words = [shlex.split(line, comments=True) for line in lines]
    return [shlex.join(line) for line in words if line]


def parse(words: list[str]) -> None:
    """Takes a command line as click does, types, choices and missing options included, without running it."""
    with contextlib.suppress(click.exceptions.Exit):  # --help
        _parse(words)


def _parse(words: list[str]) -> None:
    context = cli.make_context("spin-pipe", list(words))
    command: click.Command = cli
    while isinstance(command, click.Group):
        given = [*context._protected_args, *context.args]
        if not given and command.invoke_without_command:
            return
        name, found, rest = command.resolve_command(context, given)
        assert found is not None and name is not None
        command, context = found, found.make_context(name, rest, parent=context)


def reason_not_to_run(line: str) -> str | None:
    return next((reason for pattern, reason in ONLY_READ.items() if re.match(pattern, line)), None)


@pytest.fixture(scope="module")
def prepared(world: Path, ray_running: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "folder"
    make_docs_folder(folder, world)
    with pytest.MonkeyPatch.context() as patch:
        for line in (
            "fit-static world",
            "export-annotations coco --out coco_2014_train.npz",
            "eval --name first --dataset world-test --out untrained.json",
        ):
            assert run(["spin-pipe", *line.split()], folder, patch) == 0
    return folder


def run(words: list[str], folder: Path, patch: pytest.MonkeyPatch) -> int:
    patch.chdir(folder)
    # Ray's workers run since before, in another folder.
    patch.setenv("SPIN_PIPE_DATA", str(folder / "data"))
    patch.setattr(sys, "argv", words)
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_works(
    page: Path,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder, symlinks=True)
    for line in dict.fromkeys(commands(page)):
        words = shlex.split(line)
        if words[0] != "spin-pipe":
            check_other_program(words)
        elif reason_not_to_run(line):
            parse(words[1:])
        else:
            code = run(words, folder, monkeypatch)
            assert code == 0, f"{page.name}: {line}: {capsys.readouterr().err}"
    if page.name == "store.md":
        (query,) = re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)
        rows = duckdb.sql(query).fetchall()  # in the folder where the commands ran
        assert rows and sum(fits for _, fits, _ in rows) > 0
    if page.name == "own-data.md":
        for file in ("sample.png", "mine.csv", "report.html"):
            assert (folder / file).stat().st_size > 100
        with np.load(folder / "mine.npz") as fits:
            assert fits["pose"].shape[1:] == (72,)
            assert fits["valid_fit"].mean() > 0.5


def check_other_program(words: list[str]) -> None:
    """A script of this checkout is there; a module of tools knows the options it is given."""
    if words[:2] == ["python", "-m"]:
        found = importlib.util.find_spec(words[2])
        assert found is not None and found.origin is not None, words
        source = Path(found.origin).read_text()
        for option in (w for w in words[3:] if w.startswith("--")):
            assert f'"{option.partition("=")[0]}"' in source, (words, option)
    else:
        assert words[0] in PROGRAMS, f"{words}: what is it? see PROGRAMS"
        if words[0].startswith("tools/"):
            assert os.access(ROOT / words[0], os.X_OK)


def test_commands_that_are_only_read_are_still_shown() -> None:
    shown = [line for page in PAGES for line in commands(page)]
    assert len(shown) > 40
    for pattern in ONLY_READ:
        assert any(re.match(pattern, line) for line in shown), pattern


def test_examples_in_the_help_of_commands_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every command: the lines below "Example", or of the whole program, below "The usual way through"."""
    monkeypatch.setattr(click.Path, "convert", lambda self, value, *_: value)  # their files need not be here
    checked = 0
    for command in walk(cli):
        below = re.split(r"Examples?:|way through:", command.help or "")[1:]
        for example in re.findall(r"^ *(spin-pipe .*(?:\n +--.*)*)", "".join(below), re.MULTILINE):
            # What follows after a gap is about the command.
            shown = re.split(r" {3,}", re.sub(r"\\\n *", " ", example))[0]
            parse(shlex.split(shown, comments=True)[1:])
            checked += 1
    assert checked > 30


def walk(command: click.Command) -> list[click.Command]:
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return [command, *(c for child in below for c in walk(child))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    """`spin-pipe …` in a sentence is seldom a whole command; its name and options must exist all the same."""
    for inline in re.findall(r"`(spin-pipe [^`]*)`", page.read_text()):
        words = [w for w in inline.replace("\n", " ").split() if w != "…"][1:]
        command: click.Command = cli
        while words and isinstance(command, click.Group) and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert command is not cli or not words or words[0].startswith(("-", "NAME")), inline
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        if not isinstance(command, click.Group):
            for option in (w.partition("=")[0].replace("_", "-") for w in words if w.startswith("--")):
                assert option in known | {"--help", "--debug"}, f"{page.name}: {inline}: {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_errors_in_troubleshooting_are_those_of_the_program() -> None:
    """What is printed in bold there, but for what stands for a value, must be in the source."""
    literals = re.sub(r'"\s*\n?\s*f?"', "", "\n".join(path.read_text() for path in SOURCES))
    literals = re.sub(r"\{[^{}]*\}", "…", literals).replace("`", "'").replace('\\"', '"')
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    shown = re.findall(r"\*\*`([^`]*)`\*\*", page)
    assert len(shown) >= 20
    for line in shown:
        for fragment in re.split(r"…|'[^' ]+'|\d+|[A-Z_]+\.pkl|--[a-z-]+", line):
            assert fragment.strip(" ():,.;/") in literals, f"{line}: {fragment}"


def test_the_json_of_own_data_is_what_it_says() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "own-data.md").read_text(), re.DOTALL)
    content = json.loads(block)
    names = content["categories"][0]["keypoints"]
    assert len(content["annotations"][0]["keypoints"]) == 3 * len(names)
    assert all(joint_index(name) is not None for name in names)
