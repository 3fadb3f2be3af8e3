"""The commands that make fits: train-lifter, fit-static."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from pipelines import journal
from pipelines.commands.common import (
    ADDRESS,
    DATA,
    DATASETS,
    FITS,
    WORKERS,
    Option,
    data_folder,
    training_datasets,
)
from pipelines.errors import StageError, UsageError
from pipelines.exchange.assignment import MISFIT, assign, axis_angles
from pipelines.exchange.import_fits import check_body
from pipelines.fits.open import open_fits
from pipelines.fitting.fit_static import GivenBodies
from pipelines.fitting.fit_static import fit_static as run_fits
from pipelines.fitting.train_lifter import train_lifter as run_training
from pipelines.fitting.without_3d import require_without_3d
from pipelines.folders import DataFolder, which_body
from pipelines.progress import say
from spin.body import load_body
from spin.fitting.fitter import FitConfig
from spin.fitting.objective import Objective
from spin.fitting.verdicts import DOUBTFUL_MM
from store.annotations.table import Annotations
from store.exchange import read_fits_file
from store.fits.records import Source

_OWN_STARTS = ("lifter", "multistart")


@click.command("train-lifter")
@DATA
@click.option("--steps", type=click.IntRange(1), default=12_000, show_default=True, help="More make a better lifter, slowly.")
@click.option(
    "--poses", type=click.Path(dir_okay=False, path_type=Path),
    help="More poses to learn from: .npz with 'poses' or 'pose' (N, 72) or (N, 69), axis-angle, of AMASS for example.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--overwrite", cls=Option, also=("--again",), is_flag=True, help="Train again where there is one already.")
def train_lifter(data: Path, steps: int, poses: Path | None, seed: int, overwrite: bool) -> None:
    """Train the lifter of the body in use, from samples of the pose prior: once, some fifteen minutes on two cores.

    The lifter predicts a body from 2D keypoints. Fits start from its prediction and are held to it as firmly as it is
    certain; it also scores fits. The open body comes with a lifter; for SMPL, train one once.

    \b
    Example:
      spin-pipe train-lifter --data data
    """
    folder = data_folder(data)
    say(which_body(folder))
    with journal.recorded(folder.journal, "train-lifter", steps=steps, seed=seed) as entry:
        done = run_training(folder, steps=steps, seed=seed, poses=poses, again=overwrite)
        entry |= {"expects_mm": done.expects_mm}
    say(f"{done.path}: expects PA-MPJPE {done.expects_mm:.0f} mm of itself on people of the prior")


@click.command("fit-static")
@DATASETS
@DATA
@FITS
@WORKERS
@ADDRESS
@click.option(
    "--init", default="lifter", show_default=True, metavar="START[,START]...",
    help="Where fits start; the best of several is kept. lifter: a prediction from the keypoints. multistart: mean poses, from "
    "four sides. store: the stored fits. FILE.npy or .npz: bodies of a file, assigned to samples as import-fits does.",
)  # fmt: skip
@click.option(
    "--objective", type=click.Choice(["anchored", "published"]), default="anchored", show_default=True,
    help="anchored: also holds the fit to its start. published: SMPLify's, which fits keypoints better and the person "
    "worse.",
)  # fmt: skip
@click.option(
    "--solver", type=click.Choice(["lm", "adam"]), default="lm", show_default=True,
    help="lm: Levenberg-Marquardt. adam: the published two-stage procedure.",
)  # fmt: skip
@click.option(
    "--iterations", type=click.IntRange(1),
    help="Iterations of the solver for each start: of lm at most (default 20), of adam in each stage (default 100).",
)  # fmt: skip
@click.option(
    "--ignore-3d", is_flag=True,
    help="For a training with --ignore-3d: fit each view's keypoints alone, without 3D joints and other views of a pose.",
)  # fmt: skip
@click.option(
    "--overwrite", cls=Option, also=("--again",), is_flag=True,
    help="Fit every sample again; a fit that scores better replaces the old.",
)  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Fits made together.")
def fit_static(
    datasets: tuple[str, ...], data: Path, workers: int | None, address: str | None, init: str, objective: str,
    solver: str, iterations: int | None, ignore_3d: bool, overwrite: bool, batch_size: int,
) -> None:  # fmt: skip
    """Make the first fits of whole data sets, in data/fits/. Run again, it makes the missing ones.

    Without a name, it fits the published training sets that are there, or the only data set.

    Rows that show one pose in several calibrated views are fitted together; an image's own focal length and 3D joints are
    used where the annotations have them.

    \b
    Examples:
      spin-pipe fit-static
      spin-pipe fit-static world --workers 8
      spin-pipe fit-static world --init lifter,multistart --overwrite
      spin-pipe fit-static coco --init static_fits/coco_fits.npy
      spin-pipe fit-static mpii --objective published --init multistart --solver adam
    """
    folder = data_folder(data)
    names = training_datasets(folder, datasets)
    kinds = list(dict.fromkeys(kind.strip() for kind in init.split(",") if kind.strip()))
    own = tuple(kind for kind in kinds if kind in _OWN_STARTS)
    files = [kind for kind in kinds if kind.endswith((".npy", ".npz"))]
    unknown = [kind for kind in kinds if kind not in (*own, *files, "store")]
    if unknown or not kinds:
        raise UsageError(f"--init {init}: expected lifter, multistart, store, FILE.npy or FILE.npz, separated by commas")
    if files and len(names) > 1:
        raise UsageError(f"--init {files[0]}: a file belongs to one data set; give one DATASET with it")
    say(which_body(folder))
    config = FitConfig(
        solver,  # type: ignore[arg-type]
        iterations or {"lm": 20, "adam": 100}[solver],
        Objective.named(objective),
        own,
    )
    for name in names:
        sources = [kind for kind in kinds if kind not in _OWN_STARTS]
        given = tuple(_given(folder, name, source, ignore_3d) for source in sources)
        for source, bodies in zip(sources, given):
            known, rows = int(bodies.known.sum()), len(bodies.known)
            if not known:
                raise StageError(f"--init {source}: none of its {rows} rows holds a body to start from")
            if known < rows:
                say(f"{source}: bodies for {known} of {rows} samples; the others start from "
                    f"{'the ' + own[0] if own else 'a mean pose'}")  # fmt: skip
        with journal.recorded(
            folder.journal, "fit-static", dataset=name, solver=solver, init=init, objective=objective
        ) as entry:
            done = run_fits(
                folder, name, config, workers=workers, batch=batch_size, address=address, given=given,
                ignore_3d=ignore_3d, again=overwrite or "store" in kinds,
            )  # fmt: skip
            entry |= {"fitted": done.fitted, "valid": done.valid, "samples": done.samples}
        say(f"{folder.fits(name)}: {done.fitted} fitted, {done.valid} of them valid; {done.done} were there already")
        if done.doubtful:
            say(f"  {done.doubtful} of the valid ones are doubtful: their expected error is above {DOUBTFUL_MM:g} mm")
        if not done.verdicts and not overwrite:
            say("every sample was fitted or rejected before; --overwrite fits them again")
        for verdict, count in done.verdicts.items():
            say(f"  {count}: {verdict}")
        if done.rejected_list:
            say(f"  samples without a fit are listed in {done.rejected_list}")


def _given(folder: DataFolder, dataset: str, source: str, ignore_3d: bool = False) -> GivenBodies:
    """Return bodies to start from, of the data set's store or of a file. StageError if stored ones know 3D to be ignored."""
    annotations = Annotations.read(folder.annotations(dataset))
    if source != "store":
        file = Path(source)
        body = load_body(folder.body)
        found = read_fits_file(file)
        check_body(file, found.body, body, folder.root, same_body=True)
        assigned = assign(folder, dataset, file, found, annotations)
        known = np.zeros(len(annotations), bool)
        pose, betas = np.zeros((len(known), 72), np.float32), np.zeros((len(known), 10), np.float32)
        known[assigned.samples] = True
        pose[assigned.samples], betas[assigned.samples] = axis_angles(found)[assigned.rows], found.betas[assigned.rows]
        misfits = sum(reason == MISFIT for reason in assigned.problems.values())
        say(f"{source}: {len(found)} rows, assigned to samples by {assigned.by}"
            + (f"; {misfits} don't fit their people and are not used" if misfits else ""))  # fmt: skip
        return GivenBodies("file", pose, betas, known)
    if ignore_3d:
        require_without_3d(folder, dataset, annotations)
    fits = open_fits(folder.fits(dataset), load_body(folder.body), annotations).get(np.arange(len(annotations)))
    return GivenBodies("store", fits.pose, fits.betas, fits.source != Source.NONE)
