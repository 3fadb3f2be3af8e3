"""The paper's claim, and this project's: does a loop of fits and network teach more than fits that stay? One JSON line.

    python -m tools.bench.claims [--size cpu|gpu|toy] [--cache DIR] [--processes 2] [--markdown]

Trains on the embedded world (tools/bench/claims_people.py), equal budget, same network start, in two settings: `mixed`, where a
quarter of the samples carry true 3D, and `only2d`. Arms: (a) reprojection loss only (and what truth there is); (b) static fits
from mean-pose starts, fixed; (c) the loop as published from those fits: Adam 100 + 100, reprojection rule; (d) this project's
loop from those fits; (e) this project's static fits (lifter, anchored), fixed; (f) this project's loop from (e).

Of each setting and arm, a list over seeds: `network_pa_mpjpe_mm` and `network_mpjpe_mm` on people that nobody trained on,
`fits_start_pa_mpjpe_mm` and `fits_end_pa_mpjpe_mm` on the training samples without truth. `bad_network`: how arm (f)'s fits
fare beside a network that answers nonsense. `calibration`: expected and true error of the stored fits, by decile of the
expected one. Results are kept in the cache as they come; run again, it goes on where it was. docs/loop.md has a run's figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.bench.claims_arms import ARMS, SETTINGS, Experiment, Fitting
from tools.bench.claims_people import SIZES, Looks, People, warm_start
from tools.bench.score_rules import calibration

BAD = "bad network"
FIGURES = ("network_pa_mpjpe_mm", "network_mpjpe_mm", "fits_start_pa_mpjpe_mm", "fits_end_pa_mpjpe_mm")


@dataclass(frozen=True)
class Task:
    """A training. The arm `BAD` is (f) beside a network that answers nonsense and doesn't learn."""

    size: str
    setting: str
    arm: str
    seed: int
    cache: Path

    @property
    def path(self) -> Path:
        name = f"{self.size}-{self.setting}-{self.arm.replace(' ', '_')}-{self.seed}.json"
        return self.cache / "results" / name


@lru_cache(maxsize=1)
def _material(size: str, cache: Path) -> tuple[People, Fitting]:
    people = People.of(SIZES[size], cache)
    return people, Fitting(people, SIZES[size])


def run(task: Task) -> dict[str, Any]:
    """What the training gave, from its file if it was run before."""
    if task.path.is_file():
        return json.loads(task.path.read_text())
    torch.set_num_threads(1)
    size, device = SIZES[task.size], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    people, fitting = _material(task.size, task.cache)
    network = warm_start(people, size, task.seed, task.cache, device)
    looks = None if size.width is None else Looks.of(people, size, network, task.cache)
    bad = task.arm == BAD
    if bad:
        torch.nn.init.normal_(network.decpose.weight, std=0.2)
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(
            people, size, fitting, network, setting=task.setting, arm="f" if bad else task.arm, seed=task.seed,
            folder=Path(folder) / "fits", looks=looks, learns=not bad,
        )  # fmt: skip
        result = experiment.run(size.steps // 4 if bad else size.steps)
        if task.arm in ("d", "e", "f"):
            expected, true = experiment.expected_and_true_mm()
            result["calibration"] = calibration(expected, true)
    task.path.parent.mkdir(parents=True, exist_ok=True)
    task.path.write_text(json.dumps(result))
    return result


def main() -> None:
    """Command line: see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument(
        "--cache", type=Path, default=Path("claims"), help="pictures, and results as they come"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--markdown", action="store_true", help="tables instead of JSON")
    arguments = parser.parse_args()
    result = claims(arguments.size, arguments.cache.resolve(), arguments.processes)
    print(markdown(result) if arguments.markdown else json.dumps(result))


def claims(name: str, cache: Path, processes: int = 1) -> dict[str, Any]:
    """All arms in all settings, seed by seed."""
    size = SIZES[name]
    people = People.of(size, cache, processes)
    network = warm_start(people, size, 0, cache, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if size.width is not None:
        Looks.of(people, size, network, cache)
    tasks = [
        Task(name, setting, arm, seed, cache)
        for seed in range(size.seeds)
        for setting in SETTINGS
        for arm in (*ARMS, BAD)
    ]
    if processes == 1:
        found = [run(task) for task in tasks]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
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
        "bad_network": {
            setting: {figure: over_seeds(setting, BAD, figure) for figure in FIGURES} for setting in SETTINGS
        },
        "calibration": {
            setting: {arm: results[setting, arm, 0]["calibration"] for arm in ("e", "f")}
            for setting in SETTINGS
        },
    }


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
    for setting, arms in result["calibration"].items():
        for arm, deciles in arms.items():
            pairs = ", ".join(f"{d['expected_mm']:.0f}/{d['true_mm']:.0f}" for d in deciles)
            lines.append(f"\n{setting} ({arm}), expected/true mm by decile: {pairs}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
