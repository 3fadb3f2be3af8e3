"""The commands that measure: eval, compare."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from pipelines import journal
from pipelines.cluster.session import ray_session
from pipelines.commands.common import (
    ADDRESS,
    DATA,
    DATASET_OPTION,
    DATASETS,
    FITS,
    LOG_DIR,
    WORKERS,
    Option,
    chosen_datasets,
    data_folder,
)
from pipelines.errors import UsageError
from pipelines.evaluation import compare as comparison
from pipelines.evaluation.evaluate import EvaluationConfig, default_output
from pipelines.evaluation.evaluate import evaluate as run_evaluation
from pipelines.evaluation.result import read_json, table
from pipelines.evaluation.result_rows import samples_of_result
from pipelines.evaluation.subjects import Subject, checkpoint_subject, fits_subject, result_subject
from pipelines.folders import DataFolder, RunFolder, crop_line, which_body
from pipelines.progress import say
from spin.evaluation.protocols import ALIASES, PROTOCOLS
from spin.published_crop import CROP_RULES
from store.annotations.table import Annotations

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("eval")
@DATASETS
@DATASET_OPTION
@click.option("--run", "name", cls=Option, also=("--name",), help="The run whose newest checkpoint is measured.")
@click.option("--checkpoint", type=_FILE, help="A checkpoint file instead, ours or SPIN's.")
@click.option(
    "--stored-fits", is_flag=False, flag_value="", metavar="[TAG]",
    help="The data set's fits instead: the best ones, or those of a tag. DATASET comes before it.",
)  # fmt: skip
@click.option("--result-in", type=_FILE, help="A result file instead: the published .npz, or one of `spin-pipe eval`.")
@DATA
@FITS
@LOG_DIR
@WORKERS
@ADDRESS
@click.option("--batch-size", "--batch_size", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--num-workers", "--num_workers", "decoders", type=click.IntRange(1),
    help="Threads of each process that read images. Default: one for each core that it has, at least two.",
)  # fmt: skip
@click.option("--log-freq", "--log_freq", type=click.IntRange(1), help="Batches between lines of progress.")
@click.option("--protocol", help="Of another data set: h36m-p1, 3dpw, mpi-inf-3dhp-valid … Default: its own.")
@click.option(
    "--truth-gender", type=click.Choice(["own", "neutral"]), default="own", show_default=True,
    help="Whose body the truth's pose and shape are put on.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="The largest number of samples, evenly spread.")
@click.option(
    "--crop", type=click.Choice(CROP_RULES),
    help="How a network's input is cut. Default: as its training did: published for SPIN's checkpoints, else plain.",
)  # fmt: skip
@click.option("--result", "--result_file", "npz", type=_FILE, help="Where the .npz goes (default: next to the .json).")
@click.option("--out", type=_FILE, help="Result (.json). Default: in the run's folder, or next to what was measured.")
@click.option("--json", "as_json", is_flag=True, help="Print the result's JSON instead of a table.")
def evaluate(
    datasets: tuple[str, ...], name: str | None, checkpoint: Path | None, stored_fits: str | None,
    result_in: Path | None, data: Path, log_dir: Path, address: str | None, npz: Path | None, out: Path | None, as_json: bool,
    crop: str | None, **settings: Any,
) -> None:  # fmt: skip
    """Measure a checkpoint, fits, or a result file: MPJPE, PA-MPJPE, per-vertex error, PCK, masks, parts.

    DATASET: h36m-p1, h36m-p2, 3dpw, lsp, mpi-inf-3dhp (its test set), or any of yours. Default: the only one.

    What is measured depends on what the data set knows. Each result has its protocol card; `spin-pipe compare` says
    whether two may be compared. docs/protocols.md defines every number.

    \b
    Examples:
      spin-pipe eval world-test --run first
      spin-pipe eval 3dpw --checkpoint data/model_checkpoint.pt --log-freq 20
      spin-pipe eval world-test --stored-fits
      spin-pipe eval h36m-p2 --result-in theirs.npz --json
    """
    folder = data_folder(data)
    if sum(given is not None for given in (name, checkpoint, stored_fits, result_in)) != 1:
        raise UsageError("give one of --run RUN, --checkpoint FILE, --stored-fits [TAG], --result-in FILE")
    if crop is not None and name is None and checkpoint is None:
        raise UsageError(f"--crop {crop}: for a network's input; give --run or --checkpoint with it")
    chosen = chosen_datasets(folder, tuple(ALIASES.get(d, d) for d in datasets))
    _check_outputs(out, npz, chosen)
    config = _config(settings)
    say(which_body(folder))
    rows, texts = [], []
    # Several data sets share one Ray, which takes longer to start than a small one to measure.
    shared = ray_session(address) if len(chosen) > 1 and config.workers != 1 else nullcontext()
    with shared:
        for dataset in chosen:
            subject = _subject(folder, dataset, log_dir, name, checkpoint, stored_fits, result_in, crop)
            if subject.published is not None:
                say(crop_line(folder, subject.seen["crop"], published=subject.published))
            output = out or _default_output(folder, dataset, subject)
            _check_overwriting(result_in, npz or output.with_suffix(".npz"))
            with journal.recorded(folder.journal, "eval", dataset=dataset, **_for_journal(subject)) as entry:
                done = run_evaluation(folder, dataset, subject, output, npz=npz, config=config, address=address)
                entry |= done.metrics
            left_out = len(done.result.left_out)
            if left_out:
                say(f"{dataset}: {left_out} samples rejected, because they could not be measured; listed in {output}")
            say(f"{output}")
            rows.append((dataset, done.result.scores.count, done.metrics))
            texts.append(read_json(output))
    if as_json:
        click.echo(json.dumps(texts[0] if len(texts) == 1 else texts, indent=1))
    else:
        click.echo("\n".join(table(rows)))


def _check_outputs(out: Path | None, npz: Path | None, chosen: list[str]) -> None:
    for option, path, ending in (("--out", out, ".json"), ("--result", npz, ".npz")):
        if path is not None and path.suffix != ending:
            raise UsageError(f"{option} {path}: expected a name that ends in {ending}")
        if path is not None and len(chosen) > 1:
            raise UsageError(f"{option} names one file; give one DATASET with it")


def _check_overwriting(result_in: Path | None, npz: Path) -> None:
    if result_in is not None and npz.resolve() == result_in.resolve():
        raise UsageError(f"{result_in}: would be overwritten by its own measurement; name another file with --out")


def _for_journal(subject: Subject) -> dict[str, Any]:
    about = {key: value for key, value in subject.about.items() if key in ("kind", "file", "tag")}
    if about["kind"] == "checkpoint":
        about["checkpoint"] = about.pop("file")
    return about


def _config(settings: dict[str, Any]) -> Any:
    protocol = settings["protocol"]
    if protocol is not None:
        known = PROTOCOLS.get(ALIASES.get(protocol, protocol))
        if known is None:
            raise UsageError(f"--protocol {protocol}: not known; choose one of {', '.join(PROTOCOLS)}")
        protocol = known
    return EvaluationConfig(
        protocol=protocol,
        workers=settings["workers"],
        batch=settings["batch_size"],
        decoders=settings["decoders"],
        limit=settings["limit"],
        neutral_truth=settings["truth_gender"] == "neutral",
        log_every=settings["log_freq"],
    )


def _subject(
    data: DataFolder, dataset: str, log_dir: Path, name: str | None, checkpoint: Path | None, stored_fits: str | None,
    result_in: Path | None, crop: str | None,
) -> Subject:  # fmt: skip
    if name is not None:
        checkpoint = RunFolder.of(log_dir, name).latest_checkpoint()
        if checkpoint is None:
            raise UsageError(f"run {log_dir / name}: has no checkpoint yet; run `spin-pipe train --run {name}`")
    if checkpoint is not None:
        return checkpoint_subject(checkpoint, crop)
    annotations = Annotations.read(data.annotations(dataset))
    if result_in is not None:
        return result_subject(result_in, annotations, samples_of_result(data, dataset, result_in, annotations))
    return fits_subject(data, annotations, stored_fits or None)


def _default_output(data: DataFolder, dataset: str, subject: Subject) -> Path:
    about = subject.about
    if about["kind"] == "fits":
        return data.root / "evaluation" / f"{dataset}@fits{'-' if about['tag'] else ''}{about['tag']}.json"
    file = Path(about["file"])
    if about["kind"] == "result":
        return file.with_name(f"{dataset}@{file.stem}.json")
    return default_output(file, dataset)


@click.command()
@click.argument("first", type=_FILE)
@click.argument("second", type=_FILE)
@click.option("--anyway", is_flag=True, help="Compare them although their protocol cards differ.")
@click.option(
    "--by", type=click.Choice(["sequences", "frames"]),
    help="What is resampled. Default: sequences where images are frames of several, as neighbours are not independent.",
)  # fmt: skip
@click.option("--draws", type=click.IntRange(100), default=2000, show_default=True, help="Resamplings.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def compare(first: Path, second: Path, anyway: bool, by: str | None, draws: int, seed: int, as_json: bool) -> None:
    """Compare two results of `spin-pipe eval` (their .json): are they comparable, and do they differ by more than chance?

    If their protocol cards differ, the error names the fields.

    \b
    Example:
      spin-pipe compare logs/first/evaluation/3dpw@step_1000.json logs/second/evaluation/3dpw@step_1000.json
    """
    found = comparison.compare_results(first, second, anyway=anyway, by=by, seed=seed, draws=draws)
    if as_json:
        click.echo(json.dumps(comparison.as_json(found), indent=1))
    else:
        click.echo("\n".join(comparison.lines(found)))
