"""How near fits are to the truth, on poses that neither prior nor lifter was trained on. Prints one JSON line.

    python -m tools.bench.fit_accuracy [--clips DIR_OR_TAR] [--people 512] [--reference]

`coco17_2px`, `all_0px`, `joints3d` (COCO's 17 and 24 exact 3D joints) and `views4` (COCO's 17 in four cameras) are what
`fit-static` makes by default. `table` has every keypoint set and noise, from every start: the lifter's own answer
('lifter'), the default fit ('anchored'), and the published objective from the lifter's answer and from several mean poses
('published', 'multistart'). With --reference also the published solver, Adam 100 + 100, from the mean pose and from the
lifter's answer ('adam', 'adam_from_lifter'). tools/bench/held_out.py states the protocol.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import torch

from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.objective import OBJECTIVES
from spin.fitting.observations import Observations
from spin.fitting.starts import lifter_start, mean_pose_starts
from tools.bench.held_out import (
    NOISES_PX,
    SETS,
    Errors,
    Lab,
    add_clips,
    errors_of,
    four_views,
    keypoints_of,
    open_lab,
    with_joints3d,
)

PUBLISHED = OBJECTIVES["published"]


def by_default(lab: Lab, observations: Observations) -> Errors:
    """Errors of what `fit-static` makes."""
    fit = BatchFitter(lab.body, lab.prior, FitConfig(), lab.lifter).fit(observations)
    return errors_of(lab, fit.pose_aa, fit.betas, fit.camera_m, observations)


def by_start(lab: Lab, observations: Observations, *, reference: bool) -> Iterator[tuple[str, Errors]]:
    """Errors from every start."""
    with torch.no_grad():
        lifted = lifter_start(lab.body, lab.lifter, observations)
        mean = mean_pose_starts(lab.body, lab.prior, observations, (0.0,))[0]
    yield "lifter", errors_of(lab, lifted.pose_aa, lifted.betas, lifted.camera_m, observations)
    yield "anchored", by_default(lab, observations)
    published = BatchFitter(lab.body, lab.prior, FitConfig(objective=PUBLISHED, init=("multistart",)))
    adam = BatchFitter(lab.body, lab.prior, FitConfig("adam", 100, PUBLISHED, init=("multistart",)))
    made = [("published", published, [lifted]), ("multistart", published, None)]
    if reference:
        made += [("adam", adam, [mean]), ("adam_from_lifter", adam, [lifted])]
    for name, fitter, starts in made:
        fit = fitter.fit(observations, starts)
        yield name, errors_of(lab, fit.pose_aa, fit.betas, fit.camera_m, observations)


def main() -> None:
    """Command line: see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_clips(parser)
    parser.add_argument("--reference", action="store_true", help="also the published solver (slow)")
    arguments = parser.parse_args()
    lab = open_lab(arguments.clips, arguments.people)
    table = []
    for name in SETS:
        for noise in NOISES_PX:
            observations = Observations.of(keypoints_of(lab.people, name, noise))
            for start, found in by_start(lab, observations, reference=arguments.reference):
                table.append({"keypoints": name, "noise_px": noise, "fit": start, **found.means()})
    result = {
        "people": arguments.people,
        "coco17_2px": by_default(lab, Observations.of(keypoints_of(lab.people, "coco17", 2.0))).means(),
        "all_0px": by_default(lab, Observations.of(keypoints_of(lab.people, "all", 0.0))).means(),
        "joints3d": by_default(lab, with_joints3d(lab, 2.0, 0.0)).means(),
        "joints3d_10mm": by_default(lab, with_joints3d(lab, 2.0, 0.01)).means(),
        "views4": by_default(lab, four_views(lab, 2.0)).means(),
        "table": table,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
