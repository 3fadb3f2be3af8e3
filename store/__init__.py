"""Durable data: annotations of samples, and the best body found for each (format: FORMAT.md)."""

from store.annotations import Annotations
from store.errors import (
    AnnotationError,
    AnnotationsNotFoundError,
    CorruptGenerationError,
    CorruptSegmentError,
    ExchangeError,
    FingerprintMismatchError,
    FitStoreExistsError,
    FitStoreNotFoundError,
    FormatVersionError,
    ObjectStoreAccessError,
    ObjectStoreError,
    RecordError,
    SampleIdError,
    StaleWriterError,
    StoreError,
    TagExistsError,
    TagNotFoundError,
    UnusableNameError,
)
from store.exchange import StaticFits, export_final_fits, export_spin_dataset, import_static_fits
from store.fits.fingerprint import Fingerprint
from store.fits.format.state import FitSnapshot
from store.fits.format.tags import Tag
from store.fits.merge import better, join
from store.fits.records import MAX_ABS_BETA, Fits, Source, StartKind, Verdict, admissible
from store.fits.store import FitStore

__all__ = [
    "MAX_ABS_BETA",
    "AnnotationError",
    "Annotations",
    "AnnotationsNotFoundError",
    "CorruptGenerationError",
    "CorruptSegmentError",
    "ExchangeError",
    "Fingerprint",
    "FingerprintMismatchError",
    "FitSnapshot",
    "FitStore",
    "FitStoreExistsError",
    "FitStoreNotFoundError",
    "Fits",
    "FormatVersionError",
    "ObjectStoreAccessError",
    "ObjectStoreError",
    "RecordError",
    "SampleIdError",
    "Source",
    "StaleWriterError",
    "StartKind",
    "StaticFits",
    "StoreError",
    "Tag",
    "TagExistsError",
    "TagNotFoundError",
    "UnusableNameError",
    "Verdict",
    "admissible",
    "better",
    "export_final_fits",
    "export_spin_dataset",
    "import_static_fits",
    "join",
]
