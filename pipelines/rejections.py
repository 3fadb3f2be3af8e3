"""Lists of rejected samples, with reasons: of people by preprocess, of rows by import-fits, of samples by fit-static."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.folders import DataFolder
from spin.fitting.verdicts import KEPT, VERDICTS
from store.files.atomic import write_file

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

    from store.annotations.table import Annotations

NOT_FITTED = "not fitted yet; `spin-pipe fit-static` fits it"


def write_rejections(path: Path, entries: Sequence[Mapping[str, Any]], about: Mapping[str, str] | None = None) -> Path | None:
    """Write a list of rejections, below what they are `about` if given. Return its path.

    An empty list removes an older one; then return None.
    """
    if not entries:
        path.unlink(missing_ok=True)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**about, "rejected": list(entries)} if about else list(entries)
    write_file(path, json.dumps(content, indent=1).encode())
    return path


def read_rejections(path: Path, key: str | None, problems: list[str]) -> list[dict[str, Any]]:
    """Return the entries of a list, which the file's object has under `key`. A damaged list becomes a line in `problems`."""
    if not path.is_file():
        return []
    wanted = {"reason", "sample"} if key else {"reason", "source", "image"}
    try:
        content = json.loads(path.read_text())
        entries = content[key] if key else content
        if all(wanted <= set(e) and isinstance(e.get("sample", 0), int) for e in entries):
            return list(entries)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    problems.append(f"{path.name}: can't be read, so its entries are missing here; run the stage that wrote it again")
    return []


def reasons_without_fit(data: DataFolder, dataset: str, problems: list[str]) -> dict[int, str]:
    """Return why samples (by number) have no fit, as fit-static listed it. NOT_FITTED is the reason of all others."""
    entries = read_rejections(data.rejected_fits(dataset), "rejected", problems)
    return {int(e["sample"]): str(e["reason"]) for e in entries}


class RejectedLedger:
    """The samples that fit-static rejected, with reasons: running again doesn't try them again, and a person can read them."""

    def __init__(self, path: Path, key: str, annotations: Annotations) -> None:
        """Read the list. `key` is what was tried; a list with another key is ignored."""
        self.path, self._key = path, key
        self._source, self._image = annotations.source, annotations.image
        self.reasons: dict[int, str] = {}
        if path.is_file():
            try:
                content = json.loads(path.read_text())
                if content["tried"] == self._key:
                    self.reasons = {int(e["sample"]): e["reason"] for e in content["rejected"]}
            except (ValueError, KeyError, TypeError):
                self.reasons = {}  # a damaged list only costs a second try

    def rejected(self, count: int) -> Bool[np.ndarray, " count"]:
        """Return which of the first `count` samples were rejected."""
        out = np.zeros(count, bool)
        out[list(self.reasons)] = True
        return out

    def drop(self, stored: Bool[np.ndarray, " count"]) -> None:
        """Forget samples that have a fit by now."""
        self.reasons = {i: reason for i, reason in self.reasons.items() if not stored[i]}

    def record(self, samples: Int[np.ndarray, " n"], verdicts: Int[np.ndarray, " n"]) -> None:
        """Record the verdicts of samples, and write the list if it changed."""
        before = dict(self.reasons)
        for sample, verdict in zip(samples.tolist(), verdicts.tolist()):
            self.reasons.pop(sample, None)
            if verdict not in KEPT:
                self.reasons[sample] = VERDICTS[verdict]
        if self.reasons == before:
            return
        entries = [
            {"sample": i, "source": self._source[i], "image": self._image[i], "reason": reason}
            for i, reason in sorted(self.reasons.items())
        ]
        write_rejections(self.path, entries, {"tried": self._key})
