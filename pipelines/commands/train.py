"""The command that trains. Its options bear the published names (SPIN's utils/train_options.py), and some of our own."""

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
from pipelines.folders import which_body

if TYPE_CHECKING:
    from pipelines.folders import RunFolder

# Published settings of another place and time: where their run lay, and how its own file was found.
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
    """Help with headings: options stand under the heading given with `heading=` in `_option`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(param, "heading", "The run"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class _Option(Option):
    """An option that knows its heading."""

    def __init__(self, *args: Any, heading: str = "The run", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


def _option(*names: str, heading: str, **settings: Any) -> Any:
    return click.option(*names, cls=_Option, heading=heading, show_default=True, **settings)


def _from_json(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Makes the file's settings the defaults; the command line comes before them."""
    if path is None:
        return
    try:
        # NumPy's infinity, as the published code writes "no time limit", is no JSON; nothing else that isn't is let in.
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


_LOOP, _LOSS, _SEEN = "Fits in the loop", "Losses and supervision", "What the network sees"
_WATCH, _COST = "What is watched", "Machine"


@click.command(cls=GroupedCommand)
@DATASETS
@DATASET_OPTION
@click.option("--run", "name", cls=Option, also=("--name",),
              help="The run's name: its folder in --log-dir. Default: the next free of run-1, run-2, …")  # fmt: skip
@click.option("--mix", multiple=True, callback=_shares, metavar="NAME=SHARE",
              help="A data set's share of what is seen; may be repeated. Default: as published, h36m 0.3, mpi-inf-3dhp 0.1, "
              "all others 0.6 by their size, as far as they are there.")  # fmt: skip
@DATA
@FITS
@LOG_DIR
@click.option("--from-json", type=click.Path(dir_okay=False, path_type=Path), is_eager=True, expose_value=False,
              callback=_from_json,
              help="Options from a JSON object, published config.json files too; the command line comes first.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint, fits included.")
@click.option("--checkpoint", type=click.Path(dir_okay=False, path_type=Path),
              help="With --resume: go on from this checkpoint of the run.")  # fmt: skip
@click.option(
    "--pretrained-checkpoint",
    type=click.Path(dir_okay=False),
    help="Start from this network, ours or SPIN's.",
)
@click.option("--epochs", "--num-epochs", "epochs", type=click.IntRange(1), default=50, show_default=True)
@click.option("--max-steps", type=click.IntRange(1), help="End after this many steps, whatever the epochs.")
@click.option("--time-to-run", type=float, metavar="SECONDS", help="Stop by then, at a checkpoint; --resume goes on.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Of each worker.")
@click.option("--lr", type=float, default=5e-5, show_default=True, help="Adam's step size.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--keep", type=click.IntRange(0), default=5, show_default=True,
              help="Newest checkpoints that are kept, with the fits' states they belong to, besides the best of those measured "
              "on --eval-dataset, which checkpoints/best.json names; 0: all.")  # fmt: skip
@click.option("--checkpoint-steps", type=click.IntRange(1), default=1000, show_default=True)
@_option(
    "--backbone",
    type=click.Choice(["resnet18", "resnet34", "resnet50", "resnet101"]),
    default="resnet50",
    heading=_SEEN,
)
@_option(
    "--backbone-weights",
    type=click.Path(dir_okay=False),
    help="ImageNet weights: a torchvision file, or 'imagenet' to download torchvision's (published).",
    heading=_SEEN,
)
@_option("--img-res", type=int, default=224, help="Side of the crop the network sees, px.", heading=_SEEN)
@_option("--rot-factor", type=float, default=30.0, help="Augmentation: turns, degrees.", heading=_SEEN)
@_option("--scale-factor", type=float, default=0.25, help="Augmentation: size of the box.", heading=_SEEN)
@_option("--noise-factor", type=float, default=0.4, help="Augmentation: colour gains.", heading=_SEEN)
@_option("--shuffle-train/--no-shuffle-train", default=True, help="A new order in every epoch.", heading=_SEEN)
@_option("--run-smplify/--no-run-smplify", default=True, help="Fit in the loop.", heading=_LOOP)
@_option(
    "--solver",
    type=click.Choice(["lm", "adam"]),
    default="lm",
    help="adam: the published procedure.",
    heading=_LOOP,
)
@_option("--objective", type=click.Choice(["anchored", "published"]), default="anchored", heading=_LOOP,
         help="Of the fits, as of those in the store: see fit-static.")  # fmt: skip
@_option("--iterations", "smplify_iterations", also=("--num-smplify-iters",), type=click.IntRange(1), default=10,
         heading=_LOOP, help="Of the solver (published: --solver adam with 100).")  # fmt: skip
@_option("--smplify-threshold", type=float, default=100.0, heading=_LOOP,
         help="A fit teaches if its reprojection loss, px², is below.")  # fmt: skip
@_option(
    "--keypoint-loss-weight",
    type=float,
    default=5.0,
    help="Of 2D keypoints, and of known 3D joints.",
    heading=_LOSS,
)
@_option("--pose-loss-weight", type=float, default=1.0, heading=_LOSS)
@_option("--beta-loss-weight", type=float, default=0.001, heading=_LOSS)
@_option("--shape-loss-weight", type=float, default=0.0, help="Of vertices; needs the full mesh.", heading=_LOSS)
@_option("--openpose-train-weight", type=float, default=0.0, help="Of OpenPose's 25 keypoints.", heading=_LOSS)
@_option("--clip-gradient", type=float, default=0.0, metavar="NORM", heading=_LOSS,
         help="Shorten longer gradients to this, against batches that undo a training; 0: don't (published).")  # fmt: skip
@_option("--gt-train-weight", type=float, default=1.0, help="Of the 24 annotated keypoints.", heading=_LOSS)
@_option(
    "--ignore-3d",
    is_flag=True,
    help="Don't use true bodies and 3D joints where they are known.",
    heading=_LOSS,
)
@_option(
    "--eval-dataset",
    "eval_datasets",
    multiple=True,
    help="Data set to measure on meanwhile; may be repeated.",
    heading=_WATCH,
)
@_option("--test-steps", type=click.IntRange(1), default=1000, help="Steps between measurements.", heading=_WATCH)
@_option("--eval-images", type=click.IntRange(1), default=500, help="Of each data set, at most.", heading=_WATCH)
@_option("--summary-steps", type=click.IntRange(1), default=10, heading=_WATCH,
         help="Steps between lines of the table and points of the curves.")  # fmt: skip
@_option(
    "--picture-steps",
    type=click.IntRange(1),
    default=500,
    help="Steps between pictures in TensorBoard.",
    heading=_WATCH,
)
@_option("--workers", type=click.IntRange(1), default=1, help="Trainer processes.", heading=_COST)
@click.option(
    "--address",
    cls=_Option,
    heading=_COST,
    help="A running Ray cluster to use, instead of this machine alone.",
)
@_option("--threads", type=click.IntRange(1), heading=_COST,
         help="Of each trainer's computations. Default: its share of the cores.")  # fmt: skip
@_option("--accumulate", type=click.IntRange(1), default=1, heading=_COST,
         help="Batches an optimiser step: 8 with one worker is the batch of 8 workers.")  # fmt: skip
@_option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", heading=_COST,
         help="Of the convolutions. auto: bfloat16 where the processor multiplies it (new GPUs, CPUs with AMX).")  # fmt: skip
@_option(
    "--channels-last/--no-channels-last",
    default=True,
    heading=_COST,
    help="How images lie in memory; faster.",
)
@_option(
    "--num-workers",
    type=click.IntRange(1),
    default=2,
    help="Threads of each trainer that decode images.",
    heading=_COST,
)
@_option("--pin-memory/--no-pin-memory", default=True, help="Where there is a GPU.", heading=_COST)
@click.pass_context
def train(
    ctx: click.Context, name: str | None, datasets: tuple[str, ...], data: Path, log_dir: Path, address: str | None,
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
    from pipelines.training.config import TrainConfig
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
    short = f" of {done.planned}; --run {run.root.name} --resume goes on" if done.steps < done.planned else ""
    say(f"{done.run}: {done.steps} steps{short}; checkpoint {done.checkpoint}")
    if done.best is not None:
        say(f"  best on {', '.join(done.best['datasets'])}: checkpoint {done.run / 'checkpoints' / done.best['checkpoint']}, "
            f"{done.best['metric']} {done.best['value']:.4g}")  # fmt: skip
    say(f"  curves: tensorboard --logdir {run.tensorboard}")


def _run(log_dir: Path, name: str | None, resume: bool) -> RunFolder:
    """The run that was named; else the newest to resume, or the next number that is free."""
    from pipelines.folders import RunFolder

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
