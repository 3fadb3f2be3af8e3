"""Train the shipped lifter of the open body, on samples of the open prior and poses of CMU clips.

    python -m tools.build_lifter --clips CLIPS --out spin/assets/open_lifter.npz

The scorer is calibrated on samples of the prior and on poses of subject 02, which the lifter has never seen.

CLIPS is a folder of BVH, ASF + AMC and exponential-map clips, or a tar archive of one. The activities that accuracy is
measured on (tools.cmu_motion.HELD_OUT) are left out. Data from mocap.cs.cmu.edu, funded by NSF EIA-0196217; no pose is kept.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from spin.body import CompactBody, load_body
from spin.fitting.lifter import LifterInfo, load_lifter, save_lifter
from spin.fitting.lifter_training import BLOCKS, WIDTH, train_lifter
from spin.fitting.prior import load_pose_prior
from spin.fitting.sampling import PoseSource
from spin.fitting.scorer_calibration import calibrate
from tools.cmu_motion import HELD_OUT, load_poses

CALIBRATION = "amc/02"  # of the activities that are held out


def main() -> None:
    """Command line: see --help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=Path, required=True, help="folder of motion clips, or a tar archive of one")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="LIFTER",
        help="don't train: calibrate the scorer of this lifter anew",
    )
    arguments = parser.parse_args()
    data = load_body()
    body = CompactBody(data)
    motion = load_poses(arguments.clips, body.rest_joints.numpy())
    poses = motion.pose_aa[~np.isin(motion.activity, HELD_OUT)][:, 3:]
    prior = load_pose_prior()
    source = PoseSource(prior, poses)
    info = LifterInfo(
        data.fingerprint,
        arguments.steps,
        arguments.seed,
        f"open-pose-prior, {len(poses)} of CMU",
        WIDTH,
        BLOCKS,
    )
    begin = time.perf_counter()

    def progress(step: int, figures: dict[str, float]) -> None:
        if step % 500 == 0:
            words = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(f"step {step}, {time.perf_counter() - begin:.0f} s: {words}", flush=True)

    if arguments.calibrate:
        lifter = load_lifter(arguments.calibrate, data.fingerprint)
    else:
        lifter = train_lifter(body, source, info, progress=progress)
    unseen = PoseSource(prior, motion.pose_aa[motion.activity == CALIBRATION][:, 3:])
    calibrate(body, prior, lifter, unseen, arguments.seed)
    with arguments.out.open("wb") as handle:
        save_lifter(handle, lifter)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
