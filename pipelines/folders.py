"""Where everything is stored. One data folder in the published layout, plus annotations/ and fits/; one folder for each run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import UsageError
from spin.body.choice import BodyChoice, choose_body
from spin.body.model_file import OPEN_BODY
from spin.fitting.lifter import LIFTER_FILE, find_lifter
from spin.fitting.prior import find_prior
from store.files.open import is_url

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def checked_name(kind: str, name: str) -> str:
    """Return a name that may become a file name. Raise UsageError otherwise, so that no name leaves its folder."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{kind} name {name!r}: use letters, digits, '.', '_' and '-', starting with a letter or digit, at most 64"
        )
    return name


def which_body(data: DataFolder) -> str:
    """Return the line that says which body a command uses, why, and what it ignores."""
    return f"body: {data.body_choice.line}"


def crop_line(data: DataFolder, crop: str, *, published: bool) -> str:
    """Return the line that says how a network's input is cut, and whether its bodies are those in use."""
    own = "SPIN's checkpoint" if published else "a checkpoint of this project"
    trained = "published" if published else "plain"
    why = f"as the training of {own}" if crop == trained else f"but the training of {own} was given the {trained} one"
    other = "; it predicts SMPL's shapes, which mean nothing on the open body" if published and data.body == OPEN_BODY else ""
    return f"crop: {crop}, {why}{other}"


@dataclass(frozen=True)
class DataFolder:
    """The data folder: SMPL's files if the user has them, annotations, fits (which may be stored elsewhere)."""

    root: Path
    fits_place: str = ""
    """Where fits are stored, if not in fits/: another folder, or a URL."""

    def __post_init__(self) -> None:
        # Ray's workers may run in other folders.
        object.__setattr__(self, "root", self.root.absolute())
        if self.fits_place and not is_url(self.fits_place):
            object.__setattr__(self, "fits_place", str(Path(self.fits_place).absolute()))

    def annotations(self, dataset: str) -> Path:
        return self.root / "annotations" / f"{checked_name('data set', dataset)}.parquet"

    def crops(self, dataset: str) -> Path:
        """Return the file of packed crops, which may not exist."""
        return self.root / "annotations" / f"{checked_name('data set', dataset)}.crops"

    def rejected(self, dataset: str) -> Path:
        """Return the list of samples that a reader rejected, with reasons."""
        return self.root / "annotations" / f"{checked_name('data set', dataset)}.rejected.json"

    def failed(self, dataset: str) -> Path:
        """Return the list of a run of preprocess that found no usable sample."""
        return self.root / "annotations" / f"{checked_name('data set', dataset)}.failed.json"

    def doubtful(self, dataset: str) -> Path:
        """Return the list of people that preprocess keeps, but doubts."""
        return self.root / "annotations" / f"{checked_name('data set', dataset)}.doubtful.json"

    def fits(self, dataset: str) -> Path | str:
        name = checked_name("data set", dataset)
        if is_url(self.fits_place):
            return f"{self.fits_place.rstrip('/')}/{name}"
        return Path(self.fits_place or self.root / "fits") / name

    def rejected_fits(self, dataset: str) -> Path:
        """Return the list of samples that fit-static could not fit, with reasons."""
        return self.root / "fits" / f"{checked_name('data set', dataset)}.rejected.json"

    def rejected_rows(self, dataset: str) -> Path:
        """Return the list of a file's rows that import-fits could not use, with reasons."""
        return self.root / "fits" / f"{checked_name('data set', dataset)}.import.rejected.json"

    def exported(self, dataset: str, ending: str = ".npz") -> Path:
        return self.root / "final_fits" / f"{checked_name('data set', dataset)}{ending}"

    @property
    def backbones(self) -> Path:
        """Return the folder of downloaded ImageNet weights."""
        return self.root / "backbones"

    def dataset_extra(self, file_name: str) -> Path:
        """Return where SPIN's data set files are stored, under their published names."""
        return self.root / "dataset_extras" / file_name

    @property
    def body_choice(self) -> BodyChoice:
        """Return the body in use, with why, and what is ignored."""
        return choose_body(self.root)

    @property
    def body(self) -> Path:
        return self.body_choice.path

    @property
    def prior(self) -> Path:
        return find_prior(self.root, self.body)

    @property
    def lifter(self) -> Path:
        """Return the lifter of the body in use. Raise ModelFileError if it has none yet."""
        return find_lifter(self.root, self.body)

    @property
    def own_lifter(self) -> Path:
        """Return the file that `spin-pipe train-lifter` writes."""
        return self.root / LIFTER_FILE

    @property
    def mean_parameters(self) -> Path | None:
        """Return the file of the published mean pose and shape, which belong to SMPL."""
        path = self.root / "smpl_mean_params.npz"
        return path if path.is_file() and self.body != OPEN_BODY else None

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    def known(self) -> list[str]:
        """Return the names of the data sets that were preprocessed."""
        return sorted(p.stem for p in (self.root / "annotations").glob("*.parquet"))


@dataclass(frozen=True)
class RunFolder:
    """One training run."""

    root: Path

    @classmethod
    def of(cls, log_dir: Path, name: str) -> RunFolder:
        return cls(log_dir / checked_name("run", name))

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def validation(self) -> Path:
        """Return the file of validation's results, a JSON line each."""
        return self.root / "validation.jsonl"

    @property
    def to_validate(self) -> Path:
        """Return the folder of weights that wait to be measured."""
        return self.root / "validation"

    def waiting_weights(self) -> list[Path]:
        """Return the weights that wait, by step."""
        return sorted(self.to_validate.glob("step_*.pt"))

    @property
    def skipped(self) -> Path:
        """Return the list of images that training could not read, a JSON line each."""
        return self.root / "skipped.jsonl"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step_{step:08d}.pt"

    def all_checkpoints(self) -> list[Path]:
        """Return all checkpoints, the oldest first."""
        return sorted(self.checkpoints.glob("step_*.pt"))

    def latest_checkpoint(self) -> Path | None:
        found = self.all_checkpoints()
        return found[-1] if found else None

    @property
    def best(self) -> Path:
        """Return the file that names the checkpoint that validation found best, and its number."""
        return self.checkpoints / "best.json"

    @property
    def superseded(self) -> Path:
        """Return the folder of checkpoints later than the one that the run went back to."""
        return self.checkpoints / "superseded"
