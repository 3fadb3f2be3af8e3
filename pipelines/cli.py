"""spin-pipe's command line: the commands in the order in which they are used, and what an error looks like."""

from __future__ import annotations

import sys
import traceback

import click

from pipelines.commands import (
    demo,
    evaluation,
    exchange,
    fetch,
    fitting,
    info,
    pack,
    preprocess,
    quality,
    report,
    train,
)
from pipelines.commands import store as stores
from pipelines.commands import submit as cluster
from pipelines.commands import synth as data
from pipelines.commands.common import Group
from pipelines.errors import EXPECTED, UsageError, cause

SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    # The published commands spell their options with underscores.
    "token_normalize_func": lambda token: token.replace("_", "-"),
}


@click.group(cls=Group, context_settings=SETTINGS)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="spin-pipe")
def cli(debug: bool) -> None:
    """3D human bodies from images with 2D keypoints.

    \b
    The usual way through:
      spin-pipe synth --out raw/world                                 make a small data set (or have your own)
      spin-pipe preprocess coco --root raw/world --name world         annotations  -> data/annotations/
      spin-pipe fit-static world                                      first fits   -> data/fits/
      spin-pipe quality world                                         how good they are, on the terminal
      spin-pipe train --name first --dataset world                    training     -> logs/first/
      spin-pipe eval --name first --dataset world-test                numbers      -> logs/first/evaluation/
      spin-pipe export-fits world                                     final fits   -> data/final_fits/
      spin-pipe report --name first                                   pictures     -> logs/first/report.html
    """


for command in (
    data.synth, fetch.fetch_data, preprocess.preprocess, exchange.import_annotations, pack.pack, info.info,
    fitting.train_lifter, fitting.fit_static, exchange.import_fits, quality.quality, train.train, evaluation.evaluate,
    evaluation.compare, demo.demo, exchange.export_fits, exchange.export_annotations, stores.store, report.report,
    cluster.submit,
):  # fmt: skip
    cli.add_command(command)

_INTERRUPTED = (
    "interrupted; run the same command again to go on (train: with --resume, once it has a checkpoint)"
)


def main() -> None:
    """The `spin-pipe` command: 0 if it worked, 2 for a wrong command, 1 for a failure, with one line saying what."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]  # wherever on the line it stands
    try:
        cli.main(arguments, prog_name="spin-pipe", standalone_mode=False)
    except click.exceptions.Abort:
        _end(_INTERRUPTED, 130)
    except KeyboardInterrupt:
        _end(_INTERRUPTED, 130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except Exception as error:
        _fail(error)


def _fail(error: Exception) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    known = cause(error)
    if isinstance(known, UsageError):
        _end(str(known), 2)
    if isinstance(known, EXPECTED):
        _end(str(known), 1)
    if isinstance(known, OSError):
        where = f"{known.filename}: " if known.filename else ""
        why = known.strerror or type(known).__name__
        _end(f"{where}{why}; what is finished is kept: mend that and run the same command again", 1)
    if "--debug" not in sys.argv:
        line = str(known).strip().splitlines()
        _end(
            f"unexpected {type(known).__name__}: {line[-1] if line else ''} (this is a defect; --debug shows where)",
            1,
        )
    sys.exit(1)


def _end(message: str, code: int) -> None:
    click.echo(f"spin-pipe: {' '.join(message.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
