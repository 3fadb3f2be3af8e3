"""Commands about a training: train, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipelines.commands.common import (
    ADDRESS,
    DATA,
    FITS,
    LOG_DIR,
    chosen_datasets,
    data_folder,
    which_body,
)
from pipelines.failures import UsageError


@click.command()
@click.option("--name", required=True, help="The run's name: its folder in --log-dir.")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    help="Data set to train on; may be repeated. Default: the only one.",
)
@DATA
@FITS
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
    "--objective", type=click.Choice(["anchored", "published"]), default="anchored", show_default=True,
    help="Of the fits, as of those in the store: see fit-static.",
)  # fmt: skip
@click.option(
    "--num-smplify-iters", "smplify_iterations", type=click.IntRange(1), default=10, show_default=True,
    help="Of the solver in the loop (published: --solver adam with 100).",
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

    folder, run = data_folder(data), RunFolder.of(log_dir, name)
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
        chosen_datasets(folder, config.datasets)
    else:
        config = TrainConfig(datasets=tuple(chosen_datasets(folder, datasets)), **settings)
    say(which_body(folder))
    with journal.recorded(folder.journal, "train", name=name, workers=config.workers) as entry:
        done = run_training(folder, run, config, resume=resume, address=address)
        entry |= {"steps": done.steps, "datasets": list(config.datasets)}
    say(f"{done.run}: {done.steps} steps; checkpoint {done.checkpoint}")
    say(f"  curves: tensorboard --logdir {run.tensorboard}")


@click.command()
@click.option("--name", help="The run to show; without it, the fits alone.")
@click.option(
    "--dataset", "datasets", multiple=True, help="Data set to show; may be repeated. Default: the run's."
)
@DATA
@FITS
@LOG_DIR
@click.option("--compare", "other_name", help="Another run, to be shown beside it.")
@click.option("--before", default="static", show_default=True, help="Tag of the fits to compare with.")
@click.option(
    "--samples", type=click.IntRange(1), default=12, show_default=True,
    help="People pictured of each kind: best, random, worst, most improved, of each reason.",
)  # fmt: skip
@click.option(
    "--rows", type=click.IntRange(1), default=20_000, show_default=True,
    help="Samples listed at most: a page of 10,000 has some 10 MB.",
)  # fmt: skip
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Page to write (default: in the run's folder).",
)
def report(
    name: str | None, datasets: tuple[str, ...], data: Path, log_dir: Path, other_name: str | None, before: str,
    samples: int, rows: int, out: Path | None,
) -> None:  # fmt: skip
    """One HTML page: fits to filter, sort and look at, before and after training; curves, numbers, timings.

    \b
    Examples:
      spin-pipe report --name first
      spin-pipe report --name second --compare first
    """
    from pipelines import journal
    from pipelines.layout import RunFolder
    from pipelines.progress import progress, say
    from pipelines.report import build_report

    folder = data_folder(data)
    run = None if name is None else RunFolder.of(log_dir, name)
    if run is not None and not run.config.is_file():
        raise UsageError(f"there is no run {run.root}; `spin-pipe train --name {name}` makes one")
    if other_name is not None and run is None:
        raise UsageError("--compare: give --name, the run to compare with it")
    other = None if other_name is None else RunFolder.of(log_dir, other_name)
    if other is not None and not other.config.is_file():
        raise UsageError(f"--compare: there is no run {other.root}")
    chosen = chosen_datasets(folder, datasets) if datasets or run is None else None
    output = out or (folder.root / "report.html" if run is None else run.root / "report.html")
    with journal.recorded(folder.journal, "report", name=name), progress(0, "report", "picture") as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        done = build_report(
            folder, run, datasets=chosen, output=output, samples=samples, rows=rows, before=before, other=other,
            progress=update,
        )  # fmt: skip
    say(f"{output}: open it in a browser ({done.size_bytes / 1e6:.1f} MB)")
