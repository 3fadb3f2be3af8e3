"""Commands about fit stores: show, change, check, repair and export one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipelines.commands.common import DATA, FITS, Group, data_folder
from pipelines.errors import StageError, UsageError
from store.exchange.tables import FORMATS, export_columns
from store.files.open import is_url
from store.fits.diff import compare_states
from store.fits.format.state import FitSnapshot
from store.fits.query import matching
from store.fits.repair.repair import Outcome
from store.fits.repair.repair import repair as repair_store
from store.fits.repair.verify import verify as verify_store
from store.fits.runs import as_text
from store.fits.store import FitStore

NAME = click.argument("name")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")


@click.group(cls=Group)
def store() -> None:
    """Show, change and repair the stores of fits. NAME is a data set, or the path or URL of a store.

    \b
    Examples:
      spin-pipe store info world
      spin-pipe store info s3://bucket/fits/world
    """


def place_of(data: Path, name: str) -> Path | str:
    if is_url(name):
        return name
    return Path(name) if "/" in name else data_folder(data).fits(name)


def open_store(data: Path, name: str) -> FitStore:
    return FitStore.open(place_of(data, name), writer="spin-pipe")


def show(found: dict[str, Any], as_json: bool, lines: list[str]) -> None:
    click.echo(json.dumps(found) if as_json else "\n".join(lines))


@store.command()
@NAME
@DATA
@FITS
@JSON
def info(name: str, data: Path, as_json: bool) -> None:
    """Show samples, where their fits come from, segments, tags, and what scores depend on.

    \b
    Example:
      spin-pipe store info world
    """
    opened = open_store(data, name)
    found = {
        "location": opened.location, **opened.summary(), "segment_records": opened.segment_records,
        "retracted": int((opened.fits.epoch > 0).sum()), "runs": sorted(opened.runs.values()),
        "tags": opened.tags(), "fingerprint": opened.fingerprint.to_json(),
    }  # fmt: skip
    show(found, as_json, [f"{key.replace('_', ' '):22} {_words(value)}" for key, value in found.items()])


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


@store.command()
@NAME
@DATA
@FITS
@JSON
def log(name: str, data: Path, as_json: bool) -> None:
    """Show what was done to a store, oldest first.

    \b
    Example:
      spin-pipe store log world
    """
    entries = open_store(data, name).log()
    lines = []
    for entry in entries:
        rest = {k: v for k, v in entry.items() if k not in ("time_ms", "operation", "writer", "from_ms", "to_ms")}
        when = as_text(entry["time_ms"]) or "unknown"
        lines.append(f"{when:19}  {entry['operation']:8} {entry['writer']:12} {_words(rest)}")
    show({"log": entries}, as_json, lines)


@store.command()
@NAME
@click.argument("tag", required=False)
@click.option("--delete", is_flag=True, help="Remove the tag.")
@DATA
@FITS
@JSON
def tag(name: str, tag: str | None, delete: bool, data: Path, as_json: bool) -> None:
    """Name the current state; without TAG, list the tags.

    \b
    Example:
      spin-pipe store tag world before-cleaning
    """
    opened = open_store(data, name)
    if delete and tag is None:
        raise UsageError("--delete: name the TAG to remove")
    if tag is not None and delete:
        opened.untag(tag)
    elif tag is not None:
        opened.tag(tag)
    show({"tags": opened.tags()}, as_json, opened.tags() or ["no tags"])


@store.command()
@NAME
@click.argument("tag")
@DATA
@FITS
@JSON
def restore(name: str, tag: str, data: Path, as_json: bool) -> None:
    """Make a tagged state the current one; what came after it no longer counts. Tags stay.

    \b
    Example:
      spin-pipe store restore world static
    """
    opened = open_store(data, name)
    opened.restore(tag)
    found = opened.summary()
    show(found, as_json, [f"{opened.location}: as of {tag!r}, now generation {found['generation']}"])


@store.command()
@NAME
@DATA
@FITS
@JSON
def compact(name: str, data: Path, as_json: bool) -> None:
    """Merge all segments into the next generation. No record changes.

    \b
    Example:
      spin-pipe store compact world
    """
    opened = open_store(data, name)
    number = opened.compact()
    show({"generation": number}, as_json, [f"{opened.location}: generation {number}, no segments"])


@store.command()
@NAME
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@DATA
@FITS
@JSON
def gc(name: str, dry_run: bool, data: Path, as_json: bool) -> None:
    """Remove what neither the state nor a tag needs, and unfinished files of writers that have stopped.

    \b
    Example:
      spin-pipe store gc world --dry-run
    """
    names = open_store(data, name).gc(dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    show({"removed": names, "dry_run": dry_run}, as_json, [*names, f"{len(names)} {verb}"])


@store.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Samples to list.")
@DATA
@FITS
@JSON
def diff(first: str, second: str, limit: int, data: Path, as_json: bool) -> None:
    """Show which samples changed from A to B, and by how much. A and B: NAME, or NAME@TAG.

    \b
    Example:
      spin-pipe store diff world@static world
    """
    states = []
    for which in (first, second):
        name, _, tag = which.partition("@")
        opened = open_store(data, name)
        state: FitStore | FitSnapshot = opened.at(tag) if tag else opened
        states.append(state)
    changes = compare_states(states[0].fits, states[1].fits)
    rows = [changes.row(place) for place in range(min(limit, len(changes.samples)))]
    lines = [", ".join(f"{key} {value}" for key, value in changes.counts().items())]
    lines += [f"{'sample':>10}{'score A':>12}{'score B':>12}{'loss A':>12}{'loss B':>12}{'pose (rad)':>12}"]
    keys = ("score_a", "score_b", "loss_a", "loss_b", "pose_rad")
    for row in rows:
        cells = "".join(f"{'none' if row[k] is None else format(row[k], '.4g'):>12}" for k in keys)
        lines.append(f"{row['sample']:>10}{cells}")
    show({**changes.counts(), "changes": rows}, as_json, lines)


@store.command()
@NAME
@click.option("--where", "expression", required=True, help="Which fits, for example \"score > 80 and run == 'first'\".")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@DATA
@FITS
@JSON
def reset(name: str, expression: str, dry_run: bool, data: Path, as_json: bool) -> None:
    """Retract fits: their samples have none until a new one is made. Updates begun before can't undo it.

    \b
    Example:
      spin-pipe store reset world --where "run == 'first' and step >= 20000"
      spin-pipe fit-static world
    """
    opened = open_store(data, name)
    ids = np.flatnonzero(matching(expression, opened.fits))
    count = len(ids) if dry_run else opened.reset(ids, where=expression)
    verb = "would be retracted" if dry_run else "retracted"
    show({"retracted": count, "dry_run": dry_run}, as_json, [f"{opened.location}: {count} fits {verb}"])


@store.command()
@NAME
@click.option("--repair", "repairs", is_flag=True, hidden=True)  # its name before there was `store repair`
@click.option("--from", "copy", hidden=True)
@click.option("--accept-loss", is_flag=True, hidden=True)
@DATA
@FITS
@JSON
def verify(name: str, repairs: bool, copy: str | None, accept_loss: bool, data: Path, as_json: bool) -> None:
    """Read every byte of a store and list the files that are damaged or missing; exit code 1 if there are any.

    \b
    Example:
      spin-pipe store verify world
    """
    if repairs:
        click.echo("verify --repair is now called `spin-pipe store repair`", err=True)
        _repair(place_of(data, name), copy, accept_loss, as_json)
        return
    if copy or accept_loss:
        raise UsageError("--from and --accept-loss belong to `spin-pipe store repair`")
    _verify(place_of(data, name), None, as_json)


@store.command()
@NAME
@click.option("--from", "copy", metavar="PATH", help="A copy of the store, of any age.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Lose what can't be repaired: list the samples that lose their fits, and move damaged files to damaged/.",
)
@DATA
@FITS
@JSON
def repair(name: str, copy: str | None, accept_loss: bool, data: Path, as_json: bool) -> None:
    """Put back damaged files that a copy or the store itself still holds, then verify; exit code 1 if damage remains.

    \b
    Examples:
      spin-pipe store repair world
      spin-pipe store repair world --from backup/fits/world
    """
    _repair(place_of(data, name), copy, accept_loss, as_json)


def _repair(place: Path | str, copy: str | None, accept_loss: bool, as_json: bool) -> None:
    if copy and not is_url(copy) and not Path(copy).is_dir():
        raise UsageError(f"--from {copy}: no such folder")
    _verify(place, repair_store(place, copy=copy, accept_loss=accept_loss), as_json)


def _verify(place: Path | str, outcomes: list[Outcome] | None, as_json: bool) -> None:
    """Verify a store, and show what was found and what a repair did before. Raise StageError if it is damaged."""
    found = verify_store(place)
    content: dict[str, Any] = {
        "generations": found.generations, "segments": found.segments, "tags": found.tags,
        "findings": [{"file": f.file, "problem": f.problem} for f in found.findings],
    }  # fmt: skip
    if outcomes is not None:
        content["repairs"] = [
            {"file": o.file, "action": o.action, "text": o.text, "samples": list(o.samples)} for o in outcomes
        ]
    lines = [f"  {outcome.action:10} {outcome.file}: {outcome.text}" for outcome in outcomes or ()]
    lines += [f"{place}: {found.generations} generations, {found.segments} segments, {found.tags} tags read"]
    lines += [f"  {finding.file}: {finding.problem}" for finding in found.findings]
    show(content, as_json, [*lines, *(["  no damage"] if found.whole else [])])
    if not found.whole:
        advice = "run `spin-pipe store repair`" if outcomes is None else "the list above says what can be done about each"
        raise StageError(f"{place}: {len(found.findings)} files are damaged or missing; {advice}")


@store.command()
@NAME
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--columns",
    default="pose,betas,camera,score,loss,source,verdict,run,time",
    show_default=True,
    help="Columns to write.",
)
@click.option("--format", "kind", type=click.Choice(FORMATS), help="Default: by the name of --out.")
@click.option("--tag", help="Export the state that this tag names instead of the current one.")
@click.option("--where", "expression", help="Which fits, for example \"score < 60 and source == 'loop'\".")
@DATA
@FITS
@JSON
def export(
    name: str,
    out: Path,
    columns: str,
    kind: str | None,
    tag: str | None,
    expression: str | None,
    data: Path,
    as_json: bool,
) -> None:
    """Write columns of all fits, a row each, for other programs: Parquet (for SQL), .npz or CSV.

    \b
    Example:
      spin-pipe store export world --columns score,loss,source,run --out world.parquet
    """
    kind = kind or out.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise UsageError(f"--out {out}: its name doesn't say which format; give --format {'|'.join(FORMATS)}")
    opened = open_store(data, name)
    state = opened.at(tag) if tag else opened
    fits = state.fits
    chosen = np.flatnonzero(matching(expression, fits) if expression else fits.source != 0)
    names = [column.strip() for column in columns.split(",") if column.strip() not in ("", "sample")]
    export_columns(out, fits, chosen, columns=names, runs=state.runs, kind=kind)
    found = {"file": str(out), "format": kind, "columns": ["sample", *names], "rows": len(chosen)}
    text = f"{out}: {len(chosen)} of {state.samples} samples, {', '.join(['sample', *names])}"
    show(found, as_json, [text])
