"""spin-pipe fetch-data: the published data files, and a list of what has to be obtained by hand."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines import journal
from pipelines.commands.common import DATA, Option, data_folder
from pipelines.download.archives import ARCHIVES, BY_HAND, PUBLISHED, fetch, read_checksums, record_of
from pipelines.download.http import checked_url
from pipelines.errors import StageError, UsageError
from pipelines.folders import DataFolder
from pipelines.progress import progress, say
from pipelines.readers import DATASETS, OWN
from spin.body.choice import examine, smpl_files


@click.command("fetch-data")
@click.argument("archives", nargs=-1, metavar="[ARCHIVE]...")
@DATA
@click.option(
    "--base-url", "base_urls", multiple=True, metavar="URL",
    help="Where the archives are; repeat it for mirrors, which are tried in order [default: the publishers' server].",
)  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="List what there is, and what to obtain by hand; fetch nothing.")
@click.option(
    "--checksums", type=click.Path(dir_okay=False, path_type=Path),
    help="A file of SHA-256 sums, as sha256sum writes them, that the archives must have.",
)  # fmt: skip
@click.option(
    "--overwrite", cls=Option, also=("--again",), is_flag=True,
    help="Fetch again what is there, and replace files that differ.",
)  # fmt: skip
def fetch_data(
    archives: tuple[str, ...],
    data: Path,
    base_urls: tuple[str, ...],
    listing: bool,
    checksums: Path | None,
    overwrite: bool,
) -> None:
    """Download the published data files into the data folder: all, or those named. An interrupted download continues.

    \b
    Examples:
      spin-pipe fetch-data --list
      spin-pipe fetch-data
      spin-pipe fetch-data static_fits --base-url https://mirror.example.org/spin
    """
    folder = data_folder(data)
    unknown = [name for name in archives if name not in ARCHIVES]
    if unknown:
        raise UsageError(f"no archive is called {unknown[0]!r}; choose from {', '.join(ARCHIVES)}")
    bases = tuple(checked_url(url) for url in base_urls) or (PUBLISHED,)
    if listing:
        click.echo(_listing(folder, bases))
        return
    sums = read_checksums(checksums) if checksums else {}
    chosen = list(dict.fromkeys(archives)) or [a.name for a in ARCHIVES.values() if a.by_default]
    failed = []
    for name in chosen:
        archive = ARCHIVES[name]
        try:
            with (
                journal.recorded(folder.journal, "fetch-data", archive=name) as entry,
                progress(0, archive.file, "B") as bar,
            ):
                bar.unit_scale = True

                def update(done: int, total: int, bar: Any = bar) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                done = fetch(folder.root, archive, bases, update, checksums=sums, again=overwrite)
                entry |= {"url": done.url, "bytes": done.size, "files": len(done.files)}
        except StageError as error:
            say(str(error))
            failed.append(archive.file)
            continue
        where = folder.root / archive.folder
        say(f"{archive.file}: {len(done.files)} files in {where}{', there already' if done.earlier else ''}")
        if done.kept:
            say(f"  {len(done.kept)} files that were there and differ were kept (--overwrite replaces): {', '.join(done.kept)}")
    if failed:
        raise StageError(f"{len(failed)} of {len(chosen)} archives could not be fetched: {', '.join(failed)}")
    say("what has to be obtained by hand: spin-pipe fetch-data --list")


def _listing(folder: DataFolder, bases: tuple[str, ...]) -> str:
    """Return what archives, SMPL and the data sets are, where they are obtained, where they go, and whether they are there."""
    lines = [f"Fetched by this command, from {', '.join(bases)}:"]
    for archive in ARCHIVES.values():
        state = "there" if record_of(folder.root, archive) else "missing"
        asked = "" if archive.by_default else ", only if named"
        lines.append(f"  {archive.name:17} {state:8} {archive.about}{asked}")
    lines += ["", "Obtained by hand, after a registration that accepts its licence:"]
    for item in BY_HAND:
        target = folder.root / item.put
        found = [examine(file)[1] for file in smpl_files(folder.root)[target.stem]]
        state = "missing" if not found else "unusable" if all(found) else "there"
        lines += [
            f"  {item.put:17} {state:8} {item.what}",
            f"  {'':17} {'':8} from {item.where}, to be put at {target}, or under its own name; {item.use}",
        ]
    lines += [
        "",
        "Data sets, which stay where they are; pass their folders to preprocess with --root NAME=DIR or roots.toml:",
    ]
    known = set(folder.known())
    roots = {d.root_name: d for d in reversed(DATASETS.values()) if d.use != OWN}
    for dataset in reversed(roots.values()):
        names = [d.name for d in DATASETS.values() if d.root_name == dataset.root_name]
        state = "read" if known & set(names) else "not read"
        lines += [
            f"  {dataset.root_name:17} {state:8} {dataset.reader.ABOUT}",
            f"  {'':17} {'':8} from {dataset.reader.OBTAIN}",
        ]
    lines += ["", "`spin-pipe preprocess NAME --help` shows the folders that a data set is expected to have."]
    return "\n".join(lines)
