"""spin-pipe's command line: the commands in the order in which they are used, and what an error looks like."""

from __future__ import annotations

import sys
import traceback

import click

from pipelines.lazy_commands import LazyCommands, LazyGroup

SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    # The published commands spell their options with underscores.
    "token_normalize_func": lambda token: token.replace("_", "-"),
}


# Name: where the command is defined, and the first sentence of its help (a test compares).
COMMANDS = {
    "synth": (
        "pipelines.commands.synth:synth",
        "Make the embedded world: ray-cast people with known bodies, as a COCO data set.",
    ),
    "fetch-data": (
        "pipelines.commands.fetch:fetch_data",
        "Download the published data files into the data folder: all, or those named.",
    ),
    "preprocess": (
        "pipelines.commands.preprocess:preprocess",
        "Read raw data sets into data/annotations/NAME.parquet: one by its name, or all there are.",
    ),
    "import-annotations": (
        "pipelines.commands.exchange:import_annotations",
        "Read annotations from SPIN's data set .npz, or 4D-Humans', into data/annotations/NAME.parquet.",
    ),
    "pack": (
        "pipelines.commands.pack:pack",
        "Pack what training needs of each person's image into one file, which it then reads instead of the images.",
    ),
    "info": (
        "pipelines.commands.inspection:info",
        "Show what there is: data sets and their fits, runs, the body in use; or one data set or sample in detail.",
    ),
    "doctor": (
        "pipelines.commands.doctor:doctor",
        "Check this machine and installation; say what to do where something falls short.",
    ),
    "train-lifter": (
        "pipelines.commands.fitting:train_lifter",
        "Train the lifter of the body in use, from samples of the pose prior: once, some fifteen minutes on two cores.",
    ),
    "fit-static": (
        "pipelines.commands.fitting:fit_static",
        "Make the first fits of whole data sets, in data/fits/.",
    ),
    "import-fits": (
        "pipelines.commands.exchange:import_fits",
        "Read bodies from another program's file into the fit store of a data set; a body replaces a fit that scores worse.",
    ),
    "quality": (
        "pipelines.commands.inspection:quality",
        "Show how good the fits are: verdicts and their reasons, losses, scores, coverage, and which starts won.",
    ),
    "train": (
        "pipelines.commands.train:train",
        "Train the network with SMPLify in the loop (SPIN), on Ray Train; better fits go back into the store.",
    ),
    "eval": (
        "pipelines.commands.evaluation:evaluate",
        "Measure a checkpoint, fits, or a result file: MPJPE, PA-MPJPE, per-vertex error, PCK, masks, parts.",
    ),
    "compare": (
        "pipelines.commands.evaluation:compare",
        "Compare two results of `spin-pipe eval` (their .json): are they comparable, and do they differ by more than chance?",
    ),
    "demo": (
        "pipelines.commands.demo:demo",
        "Estimate the bodies of the people in a photograph: over the image (_shape.png) and from the side (_shape_side.png).",
    ),
    "export-fits": (
        "pipelines.commands.exchange:export_fits",
        "Write fits for other programs; by default SPIN's final fits: pose (N, 72), betas (N, 10), valid_fit (N), by sample.",
    ),
    "export-annotations": (
        "pipelines.commands.exchange:export_annotations",
        "Write annotations as SPIN's data set .npz: imgname, center, scale, part, openpose, and what else is known.",
    ),
    "store": (
        "pipelines.commands.store:store",
        "Show, change and repair the stores of fits.",
    ),
    "report": (
        "pipelines.commands.report:report",
        "Make one HTML page: fits to filter, sort and look at, before and after training; curves, numbers, timings.",
    ),
    "submit": (
        "pipelines.commands.submit:submit",
        "Run a spin-pipe COMMAND as a job on a running Ray cluster, and follow its log.",
    ),
}


@click.group(cls=LazyGroup, context_settings=SETTINGS)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="spin-pipe")
def cli(debug: bool) -> None:
    """3D human bodies from images with 2D keypoints.

    \b
    The usual order of commands:
      spin-pipe synth --out raw/world                                 make a small data set (or have your own)
      spin-pipe preprocess coco --root raw/world --name world         annotations  -> data/annotations/
      spin-pipe fit-static world                                      first fits   -> data/fits/
      spin-pipe quality world                                         how good they are, on the terminal
      spin-pipe train world --run first                              training     -> logs/first/
      spin-pipe eval world-test --run first                          numbers      -> logs/first/evaluation/
      spin-pipe export-fits world                                     final fits   -> data/final_fits/
      spin-pipe report --run first                                    pictures     -> logs/first/report.html
    """


cli.commands = LazyCommands({name: where for name, (where, _) in COMMANDS.items()})
cli.summaries = {name: summary for name, (_, summary) in COMMANDS.items()}

_INTERRUPTED = "interrupted; run the same command again to go on (train: with --resume, once it has a checkpoint)"


def main() -> None:
    """Run `spin-pipe`. Exit with 0 if it worked, 2 for a wrong command, 1 for a failure, and one line that says why."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]  # it may be anywhere on the line
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
    # Imported here because it imports spin and store, which --help doesn't need.
    from pipelines.errors import EXPECTED, UsageError, cause

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
        _end(f"{where}{why}; what is finished is kept: fix that and run the same command again", 1)
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
