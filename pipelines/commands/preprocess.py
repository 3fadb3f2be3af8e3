"""spin-pipe preprocess: one data set by its name, or all those of the published system."""

from __future__ import annotations

import textwrap
import tomllib
from pathlib import Path
from typing import Any

import click

from pipelines import journal
from pipelines.commands.common import ADDRESS, DATA, WORKERS, Group, data_folder
from pipelines.commands.pack import run_pack
from pipelines.errors import StageError, UsageError
from pipelines.folders import DataFolder, which_body
from pipelines.preprocessing.pack import PackConfig, outdated
from pipelines.preprocessing.preprocess import preprocess as read_raw
from pipelines.progress import say
from pipelines.readers import DATASETS, EVALUATION, TRAIN, Dataset
from pipelines.readers.base import Option, ReaderOptions

ROOTS_FILE = "roots.toml"
_FOLDER = click.Path(file_okay=False, path_type=Path)
_DECODE = click.option(
    "--check-images", type=click.Choice(["header", "decode"]), default="header", show_default=True,
    help="How images are checked: header and end of the file, or decoded (slower; finds all damage).",
)  # fmt: skip


_PACK = click.option("--pack", "packing", is_flag=True, help="Also pack each person's crop for training (see spin-pipe pack).")


class DatasetGroup(Group):
    """A command for each data set, made when it is used: readers import a lot."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(DATASETS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _command(DATASETS[cmd_name]) if cmd_name in DATASETS else None


@click.group(cls=DatasetGroup, invoke_without_command=True)
@click.option("--train-files", is_flag=True, help="All training sets whose folder is known.")
@click.option("--eval-files", is_flag=True, help="All evaluation sets whose folder is known.")
@click.option("--root", "roots", multiple=True, metavar="NAME=DIR", help="The folder of a data set; repeatable.")
@click.option(
    "--roots", "roots_file", type=click.Path(dir_okay=False, path_type=Path),
    help=f'A file of lines  name = "folder"  [default: {ROOTS_FILE} in the data folder, if there is one].',
)  # fmt: skip
@DATA
@_DECODE
@_PACK
@WORKERS
@ADDRESS
@click.pass_context
def preprocess(
    context: click.Context, train_files: bool, eval_files: bool, roots: tuple[str, ...],
    roots_file: Path | None, data: Path, check_images: str, packing: bool, workers: int | None,
    address: str | None,
) -> None:  # fmt: skip
    """Read raw data sets into data/annotations/NAME.parquet: one by its name, or all there are.

    \b
    Examples:
      spin-pipe preprocess coco --help                    the folders it expects, and where it is obtained
      spin-pipe preprocess coco --root raw/coco
      spin-pipe preprocess --train-files --eval-files --root coco=raw/coco --root h36m=raw/h36m
      spin-pipe preprocess --train-files                  folders from data/roots.toml
    """
    if context.invoked_subcommand is not None:
        return

    uses = {use for use, asked in ((TRAIN, train_files), (EVALUATION, eval_files)) if asked}
    if not uses:
        raise UsageError("name a data set, or give --train-files, --eval-files or both; --help lists them")
    folder = data_folder(data)
    known = _roots(folder, roots_file, roots)
    chosen = [d for d in DATASETS.values() if d.use in uses]
    with_root = [d for d in chosen if d.root_name in known]
    without = ", ".join(dict.fromkeys(d.root_name for d in chosen if d.root_name not in known))
    if not with_root:
        raise UsageError(f"no data set's folder is known; give --root NAME=DIR for some of: {without}")
    say(which_body(folder))
    if without:
        say(f"not read, because no folder is given for them (--root NAME=DIR): {without}")
    failed = []
    for dataset in with_root:
        try:
            _run(folder, dataset, known[dataset.root_name], dataset.name, dataset.splits[0],
                 decode=check_images == "decode", packing=packing, workers=workers, address=address)  # fmt: skip
        except StageError as error:
            say(f"{dataset.name}: {error}")
            failed.append(dataset.name)
    if failed:
        raise StageError(f"{len(failed)} of {len(with_root)} data sets failed: {', '.join(failed)}")


def _roots(folder: DataFolder, path: Path | None, given: tuple[str, ...]) -> dict[str, Path]:
    """Return folders by data set: those of the file, then those of the command line."""
    out: dict[str, Path] = {}
    file = path or folder.root / ROOTS_FILE
    if path is not None or file.is_file():
        try:
            content = tomllib.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f'{file}: not a file of lines  name = "folder"  ({error})') from error
        # Relative folders are relative to the file, not to where the command runs.
        wrong = next((name for name, value in content.items() if not isinstance(value, str)), None)
        if wrong is not None:
            raise UsageError(f'{file}: {wrong} is not a text; expected a line  {wrong} = "folder"')
        out = {name: file.parent / Path(value).expanduser() for name, value in content.items()}
    for item in given:
        name, separator, value = item.partition("=")
        if not separator or not value:
            raise UsageError(f"--root {item}: expected NAME=DIR, for example coco=raw/coco")
        out[name] = Path(value)
    names = {d.root_name for d in DATASETS.values()}
    unknown = sorted(set(out) - names)
    if unknown:
        raise UsageError(f"no data set is called {unknown[0]!r}; choose from {', '.join(sorted(names))}")
    return out


def _run(
    folder: DataFolder, dataset: Dataset, root: Path, name: str, split: str, *,
    min_body_joints: int | None = None, openpose: Path | None = None, extra: dict[str, Any] | None = None,
    decode: bool = False, packing: bool = False, workers: int | None = None, address: str | None = None,
) -> None:  # fmt: skip
    target = folder.annotations(name)
    defaults = {option.name: option.default for option in dataset.reader.OPTIONS}
    fewest = dataset.min_body_joints if min_body_joints is None else min_body_joints
    options = ReaderOptions(split, fewest, openpose, folder.root, defaults | (extra or {}))
    with journal.recorded(folder.journal, "preprocess", dataset=name, root=str(root)) as entry:
        done = read_raw(folder, dataset, root, name, options, decode=decode, workers=workers, address=address)
        entry |= {"people": done.people, "rejected": sum(done.rejected.values())}
    say(f"{target}: {done.people} people in {done.images} images")
    known = f"{done.with_body} with a known body, {done.with_joints} with known 3D joints"
    say(f"  {done.with_openpose} with an OpenPose detection, {known}")
    if done.warning:
        say(f"  warning: {done.warning}")
    if done.doubtful:
        say(f"  {done.doubtful} people are doubtful, listed in {done.doubtful_list}: hips and shoulders point opposite ways")
    for note, count in done.notes.items():
        say(f"  {count} {note}")
    for body, count in done.other_bodies.items():
        say(f"  {count} bodies left out: they are of {body}, which is not the body in use; joints and keypoints are kept")
    for reason, count in list(done.rejected.items())[:_SHOWN]:
        say(f"  rejected {count}: {reason}")
    if len(done.rejected) > _SHOWN:
        say(f"  and {len(done.rejected) - _SHOWN} more reasons")
    if done.rejected_list:
        say(f"  each of them is listed in {done.rejected_list}")
    if packing:
        run_pack(folder, name, PackConfig(), workers=workers, address=address)
    elif outdated(folder, name):
        say(f"  {folder.crops(name)} is of earlier annotations: run `spin-pipe pack {name}`, or remove it")


_SHOWN = 12  # reasons on the terminal; the list has them all
_KINDS: dict[str, Any] = {
    "flag": None,
    "file": click.Path(dir_okay=False, path_type=Path),
    "folder": _FOLDER,
    "text": str,
    "number": int,
}


_EXAMPLES = {
    "train": ("--root DIR",),
    "evaluation": ("--root DIR",),
    "own": (
        "--images photos --annotations mine.json --name mine",
        "--images photos --detections openpose_json --name mine",
        "--images photos --table mine.csv --name mine",
    ),
}


def _root_option(dataset: Dataset) -> Any:
    if dataset.use == "own":
        return click.option("--images", "--root", "root", metavar="DIR", help="The folder of the images.")
    described = f"The raw data set's folder [default: as {ROOTS_FILE} says]."
    return click.option("--root", metavar="DIR", help=described)


def _option(option: Option) -> Any:
    flag = f"--{option.name.replace('_', '-')}"
    if option.kind == "flag":
        return click.option(flag, option.name, is_flag=True, default=bool(option.default), help=option.help)
    kind, shown = _KINDS[option.kind], option.default is not None
    return click.option(flag, option.name, type=kind, default=option.default, show_default=shown, help=option.help)


def _command(dataset: Dataset) -> click.Command:
    reader, name = dataset.reader, dataset.name
    tree = "\n".join(f"  {line}" for line in reader.TREE.splitlines())
    obtain = textwrap.fill(f"Obtained from: {reader.OBTAIN}", 100)
    example = "\b\nExample:\n" + "\n".join(f"  spin-pipe preprocess {name} {e}" for e in _EXAMPLES[dataset.use])

    options = [
        DATA,
        _root_option(dataset),
        click.option("--name", "called", default=name, show_default=True, help="The data set's name from now on."),
        click.option(
            "--split", type=click.Choice(dataset.splits), default=dataset.splits[0], show_default=True,
            hidden=len(dataset.splits) == 1,
        ),
        *map(_option, reader.OPTIONS),
        click.option("--openpose", type=_FOLDER, help="Folder of OpenPose detections, if elsewhere."),
        click.option(
            "--min-body-joints", type=click.IntRange(0, 12), default=dataset.min_body_joints, show_default=True,
            help="Reject people with fewer of the 12 limb joints (12 as published).",
        ),
        _DECODE, _PACK, WORKERS, ADDRESS, click.pass_context,
    ]  # fmt: skip

    def command(
        context: click.Context, data: Path, root: str | None, called: str, split: str, openpose: Path | None,
        min_body_joints: int, check_images: str, packing: bool, workers: int | None, address: str | None,
        **extra: Any,
    ) -> None:  # fmt: skip
        given = context.parent.params if context.parent else {}
        if given.get("train_files") or given.get("eval_files") or given.get("roots"):
            raise UsageError(f"give options after the data set's name: spin-pipe preprocess {name} --root DIR")
        if openpose is not None and not openpose.is_dir():
            raise UsageError(f"--openpose {openpose}: no such folder")
        folder = data_folder(data)
        where = _one_root(folder, dataset, root)
        say(which_body(folder))
        _run(folder, dataset, where, called, split, min_body_joints=min_body_joints, openpose=openpose,
             extra=extra, decode=check_images == "decode", packing=packing, workers=workers,
             address=address)  # fmt: skip

    for decorate in reversed(options):
        command = decorate(command)
    return click.command(
        name,
        help=f"{reader.ABOUT}.\n\n{obtain}\n\n\b\nExpects:\n{tree}\n\n{example}",
        short_help=f"{reader.ABOUT}{f' ({dataset.split})' if dataset.split else ''}",
    )(command)


def _one_root(folder: DataFolder, dataset: Dataset, given: str | None) -> Path:
    if given is not None:
        name, separator, value = given.partition("=")
        return Path(value) if separator and name == dataset.root_name else Path(given)
    known = _roots(folder, None, ())
    if dataset.root_name not in known:
        raise UsageError(f'give --root DIR, or a line  {dataset.root_name} = "DIR"  in {folder.root / ROOTS_FILE}')
    return known[dataset.root_name]
