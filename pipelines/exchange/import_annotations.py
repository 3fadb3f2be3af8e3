"""Import of another program's annotations as a data set: read, checked and written like a raw data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.exchange.import_fits import belongs
from pipelines.folders import DataFolder
from pipelines.preprocessing.preprocess import PreprocessSummary, preprocess
from pipelines.readers import OWN, Dataset
from pipelines.readers.base import SMPL, ReaderOptions
from spin.body import load_body
from store.exchange import read_samples_file


@dataclass(frozen=True)
class ImportedAnnotations:
    """`bodies_of`: the body whose pose and shape were not imported, since another is in use; '' if all were imported."""

    summary: PreprocessSummary
    bodies_of: str


def import_annotations(
    data: DataFolder,
    file: Path,
    name: str,
    root: Path,
    *,
    same_body: bool = False,
    workers: int | None = None,
) -> ImportedAnnotations:
    """Write annotations/NAME.parquet from SPIN's or 4D-Humans' .npz.

    Pose and shape are kept if they belong to the body in use. Raise StoreError if the format is unknown, and StageError if
    no row can be used.
    """
    body = load_body(data.body)
    rows = read_samples_file(file)
    kept = belongs(rows.body, body, same_body=same_body)
    left_out = "" if kept or not rows.has_smpl.any() else rows.body or SMPL
    own = body.fingerprint if same_body else SMPL
    options = ReaderOptions("all", data=data.root, extra={"file": file, "body": own})
    summary = preprocess(data, Dataset(name, "exchange_file", OWN, "all"), root, name, options, workers=workers)
    return ImportedAnnotations(summary, left_out)
