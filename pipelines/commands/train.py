"""The command that trains. Its options are the settings of `pipelines.training.config`, by their published names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.commands.common import (
    DATA,
    DATASET_OPTION,
    DATASETS,
    FITS,
    LOG_DIR,
    Option,
    chosen_datasets,
    data_folder,
    training_datasets,
)
from pipelines.errors import UsageError
from pipelines.folders import RunFolder, which_body
from pipelines.training.config import HEADINGS, MACHINE, RUN, SETTINGS, Setting, TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable

# Published settings that concern another machine: the folders of that run, and its own file of options.
_NOT_TAKEN = ("log_dir", "summary_dir", "checkpoint_dir", "from_json")
_GIVEN = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP)
_RENAMED = {
    "num_epochs": "epochs",
    "num_smplify_iters": "smplify_iterations",
    "iterations": "smplify_iterations",
    "run": "name",
    "dataset": "datasets",
    "eval_dataset": "eval_datasets",
}


class GroupedCommand(click.Command):
    """A command whose help has the options under the headings of `HEADINGS`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {heading: [] for heading in HEADINGS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                groups[getattr(param, "heading", RUN)].append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class _Option(Option):
    """An option that knows its heading."""

    def __init__(self, *args: Any, heading: str = RUN, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


def _from_json(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the file's settings the defaults; the command line comes before them."""
    if path is None:
        return
    try:
        # Published files have Infinity for "no time limit". It is not JSON, and the only exception that is accepted.
        content = json.loads(path.read_text(), parse_constant={"Infinity": math.inf}.__getitem__)
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise UsageError(f"--from-json {path}: not JSON that can be read ({error})") from error
    if not isinstance(content, dict):
        raise UsageError(f"--from-json {path}: expected an object of options, as {{'batch_size': 64}}")
    known = {p.name for p in ctx.command.params}
    settings = {str(_RENAMED.get(k, k)): v for k, v in content.items() if k not in _NOT_TAKEN and v is not None}
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise UsageError(
            f"--from-json {path}: {unknown[0]!r} is no option of train; expected names as in "
            "`spin-pipe train --help`, with underscores (a run's own config.json is used by --resume)"
        )
    if isinstance(settings.get("mix"), dict):
        settings["mix"] = [f"{name}={share}" for name, share in settings["mix"].items()]
    for name in ("datasets", "eval_datasets", "mix"):
        if isinstance(settings.get(name), str):
            settings[name] = [settings[name]]  # of text, click would take each letter
    if settings.get("time_to_run") == math.inf:
        del settings["time_to_run"]
    ctx.default_map = settings


def _shares(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
    shares = {}
    for text in given:
        name, _, share = text.partition("=")
        try:
            shares[name] = float(share)
        except ValueError as error:
            raise UsageError(f"--mix {text}: expected NAME=SHARE, as coco=0.3") from error
    return shares


def _type(setting: Setting) -> Any:
    if setting.choices:
        return click.Choice(setting.choices)
    if setting.is_file:
        return click.Path(dir_okay=False)
    if setting.least is not None:
        return click.IntRange(setting.least)
    return str if setting.kind in (tuple, dict) else setting.kind


def _option(setting: Setting) -> Any:
    """Return the decorator that adds a setting's option."""
    more: dict[str, Any] = {"help": setting.help, "heading": setting.heading, "also": setting.also}
    names = setting.names
    if setting.kind is bool:
        names = (f"{names[0]}/--no-{names[0][2:]}",) if setting.default else names
        more |= {"is_flag": True, "default": setting.default, "show_default": bool(setting.default)}
    else:
        more |= {"type": _type(setting), "metavar": setting.metavar}
        if setting.kind in (tuple, dict):
            more |= {"multiple": True, "callback": _shares if setting.kind is dict else None}
        else:
            more |= {"default": setting.default, "show_default": setting.default is not None}
    return click.option(*names, setting.option, cls=_Option, **more)


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command an option for each setting of TrainConfig."""
    for setting in reversed(SETTINGS.values()):
        command = _option(setting)(command)
    return command


@click.command(cls=GroupedCommand)
@DATASETS
@DATASET_OPTION
@click.option("--run", "name", cls=Option, also=("--name",),
              help="The run's name: its folder in --log-dir. Default: the next free of run-1, run-2, …")  # fmt: skip
@DATA
@FITS
@LOG_DIR
@click.option("--from-json", type=click.Path(dir_okay=False, path_type=Path), is_eager=True, expose_value=False,
              callback=_from_json,
              help="Options from a JSON object, published config.json files too; the command line comes first.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue from the run's last checkpoint, fits included.")
@click.option("--checkpoint", type=click.Path(dir_okay=False, path_type=Path),
              help="With --resume: continue from this checkpoint of the run.")  # fmt: skip
@click.option("--address", cls=_Option, heading=MACHINE,
              help="A running Ray cluster to use, instead of this machine alone.")  # fmt: skip
@_settings
@click.pass_context
def train(
    ctx: click.Context, /, name: str | None, datasets: tuple[str, ...], data: Path, log_dir: Path, address: str | None,
    resume: bool, checkpoint: Path | None, **settings: Any,
) -> None:  # fmt: skip
    """Train the network with SMPLify in the loop (SPIN), on Ray Train; better fits go back into the store.

    DATASET: what to train on. Default: the published training sets that are there, or the only data set.

    Options may be written with dashes or underscores.

    \b
    Examples:
      spin-pipe train --workers 8
      spin-pipe train world --run first --workers 2
      spin-pipe train --run first --resume --epochs 80
      spin-pipe train coco mine --run spin --mix mine=0.5 --backbone-weights imagenet
      spin-pipe train --run published --solver adam --objective published --iterations 100
      tensorboard --logdir logs
    """
    from pipelines import journal
    from pipelines.progress import say
    from pipelines.training.preflight import run_lock
    from pipelines.training.run import go_back_to
    from pipelines.training.run import train as run_training

    folder, run = data_folder(data), _run(log_dir, name, resume)
    given = {key: value for key, value in settings.items() if ctx.get_parameter_source(key) in _GIVEN}
    if resume and not run.config.is_file():
        raise UsageError(f"--resume: there is no run {run.root}; leave --resume out to start it")
    if checkpoint is not None and not resume:
        raise UsageError("--checkpoint goes with --resume; --pretrained-checkpoint starts a new run from a network")
    with run_lock(run):
        if resume:
            config = TrainConfig.load(run.config).resumed(given | ({"datasets": datasets} if datasets else {}))
            chosen_datasets(folder, config.datasets)
            if checkpoint is not None:
                go_back_to(run, checkpoint)
        else:
            config = TrainConfig.from_options(tuple(training_datasets(folder, datasets)), settings)
        say(which_body(folder))
        with journal.recorded(folder.journal, "train", name=run.root.name, workers=config.workers) as entry:
            done = run_training(folder, run, config, resume=resume, address=address)
            entry |= {"steps": done.steps, "datasets": list(config.datasets), "shares": done.shares}
    short = f" of {done.planned}; --run {run.root.name} --resume continues" if done.steps < done.planned else ""
    say(f"{done.run}: {done.steps} steps{short}; checkpoint {done.checkpoint}")
    if done.best is not None:
        say(f"  best on {', '.join(done.best['datasets'])}: checkpoint {done.run / 'checkpoints' / done.best['checkpoint']}, "
            f"{done.best['metric']} {done.best['value']:.4g}")  # fmt: skip
    say(f"  curves: tensorboard --logdir {run.tensorboard}")


def _run(log_dir: Path, name: str | None, resume: bool) -> RunFolder:
    """Return the named run; else the newest to resume, or the next number that is free."""
    if name is not None:
        return RunFolder.of(log_dir, name)
    if resume:
        runs = sorted(log_dir.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
        if not runs:
            raise UsageError(f"--resume: there is no run in {log_dir}; leave --resume out to start one")
        return RunFolder(runs[-1].parent)
    number = 1
    while (log_dir / f"run-{number}").exists():
        number += 1
    return RunFolder.of(log_dir, f"run-{number}")
