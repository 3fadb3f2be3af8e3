"""The published system's data files, into the published layout; and what has to be obtained by hand, with where it goes.

Stands in for the download script of github.com/nkolot/SPIN (fetch_data.sh): the same archives, unpacked to the same places.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.download.http import DownloadError, Update, download, forget
from pipelines.download.unpack import unpack
from pipelines.errors import StageError, UsageError
from store.files.atomic import locked, write_file

PUBLISHED = "http://visiondata.cis.upenn.edu/spin"


@dataclass(frozen=True)
class Archive:
    """A file of the publishers' server. One that ends in .tar.gz is unpacked into `folder` of the data folder."""

    name: str
    file: str
    about: str
    folder: str = ""
    inside: str = ""  # its own first folder, which `folder` stands for
    by_default: bool = True

    @property
    def is_packed(self) -> bool:
        return self.file.endswith(".tar.gz")


ARCHIVES: dict[str, Archive] = {
    a.name: a
    for a in (
        Archive(
            "data", "data.tar.gz",
            "regressors of joints, mean parameters, pose prior, body parts, MPII's train.h5", inside="data",
        ),
        Archive(
            "static_fits", "static_fits.tar.gz", "first fits of the training sets, (N, 82) each", "static_fits", "static_fits",
        ),
        Archive(
            "dataset_extras", "dataset_extras.tar.gz", "annotations of all data sets but Human3.6M's training set",
            "dataset_extras", "dataset_extras",
        ),
        Archive("model_checkpoint", "model_checkpoint.pt", "the published network"),
        Archive(
            "spin_fits", "spin_fits.tar.gz", "final fits of the training sets; not part of the published script",
            "spin_fits", "spin_fits", by_default=False,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class ByHand:
    """Something behind a registration."""

    what: str
    where: str
    put: str  # in the data folder
    use: str


BY_HAND = (
    ByHand(
        "SMPL, neutral (basicModel_neutral_lbs_10_207_0_v1.0.0.pkl)", "smplify.is.tue.mpg.de", "SMPL_NEUTRAL.pkl",
        "everything then runs on SMPL; it needs the archive 'data' next to it",
    ),
    ByHand("SMPL, female (basicModel_f_lbs_10_207_0_v1.0.0.pkl)", "smpl.is.tue.mpg.de", "SMPL_FEMALE.pkl", "3DPW"),
    ByHand("SMPL, male (basicmodel_m_lbs_10_207_0_v1.0.0.pkl)", "smpl.is.tue.mpg.de", "SMPL_MALE.pkl", "3DPW"),
)  # fmt: skip


@dataclass(frozen=True)
class Fetched:
    """What became of an archive. `kept` are files that were there and differ; they stay."""

    archive: Archive
    url: str
    size: int
    sha256: str
    files: tuple[str, ...]  # relative to the data folder
    kept: tuple[str, ...] = ()
    earlier: bool = False


_UNPACKING = ".tmp-"  # beginning of a folder that an archive is unpacked into


def record_of(data: Path, archive: Archive) -> Fetched | None:
    """Return what an earlier run noted, if all its files are still there."""
    try:
        noted = json.loads(_record(data, archive).read_text())
        files, kept = tuple(map(str, noted["files"])), tuple(map(str, noted["kept"]))
        found = Fetched(archive, noted["url"], noted["size"], noted["sha256"], files, kept, earlier=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if all((data / file).is_file() for file in (*files, *kept)) else None


def fetch(
    data: Path,
    archive: Archive,
    base_urls: tuple[str, ...],
    update: Update,
    *,
    checksums: Mapping[str, str] | None = None,
    again: bool = False,
    pause_s: float = 0.5,
) -> Fetched:
    """Download an archive from the first of `base_urls` that has it whole, and unpack it. Do nothing if that is done.

    Its files appear only when the whole archive is good. Files that are there and differ stay, unless `again`.
    `checksums`: SHA-256 (hex) by file name. Raise StageError with what is wrong at each address.
    """
    folder = _record(data, archive).parent
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):  # a second run waits, rather than write to the same file
        done = None if again else record_of(data, archive)
        if done is not None:
            return done
        for left in folder.glob(f"{_UNPACKING}*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        return _fetch(data, archive, base_urls, update, checksums or {}, again, pause_s)


def _fetch(
    data: Path, archive: Archive, base_urls: tuple[str, ...], update: Update, checksums: Mapping[str, str],
    again: bool, pause_s: float,
) -> Fetched:  # fmt: skip
    part = _record(data, archive).with_name(f"{archive.file}.part")
    problems = []
    for base in base_urls:
        url = f"{base.rstrip('/')}/{archive.file}"
        try:
            download(url, part, update, pause_s=pause_s)
            sha256 = _verified(part, archive, checksums.get(archive.file))
            files, kept = _install(part, data, archive, again)
        except DownloadError as error:
            problems.append(str(error))  # the beginning stays, to continue from
        except StageError as error:
            problems.append(f"{url}: {error}")
            forget(part)
        else:
            found = Fetched(archive, url, part.stat().st_size, sha256, files, kept)
            noted = {key: value for key, value in asdict(found).items() if key not in ("archive", "earlier")}
            write_file(_record(data, archive), json.dumps(noted, indent=1).encode())
            forget(part)
            return found
    raise StageError(f"{archive.file}: {'; '.join(problems)}; run it again to continue, or give another --base-url")


def read_checksums(path: Path) -> dict[str, str]:
    """Return SHA-256 by file name, from lines as `sha256sum` writes them. Raise UsageError for another file."""
    out = {}
    try:
        for line in filter(None, map(str.strip, path.read_text().splitlines())):
            digest, name = line.split(maxsplit=1)
            if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
                raise ValueError(line[:80])
            out[Path(name.lstrip("*")).name] = digest.lower()
    except (OSError, ValueError) as error:
        raise UsageError(f"--checksums {path}: expected lines as sha256sum writes them ({error})") from error
    return out


def _record(data: Path, archive: Archive) -> Path:
    return data / ".fetch" / f"{archive.name}.json"


def _verified(part: Path, archive: Archive, expected: str | None) -> str:
    with part.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        handle.seek(0)
        head = handle.read(4)
    if expected and sha256 != expected:
        raise StageError(f"is another file: SHA-256 {sha256}, expected {expected}")
    # Of torch.save: a ZIP archive, or before 2020 a pickle. It is not unpickled here.
    if not archive.is_packed and not head.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise StageError("is not a PyTorch checkpoint")
    return sha256


def _install(part: Path, data: Path, archive: Archive, again: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Move the files into place. Return them, and those that were there, differ and stay."""
    with tempfile.TemporaryDirectory(prefix=_UNPACKING, dir=part.parent) as temporary:
        loose = Path(temporary)
        if archive.is_packed:
            names = unpack(part, loose, without=archive.inside)
        else:
            names = [archive.file]
            shutil.copyfile(part, loose / archive.file)
        placed, kept = [], []
        for name in names:
            relative = f"{archive.folder}/{name}" if archive.folder else name
            target = data / relative
            if target.is_dir():
                raise StageError(f"{target} is a folder, and the archive has a file of that name")
            if target.exists() and not again and not filecmp.cmp(loose / name, target, shallow=False):
                kept.append(relative)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(loose / name, target)
            placed.append(relative)
    return tuple(placed), tuple(kept)
