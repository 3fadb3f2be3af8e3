"""Commands about fit stores: judging and mending their files, and giving their columns to other programs."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from pipelines.commands.common import DATA, FITS
from pipelines.commands.store import JSON, NAME, open_store, place_of, show
from pipelines.errors import StageError, UsageError
from store.exchange.tables import FORMATS


@click.command()
@NAME
@click.option("--repair", is_flag=True, help="Put back what something else still holds; refuse the rest.")
@click.option("--from", "copy", metavar="PATH", help="With --repair: a copy of the store, of any age.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="With --repair: give up what nothing holds, and say which samples lose their fits; their files go to damaged/.",
)
@DATA
@FITS
@JSON
def verify(name: str, repair: bool, copy: str | None, accept_loss: bool, data: Path, as_json: bool) -> None:
    """Read every byte and name what is damaged or missing; exit code 1 if anything is, and still is after --repair.

    \b
    Examples:
      spin-pipe store verify world
      spin-pipe store verify world --repair --from backup/fits/world
    """
    from store.fits.repair.repair import repair as run_repair
    from store.fits.repair.verify import verify as run

    if not repair and (copy or accept_loss):
        raise UsageError("--from and --accept-loss belong to --repair; give that, too")
    if copy and "://" not in copy and not Path(copy).is_dir():
        raise UsageError(f"--from {copy}: no such folder")
    place = place_of(data, name)
    outcomes = run_repair(place, copy=copy, accept_loss=accept_loss) if repair else []
    found = run(place)
    content = {
        "generations": found.generations, "segments": found.segments, "tags": found.tags,
        "findings": [{"file": f.file, "problem": f.problem} for f in found.findings],
    }  # fmt: skip
    if repair:
        content["repairs"] = [
            {"file": o.file, "action": o.action, "text": o.text, "samples": list(o.samples)} for o in outcomes
        ]
    lines = [f"  {outcome.action:8} {outcome.file}: {outcome.text}" for outcome in outcomes]
    lines += [f"{place}: {found.generations} generations, {found.segments} segments, {found.tags} tags read"]
    lines += [f"  {finding.file}: {finding.problem}" for finding in found.findings]
    show(content, as_json, [*lines, *(["  whole"] if found.whole else [])])
    if not found.whole:
        advice = "what can be done is said above" if repair else "see what --repair can do"
        raise StageError(f"{place}: {len(found.findings)} files are not what was written; {advice}")


@click.command()
@NAME
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--columns",
    default="pose,betas,camera,score,loss,source,verdict,run,time",
    show_default=True,
    help="Which.",
)
@click.option("--format", "kind", type=click.Choice(FORMATS), help="Default: by the name of --out.")
@click.option("--tag", help="The state that this tag names, not the current one.")
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
    from store.exchange.tables import export_columns
    from store.fits.query import matching

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
    show(
        found, as_json, [f"{out}: {len(chosen)} of {state.samples} samples, {', '.join(['sample', *names])}"]
    )
