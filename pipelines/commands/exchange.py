"""Commands that exchange files with other programs: export-fits, export-annotations, import-annotations, import-fits."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines import journal
from pipelines.commands.common import DATA, DATASETS, FITS, WORKERS, Option, chosen_datasets, data_folder
from pipelines.errors import UsageError
from pipelines.exchange.export import FIT_FORMATS
from pipelines.exchange.export import export_annotations as write_annotations
from pipelines.exchange.export import export_fits as write_fits
from pipelines.exchange.export_meshes import export_glb
from pipelines.exchange.import_annotations import import_annotations as read_annotations
from pipelines.exchange.import_fits import import_fits as read_fits
from pipelines.folders import DataFolder, which_body
from pipelines.progress import say
from spin.fitting.verdicts import DOUBTFUL_MM
from store.files.open import open_files
from store.fits.format.layout import CURRENT

_FILE = click.Path(dir_okay=False, path_type=Path)
_FORMATS = ("spin", "static", "mview", "eft", "4dhumans", "bedlam", "parquet", "glb")
_SAME_BODY = click.option(
    "--same-body", is_flag=True,
    help="FILE holds bodies of the body in use, though it doesn't say so. Without this option they are taken for SMPL's.",
)  # fmt: skip
_SHOWN = 12  # reasons on the terminal; the list has them all


@click.command("export-fits")
@DATASETS
@DATA
@FITS
@click.option(
    "--format", "format_", type=click.Choice(_FORMATS), default="spin", show_default=True,
    help="spin: final fits. static: (N, 82). mview: multi-view fits. eft: EFT's JSON. 4dhumans, bedlam: their .npz. "
    "parquet: a table. glb: meshes with a skeleton, of --sample or --sequence.",
)  # fmt: skip
@click.option("--all", "all_", is_flag=True, help="Export every data set that has fits.")
@click.option("--sample", "samples", type=click.IntRange(0), multiple=True, help="glb: this sample; may be repeated.")
@click.option(
    "--sequence",
    help="glb: this recording, animated; the part of its images' names before the frame's number.",
)
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="glb: frames a second.",
)
@click.option("--tag", help="A tagged state instead of the newest, for example 'static'.")
@click.option("--out", type=_FILE, help="File to write, for one data set.")
def export_fits(
    datasets: tuple[str, ...], data: Path, format_: str, all_: bool, samples: tuple[int, ...], sequence: str | None,
    fps: float, tag: str | None, out: Path | None,
) -> None:  # fmt: skip
    """Write fits for other programs; by default SPIN's final fits: pose (N, 72), betas (N, 10), valid_fit (N), by sample.

    The command lists what the format can't hold. docs/formats.md describes the formats.

    \b
    Examples:
      spin-pipe export-fits world
      spin-pipe export-fits world --format eft --out world.json
      spin-pipe export-fits --all --format parquet
      spin-pipe export-fits world --format glb --sample 0
      spin-pipe export-fits 3dpw --format glb --sequence downtown_walking_00 --fps 30
    """
    folder = data_folder(data)
    names = _with_fits(folder) if all_ and not datasets else chosen_datasets(folder, datasets)
    if out is not None and len(names) > 1:
        raise UsageError("--out names one file; give one DATASET with it")
    if (format_ == "glb") != bool(samples or sequence) or (samples and sequence):
        raise UsageError("--format glb goes with --sample K or --sequence NAME, which say what to show; give one of them")
    say(which_body(folder))
    for name in names:
        if format_ == "glb":
            for mesh in export_glb(folder, name, out, samples=samples, sequence=sequence, fps=fps, tag=tag):
                say(f"{mesh.path}: {f'{mesh.frames} frames' if mesh.frames else f'sample {mesh.samples[0]}'}")
            continue
        with journal.recorded(folder.journal, "export-fits", dataset=name, tag=tag, format=format_) as entry:
            done = write_fits(folder, name, out, tag=tag, format=format_)
            entry |= {"valid": done.valid, "samples": done.samples}
        say(f"{done.path}: {done.samples} samples, {done.valid} valid, {done.without_fit} without a fit")
        if done.doubtful:
            say(f"  {done.doubtful} of the valid ones are doubtful: their expected error is above {DOUBTFUL_MM:g} mm")
        if FIT_FORMATS[format_].only_valid and done.written < done.samples:
            say(f"  {done.samples - done.written} samples without a valid fit are left out: the format has no mark for them")
        say(f"  not held by this format: {', '.join(done.lost)}")


def _with_fits(folder: DataFolder) -> list[str]:
    """Return the data sets that have fits. Raise UsageError if none has."""
    found = [name for name in folder.known() if open_files(folder.fits(name)).exists(CURRENT)]
    if not found:
        raise UsageError(f"--all: no data set in {folder.root} has fits yet; run `spin-pipe fit-static`")
    return found


@click.command("export-annotations")
@DATASETS
@DATA
@click.option("--out", type=_FILE, help="File to write, for one data set.")
@click.option("--overwrite", cls=Option, also=("--replace",), is_flag=True, help="Write over a file that is there.")
def export_annotations(datasets: tuple[str, ...], data: Path, out: Path | None, overwrite: bool) -> None:
    """Write annotations as SPIN's data set .npz: imgname, center, scale, part, openpose, and what else is known.

    Without --out the file is in data/dataset_extras/, under the published name if the data set has one.

    \b
    Example:
      spin-pipe export-annotations coco
    """
    folder = data_folder(data)
    names = chosen_datasets(folder, datasets)
    if out is not None and len(names) > 1:
        raise UsageError("--out names one file; give one DATASET with it")
    say(which_body(folder))
    for name in names:
        with journal.recorded(folder.journal, "export-annotations", dataset=name) as entry:
            done = write_annotations(folder, name, out, replace=overwrite)
            entry |= {"samples": done.samples}
        say(f"{done.path}: {done.samples} samples")
        if done.lost:
            say(f"  not held by this format: {', '.join(done.lost)}")


@click.command("import-annotations")
@click.argument("file", type=_FILE)
@DATA
@click.option("--name", required=True, help="What to call the data set from now on.")
@click.option(
    "--root", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="IMAGES",
    help="The folder that the file's image names are relative to.",
)  # fmt: skip
@_SAME_BODY
@WORKERS
def import_annotations(file: Path, data: Path, name: str, root: Path, same_body: bool, workers: int | None) -> None:
    """Read annotations from SPIN's data set .npz, or 4D-Humans', into data/annotations/NAME.parquet.

    A missing key means that its values are not known. A row is rejected and listed if it or its image can't be used.

    \b
    Example:
      spin-pipe import-annotations dataset_extras/coco_2014_train.npz --name coco --root raw/coco
    """
    folder = data_folder(data)
    target = folder.annotations(name)
    say(which_body(folder))
    with journal.recorded(folder.journal, "import-annotations", dataset=name, file=str(file), root=str(root)) as entry:
        imported = read_annotations(folder, file, name, root, same_body=same_body, workers=workers)
        done = imported.summary
        entry |= {"people": done.people, "rejected": sum(done.rejected.values())}
    say(f"{target}: {done.people} people in {done.images} images")
    known = f"{done.with_body} with a known body, {done.with_joints} with known 3D joints"
    say(f"  {done.with_openpose} with an OpenPose detection, {known}")
    for note, count in done.notes.items():
        say(f"  {count} {note}")
    if imported.bodies_of:
        say(
            f"  {sum(done.other_bodies.values())} bodies left out: they are of {imported.bodies_of}, "
            "which is not the body in use (--same-body if the file holds that)"
        )
    _say_rejected(done.rejected, done.rejected_list)


@click.command("import-fits")
@click.argument("dataset")
@click.argument("file", type=_FILE)
@DATA
@FITS
@_SAME_BODY
@click.option(
    "--objective", type=click.Choice(["anchored", "published"]),
    help="What fits are scored by [default: as the store's other fits; without a store anchored].",
)  # fmt: skip
@click.option(
    "--ignore-3d", is_flag=True,
    help="For a training with --ignore-3d: the file's bodies were made without 3D, and are scored by one view's keypoints.",
)  # fmt: skip
def import_fits(dataset: str, file: Path, data: Path, same_body: bool, objective: str | None, ignore_3d: bool) -> None:
    """Read bodies from another program's file into the fit store of a data set; a body replaces a fit that scores worse.

    FILE: SPIN's static fits (.npy), final fits or multi-view fits (.npz), EFT's .json, 4D-Humans' or BEDLAM's .npz. Pose and
    shape are kept to the bit; a camera that the file doesn't hold is found from the keypoints. Rows belong to samples by image
    and box where the file has them, else by the rows of SPIN's data set file (data/dataset_extras/), if it is there, else in
    the data set's order. A file most of whose bodies don't fit their people's keypoints is rejected.

    \b
    Examples:
      spin-pipe import-fits coco static_fits/coco_fits.npy
      spin-pipe import-fits coco eft_fit/COCO2014-All-ver01.json
    """
    folder = data_folder(data)
    (name,) = chosen_datasets(folder, (dataset,))
    say(which_body(folder))
    with journal.recorded(folder.journal, "import-fits", dataset=name, file=str(file)) as entry:
        done = read_fits(folder, name, file, same_body=same_body, objective=objective, ignore_3d=ignore_3d)
        entry |= {"rows": done.rows, "offered": done.offered, "better": done.better}
    say(f"{folder.fits(name)}: {done.rows} rows, {done.offered} of them bodies that could be scored")
    say(f"  rows assigned to samples by {done.assigned_by}")
    say(f"  {done.better} became their sample's fit; {done.offered - done.better} were not better than the fit in the store")
    say(f"  {done.with_camera} with the file's camera; the cameras of the others were found from the keypoints")
    _say_rejected(done.rejected, done.rejected_list)


def _say_rejected(reasons: dict[str, int], listing: Path | None) -> None:
    for reason, count in list(reasons.items())[:_SHOWN]:
        say(f"  rejected {count}: {reason}")
    if len(reasons) > _SHOWN:
        say(f"  and {len(reasons) - _SHOWN} more reasons")
    if listing:
        say(f"  each of them is listed in {listing}")
