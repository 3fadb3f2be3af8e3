"""Fit the open pose prior: a mixture of 8 Gaussians over SMPL's 69 body-pose angles, from CMU motion capture.

    python -m tools.build_pose_prior --clips CLIPS --out spin/assets/open_pose_prior.npz

CLIPS is a folder of BVH, ASF + AMC and exponential-map clips, or a tar archive of one. Two builds of the same
clips give the same file. Data from mocap.cs.cmu.edu, funded by NSF EIA-0196217; no pose is kept.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import solve_triangular
from scipy.spatial import cKDTree

from spin.joints import SMPL_MIRROR, SMPL_NAMES
from tools.cmu_motion import HELD_OUT, Motion, load_poses

if TYPE_CHECKING:
    from jaxtyping import Float

NAME = "open-pose-prior-1"
N_COMPONENTS = 8
N_ANGLES = 69
_BODY_FILE = Path(__file__).resolve().parents[1] / "spin" / "assets" / "open_body.npz"

# The share of the training mass of each kind of motion: what people do in photographs, not what was recorded.
SHARES = {
    "walking": (0.26, ("seq/walking", "seq/walking_extra", "amc/03")),
    "running": (0.04, ("seq/running",)),
    "directing traffic": (0.13, ("seq/directing_traffic",)),
    "washing a window": (0.07, ("seq/washwindow",)),
    "basketball": (0.13, ("seq/basketball", "seq/basketball_signal")),
    "jumping": (0.05, ("seq/jumping",)),
    "climbing, sitting, swinging": (0.12, ("amc/01",)),
    "dance": (0.14, ("bvh/salsa", "bvh/indian")),
    "martial arts": (0.06, ("bvh/martial",)),
}
_N_SAMPLES = 20_000
_N_NEIGHBOURS = 15
_N_STARTS = 4
_MAX_ITERATIONS = 120

# Added to each angle's variance: what retargeting can't tell, and more where the clips hardly move a joint.
_FLOOR_RAD2 = np.full((23, 3), 5e-3)
_FLOOR_RAD2[[SMPL_NAMES.index(f"{side} {part}") - 1 for side in ("left", "right") for part in ("hand", "foot")]] = 1e-2


@dataclass(frozen=True)
class Mixture:
    """Gaussians over body-pose axis-angles, as SMPLify's gmm_08.pkl has them."""

    weights: Float[np.ndarray, " K"]
    means: Float[np.ndarray, "K 69"]
    covars: Float[np.ndarray, "K 69 69"]

    def log_joint(self, poses: Float[np.ndarray, "N 69"]) -> Float[np.ndarray, "N K"]:
        """Logarithm of weight times density, for each component."""
        columns = []
        for weight, mean, covar in zip(self.weights, self.means, self.covars):
            factor = np.linalg.cholesky(covar)
            whitened = solve_triangular(factor, (poses - mean).T, lower=True)
            log_scale = np.log(np.diag(factor)).sum() + 0.5 * N_ANGLES * np.log(2 * np.pi)
            columns.append(np.log(weight) - 0.5 * (whitened**2).sum(0) - log_scale)
        return np.stack(columns, 1)

    def log_likelihood(self, poses: Float[np.ndarray, "N 69"]) -> Float[np.ndarray, " N"]:
        return np.logaddexp.reduce(self.log_joint(poses), axis=1)


def with_mirror_images(body_pose_aa: Float[np.ndarray, "N 69"]) -> Float[np.ndarray, "2N 69"]:
    """The poses, then each one seen in a mirror."""
    joints = body_pose_aa.reshape(-1, 23, 3)
    swap = np.array(SMPL_MIRROR)[1:] - 1
    return np.concatenate([joints, joints[:, swap] * (1, -1, -1)]).reshape(-1, N_ANGLES)


def _sampling_weights(poses: np.ndarray, activity: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, " N"]:
    """Probability of each training pose: the activity's share, spread so that rare poses count for more."""
    weights = np.zeros(len(poses))
    for share, folders in SHARES.values():
        rows = np.flatnonzero(np.isin(activity, folders))
        if not len(rows):
            continue
        subset = poses[rng.choice(rows, min(len(rows), 6000), replace=False)]
        neighbours = min(_N_NEIGHBOURS, len(subset) - 1)
        distance = cKDTree(subset).query(poses[rows], k=neighbours + 1)[0][:, -1]
        weights[rows] = share * distance / distance.sum()
    return weights / weights.sum()


def _initial_responsibilities(poses: np.ndarray, rng: np.random.Generator) -> Float[np.ndarray, "N K"]:
    """A few rounds of k-means from k-means++ seeds."""
    centres = poses[rng.integers(len(poses), size=1)]
    for _ in range(N_COMPONENTS - 1):
        nearest = cKDTree(centres).query(poses)[0] ** 2
        centres = np.concatenate([centres, poses[rng.choice(len(poses), size=1, p=nearest / nearest.sum())]])
    for _ in range(15):
        label = cKDTree(centres).query(poses)[1]
        centres = np.stack([poses[label == k].mean(0) if (label == k).any() else centres[k] for k in range(N_COMPONENTS)])
    return np.eye(N_COMPONENTS)[label]


def fit_mixture(poses: Float[np.ndarray, "N 69"], rng: np.random.Generator) -> tuple[Mixture, float]:
    """Expectation maximisation from one random start: the mixture and its mean log likelihood."""
    responsibility = _initial_responsibilities(poses, rng)
    floor = np.diag(_FLOOR_RAD2.ravel())
    last = -np.inf
    for _ in range(_MAX_ITERATIONS):
        count = responsibility.sum(0) + 1e-9
        means = responsibility.T @ poses / count[:, None]
        covars = np.stack(
            [((responsibility[:, k, None] * (poses - m)).T @ (poses - m)) / count[k] + floor for k, m in enumerate(means)]
        )
        mixture = Mixture(count / count.sum(), means, covars)
        log_joint = mixture.log_joint(poses)
        log_likelihood = np.logaddexp.reduce(log_joint, axis=1)
        responsibility = np.exp(log_joint - log_likelihood[:, None])
        if log_likelihood.mean() - last < 1e-3:
            break
        last = float(log_likelihood.mean())
    return mixture, float(log_likelihood.mean())


def build(motion: Motion, seed: int) -> Mixture:
    """Sample the training poses by activity and rarity, and keep the best of a few fits."""
    rng = np.random.default_rng(seed)
    held_out = np.isin(motion.activity, HELD_OUT)
    body_pose_aa = motion.pose_aa[:, 3:].astype(np.float64)
    train, activity = body_pose_aa[~held_out], motion.activity[~held_out]
    weights = _sampling_weights(train, activity, rng)
    rows = rng.choice(len(train), _N_SAMPLES // 2, p=weights)
    for name, (_, folders) in SHARES.items():
        print(f"  {name}: {np.isin(activity[rows], folders).mean():.1%} of the training poses")
    poses = with_mirror_images(train[rows])
    fits = []
    for start in range(_N_STARTS):
        fits.append(fit_mixture(poses, rng))
        print(f"start {start + 1} of {_N_STARTS}: log likelihood {fits[-1][1]:.2f} per training pose")
    best, log_likelihood = max(fits, key=lambda fit: fit[1])
    print(f"log likelihood per pose: training {log_likelihood:.2f}, ", end="")
    print(f"held out {best.log_likelihood(with_mirror_images(body_pose_aa[held_out])).mean():.2f}")
    print(f"component weights: {np.round(best.weights, 3).tolist()}")
    return best


def main() -> None:
    """Command line: see --help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=Path, required=True, help="folder of motion clips, or a tar archive of one")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    parser.add_argument("--body", type=Path, default=_BODY_FILE, help="body that the clips are retargeted to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with np.load(arguments.body, allow_pickle=False) as body:
        rest_joints_m = body["J_regressor"].astype(np.float64) @ body["v_template"].astype(np.float64)
    motion = load_poses(arguments.clips, rest_joints_m)
    print(f"{len(motion.pose_aa)} poses; left out {motion.broken_frames} glitches", end=" ")
    print(f"and {len(motion.unreadable)} unreadable clips", *motion.unreadable, sep="\n  ")
    mixture = build(motion, arguments.seed)
    np.savez_compressed(
        arguments.out,
        allow_pickle=False,
        name=np.array(NAME),
        weights=mixture.weights.astype(np.float32),
        means=mixture.means.astype(np.float32),
        covars=mixture.covars.astype(np.float32),
    )
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
