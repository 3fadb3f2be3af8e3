"""The paper's claim, and this project's: does a loop of fits and network teach more than fits that stay? One JSON line.

    python -m experiments.claims [--size cpu|gpu|toy] [--cache DIR] [--processes 2] [--markdown]

Trains on the embedded world (experiments/claims/people.py), equal budget, same network start, in two settings: `mixed`, where a
quarter of the samples carry true 3D, and `only2d`. Arms: (a) reprojection loss only (and what truth there is); (b) static fits
from mean-pose starts, fixed; (c) the loop as published from those fits: Adam 100 + 100, reprojection rule; (d) this project's
loop from those fits; (e) this project's static fits (lifter, anchored), fixed; (f) this project's loop from (e).

All start with a network that was trained on other people, in 2D alone, by static fits.

Of each setting and arm, a list over seeds: `network_pa_mpjpe_mm` and `network_mpjpe_mm` on people that were not trained on,
`fits_start_pa_mpjpe_mm` and `fits_end_pa_mpjpe_mm` on the training samples without truth. `bad_network`: how arm (f)'s fits
fare with a network that answers nonsense. `ceiling`: the network that is given everybody's truth, which no fits can beat.
`calibration`: expected and true error of the stored fits, by decile of the expected one. Results are kept in the cache as they
come; run again, it goes on where it was. docs/loop.md has a run's figures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.claims.arms import ARMS, CLIP_NORM, SETTINGS, TRUE_SHARES, Experiment, Fitting
from experiments.claims.people import (
    AUGMENTATION,
    EMBEDDING,
    NOISE_PX,
    SIZES,
    WARM_AUGMENTATION,
    WARM_RATE,
    Looks,
    People,
    Size,
    SmallHMR,
    saved,
    warm_name,
    warm_start,
)
from spin.network.hmr import HMR
from store.files.atomic import write_file
from tools.bench.score_rules import calibration

BAD, CEILING = "bad network", "everybody's truth"
PARTS = {BAD: "f", CEILING: "a"}  # the arms that these are but for the network, or for what is known
_OTHER_SEED = 1000
VERSION = 2  # raise it when pictures, fits or trainings come out otherwise
FIGURES = ("network_pa_mpjpe_mm", "network_mpjpe_mm", "fits_start_pa_mpjpe_mm", "fits_end_pa_mpjpe_mm")


@dataclass(frozen=True)
class Task:
    """A training. The arm `BAD` is (f) with a network that answers nonsense and never learns; `CEILING` is (a), given all."""

    size: str
    setting: str
    arm: str
    seed: int
    cache: Path

    @property
    def path(self) -> Path:
        name = f"{self.size}-{self.setting}-{self.arm}-{self.seed}.json"
        return self.cache / "results" / re.sub("[^a-z0-9.-]", "_", name)


@dataclass(frozen=True)
class Material:
    """What the trainings of a size share. `looks`: None if the network is trained on the pictures themselves."""

    people: People
    fitting: Fitting
    looks: Looks | None


@lru_cache(maxsize=2)
def material(name: str, cache: Path, *, others: bool = False) -> Material:
    """Of the people of the experiment, or of the others, on whom the network that it starts with was trained."""
    size = size_of(name, others=others)
    people = (People.others if others else People.of)(size, cache)
    network = warm_start(size, 0, cache, device_there())
    looks = Looks.of(people, size, network, cache, others=others) if isinstance(network, SmallHMR) else None
    return Material(people, Fitting(people, size), looks)


def size_of(name: str, *, others: bool) -> Size:
    """Of the experiment, or of the training before it, on all of the others."""
    size = SIZES[name]
    return replace(size, train=size.others, test=0) if others else size


def beginning(name: str, seed: int, cache: Path) -> HMR:
    """The network that every arm of a seed starts with: trained on other people in 2D alone, by static fits, as (b) is."""
    torch.set_num_threads(1)
    size = size_of(name, others=True)
    network = warm_start(size, seed, cache, device_there())
    path = cache / f"begin-{size.begin_steps}-{seed}-{warm_name(size)}"
    if not path.is_file():
        given = material(name, cache, others=True)
        with tempfile.TemporaryDirectory() as folder:
            training = Experiment(
                given.people, size, given.fitting, network, setting="only2d", arm="b", seed=_OTHER_SEED + seed,
                folder=Path(folder) / "fits", looks=given.looks,
            )  # fmt: skip
            training.train(size.begin_steps)
        write_file(path, saved(training.network))
    network.load_state_dict(torch.load(path, weights_only=True, map_location=device_there()))
    return network


def run(task: Task) -> dict[str, Any]:
    """What the training gave, from its file if it was run before."""
    if task.path.is_file():
        return json.loads(task.path.read_text())
    torch.set_num_threads(1)
    size, network = SIZES[task.size], beginning(task.size, task.seed, task.cache)
    given = material(task.size, task.cache)
    bad = task.arm == BAD
    if bad:
        weight, generator = network.decpose.weight, torch.Generator().manual_seed(task.seed)
        weight.data.copy_(0.2 * torch.randn(weight.shape, generator=generator))  # on the weight's device
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(
            given.people, size, given.fitting, network, setting=task.setting, arm=PARTS.get(task.arm, task.arm),
            seed=task.seed, folder=Path(folder) / "fits", looks=given.looks, learns=not bad,
        )  # fmt: skip
        result = experiment.run(size.steps // 4 if bad else size.steps)
        if task.arm in ("d", "e", "f"):
            expected, true = experiment.expected_and_true_mm()
            result["calibration"] = calibration(expected, true)
    task.path.parent.mkdir(parents=True, exist_ok=True)
    write_file(task.path, json.dumps(result).encode())
    return result


def made_by(name: str) -> str:
    """A folder's name: another one for another size, other constants, and another VERSION of what they don't tell."""
    settings = (
        SIZES[name],
        NOISE_PX,
        AUGMENTATION,
        WARM_AUGMENTATION,
        WARM_RATE,
        EMBEDDING,
        CLIP_NORM,
        TRUE_SHARES,
    )
    return f"{name}-v{VERSION}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:8]}"


def device_there() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Command line: see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--cache", type=Path, default=Path("claims"), help="pictures, and results as they come")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--markdown", action="store_true", help="tables instead of JSON")
    arguments = parser.parse_args()
    result = claims(arguments.size, arguments.cache.resolve(), arguments.processes)
    print(markdown(result) if arguments.markdown else json.dumps(result))


def claims(name: str, cache: Path, processes: int = 1) -> dict[str, Any]:
    """All arms in all settings, seed by seed. The cache keeps results under what made them."""
    size, cache = SIZES[name], cache / made_by(name)
    People.of(size, cache, processes)
    People.others(size, cache, processes)
    warm_start(size, 0, cache, device_there())
    seeds = range(size.seeds)
    tasks = [
        *(Task(name, setting, arm, seed, cache) for seed in seeds for setting in SETTINGS for arm in (*ARMS, BAD)),
        *(Task(name, "all true", CEILING, seed, cache) for seed in seeds),
    ]  # fmt: skip
    for others in (True, False):
        material(name, cache, others=others)  # looks are made once, not by each process
    if processes == 1:
        found = [run(task) for task in tasks]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            list(pool.map(_begin, [name] * size.seeds, seeds, [cache] * size.seeds))
            found = list(pool.map(run, tasks))
    results = dict(zip(((t.setting, t.arm, t.seed) for t in tasks), found))

    def over_seeds(setting: str, arm: str, figure: str) -> list[float]:
        return [results[setting, arm, seed][figure] for seed in range(size.seeds)]

    return {
        "size": name,
        **{
            setting: {arm: {figure: over_seeds(setting, arm, figure) for figure in FIGURES} for arm in ARMS}
            for setting in SETTINGS
        },
        "bad_network": {setting: {figure: over_seeds(setting, BAD, figure) for figure in FIGURES} for setting in SETTINGS},
        "ceiling": {figure: over_seeds("all true", CEILING, figure) for figure in FIGURES[:2]},
        "calibration": {setting: {arm: results[setting, arm, 0]["calibration"] for arm in ("e", "f")} for setting in SETTINGS},
    }


def _begin(name: str, seed: int, cache: Path) -> None:
    beginning(name, seed, cache)


def markdown(result: dict[str, Any]) -> str:
    """Means over seeds."""
    lines = [
        "| setting | arm | network PA-MPJPE | network MPJPE | fits at first | fits at last |",
        "|---" * 6 + "|",
    ]
    for setting in SETTINGS:
        rows = {**result[setting], BAD: result["bad_network"][setting]}
        for arm, figures in rows.items():
            numbers = (f"{np.mean(figures[f]):.1f}" if None not in figures[f] else "" for f in FIGURES)
            lines.append(f"| {setting} | {arm} | " + " | ".join(numbers) + " |")
    known = (f"{np.mean(result['ceiling'][f]):.1f}" for f in FIGURES[:2])
    lines.append("| all true | " + " | ".join([CEILING, *known]) + " | | |")
    for setting, arms in result["calibration"].items():
        for arm, deciles in arms.items():
            pairs = ", ".join(f"{d['expected_mm']:.0f}/{d['true_mm']:.0f}" for d in deciles)
            lines.append(f"\n{setting} ({arm}), expected/true mm by decile: {pairs}")
    return "\n".join(lines)
