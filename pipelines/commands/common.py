"""Options and look-ups that several commands share."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.errors import UsageError
from pipelines.readers import TRAINING_SETS
from store.errors import UnusableNameError
from store.files.open import bucket_and_prefix

if TYPE_CHECKING:
    from pipelines.folders import DataFolder


class Option(click.Option):
    """An option that also accepts other names, former or published ones, which the help doesn't show."""

    def __init__(self, *args: Any, also: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shown, self.opts = self.opts, [*self.opts, *also]

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        shown = copy.copy(self)
        shown.opts = self.shown
        return click.Option.get_help_record(shown, ctx)


DATA = click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), default=Path("data"), show_default=True,
    envvar="SPIN_PIPE_DATA", help="The data folder: annotations, fits, and SMPL's files if you have them.",
)  # fmt: skip


def _keep_fits(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None and "://" in value:
        try:
            bucket_and_prefix(value)
        except UnusableNameError as error:
            raise UsageError(f"--fits {error}") from error
    context.meta[_FITS] = value


_FITS = "spin-pipe.fits"
FITS = click.option(
    "--fits", metavar="PLACE", envvar="SPIN_PIPE_FITS", expose_value=False, callback=_keep_fits,
    help="Where the fits of all data sets are stored: a folder, or s3://BUCKET/PREFIX.  [default: DATA/fits]",
)  # fmt: skip


def _keep_named(context: click.Context, _: click.Parameter, value: tuple[str, ...]) -> None:
    context.meta[_NAMED] = value


def _with_named(context: click.Context, _: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    named: tuple[str, ...] = context.meta.get(_NAMED, ())
    if named and context.get_parameter_source("datasets") is not click.core.ParameterSource.COMMANDLINE:
        return named  # the command line comes before a file of settings
    return (*value, *named)


_NAMED = "spin-pipe.datasets"
DATASETS = click.argument("datasets", nargs=-1, metavar="[DATASET]...", callback=_with_named)
# The published way to name a data set. It is eager, so that the argument's callback finds it.
DATASET_OPTION = click.option(
    "--dataset", "named", multiple=True, hidden=True, is_eager=True, expose_value=False, callback=_keep_named
)
ADDRESS = click.option("--address", help="A running Ray cluster to use, instead of this machine alone.")
LOG_DIR = click.option(
    "--log-dir", type=click.Path(file_okay=False, path_type=Path), default=Path("logs"), show_default=True,
    help="Where training runs are kept, one folder each.",
)  # fmt: skip
WORKERS = click.option("--workers", type=click.IntRange(1), help="Processes to use (default: one for each core).")


class Group(click.Group):
    """List commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def data_folder(path: Path) -> DataFolder:
    """Return the named data folder, with its fits where --fits says, if the command has that option."""
    from pipelines.folders import DataFolder  # loads torch, and every command imports this module

    context = click.get_current_context(silent=True)
    return DataFolder(path, (context.meta.get(_FITS) if context else None) or "")


def chosen_datasets(data: DataFolder, named: tuple[str, ...]) -> list[str]:
    """Return the named data sets, or the only one there is."""
    known = data.known()
    if named:
        missing = [n for n in named if n not in known]
        if missing:
            have = ", ".join(known) or "none yet"
            raise UsageError(f"no data set {missing[0]!r} in {data.root} (there: {have}); run `spin-pipe preprocess`")
        return list(dict.fromkeys(named))
    if len(known) == 1:
        return known
    if not known:
        raise UsageError(f"no data set in {data.root} yet; run `spin-pipe preprocess` first, or give --data")
    raise UsageError(f"several data sets in {data.root}: {', '.join(known)}; name the one you mean")


def training_datasets(data: DataFolder, named: tuple[str, ...]) -> list[str]:
    """Return the named data sets; else the published training sets that are there, or the only data set there is."""
    return chosen_datasets(data, named or tuple(name for name in TRAINING_SETS if name in data.known()))
