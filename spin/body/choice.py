"""Which body a data folder gives: SMPL where it is found under one of its names, else the open body; and what was ignored.

SPIN keeps SMPL in `data/smpl/`, a download has it under its original name, and it may be in the data folder itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from spin.body.model_file import BODY_ENDINGS, OPEN_BODY, is_smpl_folder, load_body, name_of, published_files
from spin.errors import BodyFileError

_DEEPEST = 4  # folders below the data folder
_NOT_BODIES = "smpl_mean_params"  # SPIN's mean pose and shape


@dataclass(frozen=True)
class Ignored:
    """A file of SMPL's that is not used, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class BodyChoice:
    """The body of a data folder: its file and name, why it is used, and the files that are ignored."""

    path: Path
    name: str
    why: str
    ignored: tuple[Ignored, ...] = ()

    @property
    def line(self) -> str:
        """Return which body is used, why, and what is ignored."""
        used = "the open body" if self.path == OPEN_BODY else self.name
        ignored = ", ".join(f"{item.path} ({item.reason})" for item in self.ignored)
        return f"{used}, {self.why}" + (f"; ignored: {ignored}" if ignored else "")


def choose_body(folder: Path | None) -> BodyChoice:
    """Return the body of a data folder. A file that can't be used is ignored, with the reason."""
    if folder is None:
        return BodyChoice(OPEN_BODY, "", "as no data folder is given")
    found = smpl_files(folder)
    ignored: list[Ignored] = []
    for at, file in enumerate(found["SMPL_NEUTRAL"]):
        name, problem = examine(file)
        if not problem:
            later = (Ignored(other, f"{file.name} comes first") for other in found["SMPL_NEUTRAL"][at + 1 :])
            return BodyChoice(file, name, f"from {file}", (*ignored, *later))
        ignored.append(Ignored(file, problem))
    for name, files in found.items():
        if name != "SMPL_NEUTRAL":
            ignored += [Ignored(file, _not_neutral(name)) for file in files]
    missing = "no usable" if found["SMPL_NEUTRAL"] else "no"
    return BodyChoice(OPEN_BODY, "", f"as {folder} and {folder / 'smpl'} have {missing} SMPL_NEUTRAL.pkl", tuple(ignored))


def find_body(folder: Path | None) -> Path:
    """Return the file of the body that a data folder gives: SMPL's, else the open body's."""
    return choose_body(folder).path


def find_gendered(folder: Path, gender: str) -> Path | None:
    """Return SMPL's 'female' or 'male' body of a data folder, or None. BodyFileError if all that are found are unusable."""
    files = smpl_files(folder)[f"SMPL_{gender.upper()}"]
    problems = {file: examine(file)[1] for file in files}
    usable = [file for file, problem in problems.items() if not problem]
    if files and not usable:
        raise BodyFileError("; ".join(f"{file}: {problem}" for file, problem in problems.items()))
    return usable[0] if usable else None


def examine(file: Path) -> tuple[str, str]:
    """Return a body file's name and why it can't be used, or ''. What was read once is not read again while it is unchanged."""
    return _examined(file, tuple(_stamp(other) for other in (file, *published_files(file))))


@lru_cache(maxsize=16)
def _examined(file: Path, stamps: tuple[object, ...]) -> tuple[str, str]:
    if stamps[0] is None:
        return "", "a link to a file that is missing"
    try:
        if not file.stat().st_size:
            return "", "it is empty"
        return load_body(file).name, ""
    except (BodyFileError, OSError) as error:
        return "", str(error).removeprefix(f"{file}: ").removeprefix(f"{file.name} ")


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def smpl_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files that look like SMPL's, by the name of what they hold ('' if it is not known), the best place first."""
    out: dict[str, list[Path]] = {"SMPL_NEUTRAL": [], "SMPL_FEMALE": [], "SMPL_MALE": [], "": []}
    for file in sorted(_files(folder, _DEEPEST), key=lambda path: _order(path, folder)):
        name = name_of(file)
        out[name if name in out else ""].append(file)
    return out


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Yield what is called as SMPL's files are, in the folder and in those below that are SMPL's."""
    for path in folder.glob("*"):
        if path.is_dir():
            if depth and is_smpl_folder(path):
                yield from _files(path, depth - 1)
            continue
        stem, ending = path.stem.lower(), path.suffix.lower()
        if ending in BODY_ENDINGS and stem.startswith(("smpl", "basicmodel")) and not stem.startswith(_NOT_BODIES):
            yield path


def _order(file: Path, folder: Path) -> tuple[int, bool, bool, str]:
    """The nearest first, then the usual name, then SMPL's own format."""
    return len(file.relative_to(folder).parts), name_of(file) != file.stem, file.suffix != ".pkl", str(file)


def _not_neutral(name: str) -> str:
    return f"{name} is not the neutral body" if name else "not a name of SMPL's neutral body, as SMPL_NEUTRAL.pkl"
