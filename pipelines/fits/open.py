"""Opening a data set's fits: is the place reachable, and do the fits belong to these people and this body?"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from store.files.open import open_files
from store.fits.fingerprint import require_same
from store.fits.format.layout import CURRENT
from store.fits.store import FitStore

if TYPE_CHECKING:
    from spin.body import BodyData
    from store.annotations.table import Annotations

STATIC_TAG = "static"
"""The tag of the state that fit-static made, before any training."""


def annotations_part(annotations: Annotations) -> str:
    """Return what a fingerprint holds of the annotations: their name and the beginning of their content's hash."""
    return f"{annotations.name}:{annotations.content_hash[:12]}"


def require_reachable(place: Path | str) -> None:
    """Raise StoreError if an object store can't be used, before anything that takes long has begun.

    It does not matter whether there are fits yet.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        open_files(place).read(CURRENT)


def open_fits(path: Path | str, body: BodyData, annotations: Annotations) -> FitStore:
    """Return a store to read from, of any objective.

    Raise FingerprintMismatchError if the fits belong to another body or to other annotations: they would go to the
    wrong people.
    """
    store = FitStore.open(path)
    known = store.fingerprint
    mine = replace(known, body=body.fingerprint, annotations=annotations_part(annotations))
    require_same(known, mine, where=str(path))
    return store
