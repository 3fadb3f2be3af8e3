"""spin-pipe's command line. Commands check and translate; the stages do the work."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.failures import EXPECTED, UsageError, cause

if TYPE_CHECKING:
    from pipelines.layout import DataFolder

DATA = click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), default=Path("data"), show_default=True,
    envvar="SPIN_PIPE_DATA", help="The data folder: annotations, fits, and SMPL's files if you have them.",
)  # fmt: skip
ADDRESS = click.option("--address", help="A running Ray cluster to use, instead of this machine alone.")
LOG_DIR = click.option(
    "--log-dir", type=click.Path(file_okay=False, path_type=Path), default=Path("logs"), show_default=True,
    help="Where training runs are kept, one folder each.",
)  # fmt: skip
WORKERS = click.option(
    "--workers", type=click.IntRange(1), help="Processes to use (default: one for each core)."
)


class _Group(click.Group):
    """Lists commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=_Group, context_settings=SETTINGS)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="spin-pipe")
def cli(debug: bool) -> None:
    """3D human bodies from images with 2D keypoints.

    \b
    The usual way through:
      spin-pipe synth --out raw/world                                 make a small data set (or have your own)
      spin-pipe preprocess coco --root raw/world --name world         annotations  -> data/annotations/
      spin-pipe fit-static world                                      first fits   -> data/fits/
      spin-pipe train --name first --dataset world                    training     -> logs/first/
      spin-pipe eval --name first --dataset world-test                numbers      -> logs/first/evaluation/
      spin-pipe export-fits world                                     final fits   -> data/final_fits/
      spin-pipe report --name first                                   pictures     -> logs/first/report.html
    """


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


def _data_folder(path: Path) -> DataFolder:
    from pipelines.layout import DataFolder

    return DataFolder(path)


def _datasets(data: DataFolder, named: tuple[str, ...]) -> list[str]:
    """The data sets that were named, or the only one there is."""
    known = data.known()
    if named:
        missing = [n for n in named if n not in known]
        if missing:
            have = ", ".join(known) or "none yet"
            raise UsageError(
                f"no data set {missing[0]!r} in {data.root} (there: {have}); run `spin-pipe preprocess`"
            )
        return list(dict.fromkeys(named))
    if len(known) == 1:
        return known
    if not known:
        raise UsageError(f"no data set in {data.root} yet; run `spin-pipe preprocess` first, or give --data")
    raise UsageError(f"several data sets in {data.root}: {', '.join(known)}; name the one you mean")


def _which_body(data: DataFolder) -> str:
    from spin.body import load_body
    from spin.body.model_file import OPEN_BODY

    if data.body == OPEN_BODY:
        return f"body: the open body (no SMPL_NEUTRAL.pkl in {data.root})"
    return f"body: {load_body(data.body).name}, from {data.body}"


@cli.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write."
)
@click.option("--people", type=click.IntRange(1), default=300, show_default=True, help="People to train on.")
@click.option(
    "--test-people", type=click.IntRange(1), default=60, show_default=True, help="People to measure on."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--truth-share", type=click.FloatRange(0, 1), default=0.0, show_default=True,
    help="Share of the training people whose true body is given, as Human3.6M's is.",
)  # fmt: skip
@WORKERS
def synth(
    out: Path, people: int, test_people: int, seed: int, truth_share: float, workers: int | None
) -> None:
    """Make the embedded world: ray-cast people with known bodies, as a COCO data set.

    \b
    Example:
      spin-pipe synth --out raw/world --people 300 --test-people 60
    """
    from pipelines.progress import progress, say
    from pipelines.ray_session import cpu_count
    from pipelines.synth import synthesize

    with progress(0, "synth", "img") as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = synthesize(
            out, people=people, test_people=test_people, seed=seed, truth_share=truth_share,
            processes=workers or cpu_count(), progress=update,
        )  # fmt: skip
    train, test = summary.train_people, summary.test_people
    say(
        f"{out}: {train} people to train on, {test} to measure on{' (made earlier)' if summary.reused else ''}"
    )
    say(f"  next: spin-pipe preprocess coco --root {out} --name NAME")


@cli.group(cls=_Group)
def preprocess() -> None:
    """Read a raw data set into data/annotations/NAME.parquet."""


def _add_reader(reader: str, module: Any) -> None:
    about = f"{module.ABOUT}.\n\n\b\nExpects:\n" + "\n".join(f"  {line}" for line in module.TREE.splitlines())
    example = f"\n\n\b\nExample:\n  spin-pipe preprocess {reader} --root DIR --name mine"

    @preprocess.command(reader, help=about + example, short_help=module.ABOUT)
    @DATA
    @click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        required=True,
        help="The raw data set's folder.",
    )
    @click.option("--name", default=reader, show_default=True, help="What to call it from now on.")
    @click.option("--split", type=click.Choice(module.SPLITS), default=module.SPLITS[0], show_default=True)
    @click.option(
        "--openpose",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of OpenPose detections, if elsewhere.",
    )
    @click.option(
        "--min-body-joints", type=click.IntRange(0, 12), default=12, show_default=True,
        help="Set people with fewer of the 12 limb joints aside (12 as published).",
    )  # fmt: skip
    def command(
        data: Path, root: Path, name: str, split: str, openpose: Path | None, min_body_joints: int
    ) -> None:
        from pipelines import journal
        from pipelines.preprocess import preprocess as run
        from pipelines.progress import say
        from pipelines.readers.base import ReaderOptions

        if openpose is not None and not openpose.is_dir():
            raise UsageError(f"--openpose {openpose}: no such folder")
        folder = _data_folder(data)
        target = folder.annotations(name)
        with journal.recorded(folder.journal, "preprocess", dataset=name, root=str(root)) as entry:
            done = run(folder, reader, root, name, ReaderOptions(split, min_body_joints, openpose))
            entry |= {"people": done.people, "set_aside": sum(done.refused.values())}
        say(f"{target}: {done.people} people in {done.images} images")
        say(f"  {done.with_openpose} with an OpenPose detection, {done.with_truth} with a known body")
        for reason, count in done.refused.items():
            say(f"  set aside {count}: {reason}")
        if done.refused_list:
            say(f"  each of them is listed in {done.refused_list}")


def _add_readers() -> None:
    from pipelines.readers import READERS

    for reader, module in READERS.items():
        _add_reader(reader, module)


_add_readers()


@cli.command("fit-static")
@click.argument("datasets", nargs=-1, metavar="[DATASET]...")
@DATA
@WORKERS
@ADDRESS
@click.option(
    "--solver", type=click.Choice(["lm", "adam"]), default="lm", show_default=True,
    help="lm: Levenberg-Marquardt. adam: the published two-stage procedure.",
)  # fmt: skip
@click.option(
    "--iterations", type=click.IntRange(1), help="Of the solver, each start (default: lm 12, adam 100)."
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Fits made together."
)
def fit_static(
    datasets: tuple[str, ...], data: Path, workers: int | None, address: str | None, solver: str,
    iterations: int | None, batch_size: int,
) -> None:  # fmt: skip
    """First fits of whole data sets: SMPLify from four starts each, into data/fits/. Run again, it does what is missing.

    \b
    Example:
      spin-pipe fit-static world --workers 8
    """
    from pipelines import journal
    from pipelines.fit_static import fit_static as run
    from pipelines.progress import say
    from spin.fitting.fitter import FitConfig

    folder = _data_folder(data)
    names = _datasets(folder, datasets)
    say(_which_body(folder))
    config = FitConfig(solver, iterations or {"lm": 12, "adam": 100}[solver])  # type: ignore[arg-type]
    for name in names:
        with journal.recorded(folder.journal, "fit-static", dataset=name, solver=solver) as entry:
            done = run(folder, name, config, workers=workers, batch=batch_size, address=address)
            entry |= {"fitted": done.fitted, "valid": done.valid, "samples": done.samples}
        say(
            f"{folder.fits(name)}: {done.fitted} fitted, {done.valid} of them valid; {done.done} were there already"
        )
        for verdict, count in done.verdicts.items():
            say(f"  {count}: {verdict}")
        if done.refused_list:
            say(f"  samples without a fit are listed in {done.refused_list}")


@cli.command()
@click.option("--name", required=True, help="The run's name: its folder in --log-dir.")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    help="Data set to train on; may be repeated. Default: the only one.",
)
@DATA
@LOG_DIR
@ADDRESS
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Trainer processes.")
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint, fits included.")
@click.option(
    "--backbone",
    type=click.Choice(["resnet18", "resnet34", "resnet50", "resnet101"]),
    default="resnet50",
    show_default=True,
)
@click.option(
    "--backbone-weights", type=click.Path(dir_okay=False), help="ImageNet weights, a torchvision file."
)
@click.option("--pretrained-checkpoint", type=click.Path(dir_okay=False), help="Start from this network.")
@click.option("--epochs", "--num-epochs", "epochs", type=click.IntRange(1), default=50, show_default=True)
@click.option("--max-steps", type=click.IntRange(1), help="End after this many steps, whatever the epochs.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Of each worker.")
@click.option("--lr", type=float, default=5e-5, show_default=True, help="Adam's step size.")
@click.option(
    "--img-res", type=int, default=224, show_default=True, help="Side of the crop the network sees, px."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--run-smplify/--no-run-smplify", default=True, show_default=True, help="Fit in the loop.")
@click.option("--solver", type=click.Choice(["lm", "adam"]), default="lm", show_default=True)
@click.option(
    "--num-smplify-iters", "smplify_iterations", type=click.IntRange(1), default=5, show_default=True,
    help="Of the solver in the loop (published: --solver adam with 50).",
)  # fmt: skip
@click.option(
    "--rot-factor", type=float, default=30.0, show_default=True, help="Augmentation: turns, degrees."
)
@click.option(
    "--scale-factor", type=float, default=0.25, show_default=True, help="Augmentation: size of the box."
)
@click.option(
    "--noise-factor", type=float, default=0.4, show_default=True, help="Augmentation: colour gains."
)
@click.option("--ignore-3d", is_flag=True, help="Don't use true bodies where they are known.")
@click.option(
    "--summary-steps", type=click.IntRange(1), default=10, show_default=True, help="Steps between log lines."
)
@click.option("--checkpoint-steps", type=click.IntRange(1), default=1000, show_default=True)
@click.pass_context
def train(
    ctx: click.Context, name: str, datasets: tuple[str, ...], data: Path, log_dir: Path, address: str | None,
    resume: bool, **settings: Any,
) -> None:  # fmt: skip
    """Train the network with SMPLify in the loop (SPIN), on Ray Train; better fits go back into the store.

    \b
    Examples:
      spin-pipe train --name first --dataset world --workers 2
      spin-pipe train --name first --resume --epochs 80
      tensorboard --logdir logs
    """
    from pipelines import journal
    from pipelines.layout import RunFolder
    from pipelines.progress import say
    from pipelines.train import train as run_training
    from pipelines.train_config import TrainConfig
    from spin.training.config import AugmentationConfig

    folder, run = _data_folder(data), RunFolder.of(log_dir, name)
    explicit = click.core.ParameterSource.COMMANDLINE
    given = {key: value for key, value in settings.items() if ctx.get_parameter_source(key) == explicit}
    factors = [settings.pop(f"{kind}_factor") for kind in ("rot", "scale", "noise")]
    settings["augmentation"] = AugmentationConfig(*factors)
    if any(given.pop(f"{kind}_factor", None) is not None for kind in ("rot", "scale", "noise")):
        given["augmentation"] = settings["augmentation"]
    if resume:
        if not run.config.is_file():
            raise UsageError(f"--resume: there is no run {run.root}; leave --resume out to start it")
        config = TrainConfig.load(run.config).resumed(given | ({"datasets": datasets} if datasets else {}))
        _datasets(folder, config.datasets)
    else:
        config = TrainConfig(datasets=tuple(_datasets(folder, datasets)), **settings)
    say(_which_body(folder))
    with journal.recorded(folder.journal, "train", name=name, workers=config.workers) as entry:
        done = run_training(folder, run, config, resume=resume, address=address)
        entry |= {"steps": done.steps, "datasets": list(config.datasets)}
    say(f"{done.run}: {done.steps} steps; checkpoint {done.checkpoint}")
    say(f"  curves: tensorboard --logdir {run.tensorboard}")


@cli.command("eval")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    help="Data set to measure on; may be repeated. Default: the only one.",
)
@click.option("--name", help="The run whose newest checkpoint is measured.")
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A checkpoint file instead, ours or SPIN's.",
)
@DATA
@LOG_DIR
@WORKERS
@ADDRESS
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Result (.json, and .npz beside it)."
)
def evaluate(
    datasets: tuple[str, ...], name: str | None, checkpoint: Path | None, data: Path, log_dir: Path,
    workers: int | None, address: str | None, batch_size: int, out: Path | None,
) -> None:  # fmt: skip
    """Measure a checkpoint: MPJPE and PA-MPJPE where 3D joints are known.

    \b
    Example:
      spin-pipe eval --name first --dataset world-test
    """
    from pipelines import journal
    from pipelines.evaluate import default_output
    from pipelines.evaluate import evaluate as run
    from pipelines.layout import RunFolder
    from pipelines.progress import say

    folder = _data_folder(data)
    if (name is None) == (checkpoint is None):
        raise UsageError("give either --name of a run or --checkpoint FILE")
    if checkpoint is None:
        assert name is not None
        checkpoint = RunFolder.of(log_dir, name).latest_checkpoint()
        if checkpoint is None:
            raise UsageError(
                f"run {log_dir / name}: has no checkpoint yet; run `spin-pipe train --name {name}`"
            )
    chosen = _datasets(folder, datasets)
    if out is not None and out.suffix != ".json":
        raise UsageError(f"--out {out}: expected a name that ends in .json; the .npz is written beside it")
    if out is not None and len(chosen) > 1:
        raise UsageError("--out names one file; give one --dataset with it")
    say(_which_body(folder))
    lines = [f"{'data set':24} {'samples':>8} {'MPJPE mm':>10} {'PA-MPJPE mm':>12}"]
    for dataset in chosen:
        output = out or default_output(checkpoint, dataset)
        with journal.recorded(folder.journal, "eval", dataset=dataset, checkpoint=str(checkpoint)) as entry:
            done = run(
                folder, dataset, checkpoint, output, workers=workers, batch=batch_size, address=address
            )
            entry |= {"mpjpe_mm": done.scores.mean_mpjpe_mm, "pa_mpjpe_mm": done.scores.mean_pa_mpjpe_mm}
        if done.unreadable:
            say(f"{dataset}: {done.unreadable} images could not be read and are left out; listed in {output}")
        count, mpjpe = len(done.scores.mpjpe_mm), done.scores.mean_mpjpe_mm
        lines.append(f"{dataset:24} {count:8} {mpjpe:10.1f} {done.scores.mean_pa_mpjpe_mm:12.1f}")
        say(f"{output}")
    click.echo("\n".join(lines))


@cli.command("export-fits")
@click.argument("datasets", nargs=-1, metavar="[DATASET]...")
@DATA
@click.option("--tag", help="A tagged state instead of the newest, for example 'static'.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write, for one data set."
)
def export_fits(datasets: tuple[str, ...], data: Path, tag: str | None, out: Path | None) -> None:
    """Final fits as .npz: pose (N, 72), betas (N, 10), valid_fit (N), in sample order.

    \b
    Example:
      spin-pipe export-fits world
    """
    from pipelines import journal
    from pipelines.export import export_fits as run
    from pipelines.progress import say

    folder = _data_folder(data)
    names = _datasets(folder, datasets)
    if out is not None and len(names) > 1:
        raise UsageError("--out names one file; give one DATASET with it")
    for name in names:
        with journal.recorded(folder.journal, "export-fits", dataset=name, tag=tag) as entry:
            done = run(folder, name, out or folder.exported(name), tag=tag)
            entry |= {"valid": done.valid, "samples": done.samples}
        say(f"{done.path}: {done.samples} samples, {done.valid} valid, {done.without_fit} without a fit")


@cli.command()
@click.option("--name", help="The run to show; without it, the fits alone.")
@click.option(
    "--dataset", "datasets", multiple=True, help="Data set to show; may be repeated. Default: the run's."
)
@DATA
@LOG_DIR
@click.option(
    "--samples", type=click.IntRange(1), default=12, show_default=True, help="People shown of each kind."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Page to write (default: in the run's folder).",
)
def report(
    name: str | None, datasets: tuple[str, ...], data: Path, log_dir: Path, samples: int, out: Path | None
) -> None:
    """One HTML page: fits over the photographs, before and after training, curves, numbers, timings.

    \b
    Example:
      spin-pipe report --name first
    """
    from pipelines import journal
    from pipelines.layout import RunFolder
    from pipelines.progress import progress, say
    from pipelines.report import build_report

    folder = _data_folder(data)
    run = None if name is None else RunFolder.of(log_dir, name)
    if run is not None and not run.config.is_file():
        raise UsageError(f"there is no run {run.root}; `spin-pipe train --name {name}` makes one")
    chosen = _datasets(folder, datasets) if datasets or run is None else None
    output = out or (folder.root / "report.html" if run is None else run.root / "report.html")
    with journal.recorded(folder.journal, "report", name=name), progress(0, "report", "picture") as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        build_report(folder, run, datasets=chosen, output=output, samples=samples, progress=update)
    say(f"{output}: open it in a browser")


if __name__ == "__main__":
    main()
