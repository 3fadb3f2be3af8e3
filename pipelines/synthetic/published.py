"""`spin-pipe synth --layout`: a raw tree of the embedded world in a published data set's layout."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.errors import StageError, UsageError
from pipelines.synthetic.coco_world import WORLD_VERSION
from pipelines.synthetic.layouts import layout
from spin.body import BodyMesh, load_body
from spin.fitting.prior import load_pose_prior
from spin.world import World
from store.files.atomic import write_file


@dataclass(frozen=True)
class LayoutSettings:
    """All that the tree depends on."""

    layout: str
    people: int
    seed: int
    body: str
    world: int = WORLD_VERSION


def synthesize_layout(out: Path, name: str, *, people: int, seed: int) -> bool:
    """Write at least `people` people to `out`. Return False if an earlier run had.

    Raise StageError if the folder holds anything else. A tree that was interrupted must be removed by the user.
    """
    body = load_body()
    settings = asdict(LayoutSettings(name, people, seed, body.fingerprint))
    marker = out / "synth.json"
    if marker.is_file():
        try:
            found = json.loads(marker.read_text())
            same, complete = found["settings"] == settings, bool(found["complete"])
        except (ValueError, KeyError, TypeError):
            same = complete = False
        if same and complete:
            return False
        if not same:
            raise StageError(f"{out}: holds another synthetic data set; choose another folder or remove it")
        raise StageError(f"{out}: an earlier run was interrupted in it; remove it and run the command again")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StageError(f"{out}: not an empty folder, and not synth's; choose another folder (--out)")
    if people < 1 or seed < 0:
        raise UsageError(f"synth: {people} people, seed {seed}; expected 1 or more people, a seed of 0 or more")
    out.mkdir(parents=True, exist_ok=True)
    _mark(marker, settings, complete=False)
    layout(name).write(out, World(body, BodyMesh(body), load_pose_prior()), people, seed)
    _mark(marker, settings, complete=True)
    return True


def _mark(marker: Path, settings: dict[str, Any], *, complete: bool) -> None:
    write_file(marker, (json.dumps({"settings": settings, "complete": complete}) + "\n").encode())
