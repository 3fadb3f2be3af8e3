"""Errors of the package store: each is a domain error and the built-in that fits, so callers may catch either."""

from __future__ import annotations


class StoreError(Exception):
    """Any error that this package raises on purpose. Its text is one line: subject, expected, found, remedy."""


class RecordError(StoreError, ValueError):
    """An array of records is not of the expected shape or type."""


class SampleIdError(StoreError, IndexError):
    """A sample number is outside the store."""


class FitStoreNotFoundError(StoreError, FileNotFoundError):
    """There is no fit store in this folder."""


class FitStoreExistsError(StoreError, FileExistsError):
    """The folder already holds a fit store, or something else."""


class FormatVersionError(StoreError, ValueError):
    """A file is of another format, or of a version this program does not read."""


class FingerprintMismatchError(StoreError, ValueError):
    """Scores made under different conditions would be compared."""


class CorruptSegmentError(StoreError, ValueError):
    """A segment file is damaged."""


class CorruptGenerationError(StoreError, ValueError):
    """A generation is damaged, or part of it is missing."""


class ObjectStoreError(StoreError, OSError):
    """An object store can't be reached, or fails a request."""


class ObjectStoreAccessError(ObjectStoreError, PermissionError):
    """An object store denies access, or there are no credentials."""


class StaleWriterError(StoreError, RuntimeError):
    """The store was restored to a tag while this handle was open: its pending updates belong to an earlier state."""


class UnusableNameError(StoreError, ValueError):
    """A tag's or writer's name can't be part of a file's name."""


class OutsideError(StoreError, PermissionError):
    """A name that was read from a file, or a link, leads out of the folder that it belongs to."""


class TagExistsError(StoreError, FileExistsError):
    """A tag of this name exists and names another state."""


class TagNotFoundError(StoreError, LookupError):
    """There is no such tag."""


class ExpressionError(StoreError, ValueError):
    """An expression over records can't be understood."""


class AnnotationError(StoreError, ValueError):
    """Annotations are not of the expected shape, or not numbers, or their file is of another format."""


class AnnotationsNotFoundError(AnnotationError, FileNotFoundError):
    """There is no such annotation file."""


class ExchangeError(StoreError, ValueError):
    """A file in an exchange format has the wrong arrays."""


class CropsError(StoreError, ValueError):
    """Packed crops are damaged, of another format, or of other annotations."""
