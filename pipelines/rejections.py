"""Lists of what a stage refused, with reasons: preprocess' of people, fit-static's of samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.folders import DataFolder

NOT_FITTED = "not fitted yet; `spin-pipe fit-static` does what is missing"


def read_refusals(path: Path, key: str | None, problems: list[str]) -> list[dict[str, Any]]:
    """The entries of a list, which lies in the file's object under `key`; a damaged list becomes a line in `problems`."""
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
    problems.append(
        f"{path.name}: can't be read, so what it lists is missing here; the stage that wrote it makes it anew"
    )
    return []


def reasons_without_fit(data: DataFolder, dataset: str, problems: list[str]) -> dict[int, str]:
    """Why samples (by number) have no fit, as fit-static listed it; NOT_FITTED says it of those that aren't listed."""
    entries = read_refusals(data.refused_fits(dataset), "refused", problems)
    return {int(e["sample"]): str(e["reason"]) for e in entries}
