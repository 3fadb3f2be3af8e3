"""Which rule picks the better of two fits? And is the expected error that fits carry the error they have? One JSON line.

    python -m tools.bench.score_rules [--clips DIR_OR_TAR] [--people 512] [--markdown]

Fits of the same people (tools/bench/held_out.py; COCO's 17 keypoints, 2 px) from different starts, solvers and stages of a
network. For every two kinds of fit and every rule: how often the rule picks the fit with the lower PA-MPJPE, among people
whose two fits differ by more than 3 mm, and the mean error that it ends with. Then the calibration of the expected error:
mean expected and true error by decile of the expected one, over all fits that no network has had a hand in.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.objective import OBJECTIVES, reprojection_loss, total_cost
from spin.fitting.observations import Observations
from spin.fitting.scorer import FitScorer
from spin.fitting.starts import given_start, lifter_start
from tools.bench.held_out import Lab, add_clips, errors_of, keypoints_of, open_lab

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

DIFFERENT_MM = 3.0
NETWORKS_RAD = {"early network": 0.3, "network": 0.15, "late network": 0.08}
RULES = ("reprojection", "published objective", "anchored objective", "expected error")


class Bodies(NamedTuple):
    """Fits of one kind."""

    pose_aa: Tensor
    betas: Tensor
    camera_m: Tensor


def kinds_of_fit(lab: Lab, observations: Observations) -> dict[str, Bodies]:
    """Fits by name. A network's guess is the truth, disturbed: it sees the image, so it errs otherwise than the lifter."""
    anchored = BatchFitter(lab.body, lab.prior, FitConfig(), lab.lifter)
    published = BatchFitter(lab.body, lab.prior, FitConfig(objective=OBJECTIVES["published"], init=("multistart",)))
    lifted = lifter_start(lab.body, lab.lifter, observations)
    out = {"lifter": Bodies(lifted.pose_aa, lifted.betas, lifted.camera_m)}
    for name, fitter, starts in (
        ("multistart, published", published, None),
        ("lifter, anchored", anchored, [lifted]),
        ("lifter, published", published, [lifted]),
    ):
        fit = fitter.fit(observations, starts)
        out[name] = Bodies(fit.pose_aa, fit.betas, fit.camera_m)
    generator = torch.Generator().manual_seed(3)
    for name, error in NETWORKS_RAD.items():
        pose = lab.people.pose_aa + error * torch.randn(lab.people.pose_aa.shape, generator=generator)
        betas = (lab.people.betas + torch.randn(lab.people.betas.shape, generator=generator)).clamp(-3, 3)
        start = given_start(lab.body, pose, betas, observations, kind="network")
        for ending, fitter in (("anchored", anchored), ("published", published)):
            fit = fitter.fit(observations, [start])
            out[f"{name}, {ending}"] = Bodies(fit.pose_aa, fit.betas, fit.camera_m)
    return out


def scores_of(lab: Lab, observations: Observations, bodies: Bodies) -> dict[str, Float[np.ndarray, " B"]]:
    """What every rule says of fits."""
    scorer, published = FitScorer(lab.body, lab.lifter), OBJECTIVES["published"]
    anchor = lifter_start(lab.body, lab.lifter, observations).anchor
    points = lab.body(bodies.pose_aa, bodies.betas)
    keypoints = lab.body.keypoints(points)
    values = (
        reprojection_loss(published, keypoints, bodies.camera_m, observations),
        total_cost(lab.body, lab.prior, published, *bodies, observations),
        total_cost(lab.body, lab.prior, OBJECTIVES["anchored"], *bodies, observations, anchor),
        scorer.expected_error_mm(scorer.basis(observations), points, bodies.camera_m),
    )
    return {rule: value.numpy() for rule, value in zip(RULES, values)}


def main() -> None:
    """Command line: see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_clips(parser)
    parser.add_argument("--noise", type=float, default=2.0, help="of the keypoints, px")
    parser.add_argument("--markdown", action="store_true", help="tables instead of JSON")
    arguments = parser.parse_args()
    lab = open_lab(arguments.clips, arguments.people)
    observations = Observations.of(keypoints_of(lab.people, "coco17", arguments.noise))
    with torch.no_grad():
        fits = kinds_of_fit(lab, observations)
        scores = {name: scores_of(lab, observations, bodies) for name, bodies in fits.items()}
        errors = {name: errors_of(lab, *bodies, observations).pa_mpjpe_mm for name, bodies in fits.items()}
    pairs: list[dict[str, Any]] = [
        {"fits": [a, b], "pa_mpjpe_mm": [errors[a].mean(), errors[b].mean()]}
        | {rule: judged(scores[a][rule], scores[b][rule], errors[a], errors[b]) for rule in RULES}
        for a, b in combinations(fits, 2)
    ]
    overall = {
        rule: {key: float(np.mean([pair[rule][key] for pair in pairs])) for key in ("right", "pa_mpjpe_mm")} for rule in RULES
    }
    # What a network has had a hand in is corrected by what training measures of it, of which nothing is known here.
    scored_alone = [name for name in fits if "network" not in name]
    expected = np.concatenate([scores[name]["expected error"] for name in scored_alone])
    true = np.concatenate([errors[name] for name in scored_alone])
    result = {
        "overall": overall, "pairs": pairs, "calibration": calibration(expected, true)
    }  # fmt: skip
    print(markdown(result) if arguments.markdown else json.dumps(result, default=float))


def judged(a: np.ndarray, b: np.ndarray, error_a: np.ndarray, error_b: np.ndarray) -> dict[str, float]:
    differ = np.abs(error_a - error_b) > DIFFERENT_MM
    picks_b = b < a
    right = picks_b == (error_b < error_a)
    return {
        "right": float(right[differ].mean()) if differ.any() else 1.0,
        "pa_mpjpe_mm": float(np.where(picks_b, error_b, error_a).mean()),
    }


def calibration(expected: np.ndarray, true: np.ndarray) -> list[dict[str, float]]:
    """Means by decile of the expected error."""
    order = np.argsort(expected, kind="stable")
    return [
        {"expected_mm": float(expected[rows].mean()), "true_mm": float(true[rows].mean())} for rows in np.array_split(order, 10)
    ]


def markdown(result: dict[str, Any]) -> str:
    lines = ["| fits (PA-MPJPE mm) | " + " | ".join(RULES) + " |", "|---" * (len(RULES) + 1) + "|"]
    for pair in result["pairs"]:
        (a, b), (error_a, error_b) = pair["fits"], pair["pa_mpjpe_mm"]
        cells = (f"{pair[rule]['right']:.0%} → {pair[rule]['pa_mpjpe_mm']:.1f}" for rule in RULES)
        lines.append(f"| {a} ({error_a:.1f}) or {b} ({error_b:.1f}) | " + " | ".join(cells) + " |")
    means = (f"{m['right']:.0%} → {m['pa_mpjpe_mm']:.1f}" for m in result["overall"].values())
    lines += [
        "| mean of all pairs | " + " | ".join(means) + " |",
        "",
        "| decile | expected mm | true mm |",
        "|---|---|---|",
    ]
    for i, row in enumerate(result["calibration"]):
        lines.append(f"| {i + 1} | {row['expected_mm']:.1f} | {row['true_mm']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
