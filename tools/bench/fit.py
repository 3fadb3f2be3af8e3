"""How fast fits are made, against the published way in the same run. Prints one JSON line.

    python -m tools.bench.fit [--people 4096] [--threads N]

The reference is SPIN's SMPLify: two-stage Adam, 100 + 100 iterations, through smplx's full mesh with SMPL's 6,890 vertices
and its pose blend shapes, 64 people at a time. Both minimise the published objective on the same problems (people of the
pose prior, the 49 keypoints with 2 px noise) from the same start (the lifter's answer). Fits a second are medians.

The floor is what the solver's mathematics needs if every multiplication ran at the speed of a large matrix product here.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from spin.body import BodyData, BodyMesh, CompactBody, load_body
from spin.fitting import adam
from spin.fitting.fitter import BatchFitter, FitConfig
from spin.fitting.lifter import OPEN_LIFTER, load_lifter
from spin.fitting.objective import OBJECTIVES, body_weights, total_cost
from spin.fitting.observations import Observations
from spin.fitting.prior import PosePrior, load_pose_prior
from spin.fitting.sampling import PoseSource, draw_people
from spin.fitting.starts import Start, lifter_start
from spin.joints import JOINTS, KEYPOINT_TO_MODEL
from spin.rotations import axis_angle_to_matrix

if TYPE_CHECKING:
    from torch import Tensor

SMPL_VERTICES = 6890
REFERENCE_BATCH, REFERENCE_ITERATIONS = 64, 100
NOISE_PX = 2.0
MANY = 10_000  # fits in one call, for memory
PUBLISHED = OBJECTIVES["published"]


class MeshPoints(torch.nn.Module):
    """smplx's mesh in the place of the compact body: the published way to a keypoint."""

    def __init__(self, body: BodyData) -> None:
        super().__init__()
        self.mesh = BodyMesh(body)

    def forward(self, pose_aa: Tensor, betas: Tensor) -> Tensor:
        rotations = axis_angle_to_matrix(pose_aa.view(-1, 24, 3))
        posed = self.mesh.smpl(betas=betas, global_orient=rotations[:, :1], body_pose=rotations[:, 1:])
        extra = self.mesh.get_buffer("extra_regressor") @ posed.vertices
        return torch.cat([posed.joints[:, :35], extra], 1)

    def keypoints(self, points_m: Tensor) -> Tensor:
        return points_m[:, list(KEYPOINT_TO_MODEL)]


def with_vertices_of_smpl(body: BodyData) -> BodyData:
    """The same body with as many vertices as SMPL's, and pose blend shapes (of zeros): the same points for SMPL's work."""
    more = np.arange(SMPL_VERTICES - len(body.v_template)) % len(body.v_template)

    def padded(regressor: np.ndarray) -> np.ndarray:
        return np.concatenate([regressor, np.zeros((len(regressor), len(more)))], 1)

    return replace(
        body,
        v_template=np.concatenate([body.v_template, body.v_template[more]]),
        shapedirs=np.concatenate([body.shapedirs, body.shapedirs[more]]),
        posedirs=np.zeros((SMPL_VERTICES, 3, 207)),
        skin_weights=np.concatenate([body.skin_weights, body.skin_weights[more]]),
        joint_regressor=padded(body.joint_regressor),
        extra_regressor=padded(body.extra_regressor),
        h36m_regressor=padded(body.h36m_regressor),
    )


@dataclass(frozen=True)
class Problems:
    """Observations, and the start of every fit to it."""

    observations: Observations
    start: Start

    def take(self, count: int) -> Problems:
        rows = torch.arange(count) % len(self.observations)
        return Problems(self.observations.take(rows), self.start.take(rows))


def problems(body: CompactBody, prior: PosePrior, count: int, joints: tuple[int, ...]) -> Problems:
    generator = torch.Generator().manual_seed(0)
    people = draw_people(body, PoseSource(prior), count, generator, wild_share=0.0)
    keypoints = torch.zeros(count, JOINTS.count, 3)
    noise = NOISE_PX * torch.randn(count, len(joints), 2, generator=generator)
    keypoints[:, joints, :2] = people.pixels[:, joints] + noise
    keypoints[:, joints, 2] = 1
    observations = Observations.of(keypoints)
    lifter = load_lifter(OPEN_LIFTER, load_body().fingerprint)
    return Problems(observations, lifter_start(body, lifter, observations))


def seconds(work: Callable[[], object], runs: int) -> float:
    """Median wall-clock time, after one run that doesn't count."""
    work()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def floor_flops(observations: Observations, iterations: float) -> float:
    """Floating-point operations that a fit can't do without, on average over the samples.

    A step: the Cholesky factorisation (n³/3, n = 85) and two triangular solutions (2 n²); for every point seen, two rows of
    the 9 joints above it, 10 betas and 3 of translation, multiplied with themselves; the prior's precision times a vector
    (2 · 69²). A cost: the prior's eight components (8 · 69², triangular) and the body itself (24 joints and 64 pairs, some
    100 operations each). A first cost is needed before the first step.
    """
    seen = body_weights(observations.keypoints_px).gt(0)[:, 0]
    member = torch.zeros(JOINTS.count, max(KEYPOINT_TO_MODEL) + 1)
    member[torch.arange(JOINTS.count), list(KEYPOINT_TO_MODEL)] = 1
    points = ((seen.float() @ member) > 0).sum(1).float().mean().item()
    columns = 3 * 9 + 13
    step = 85**3 / 3 + 2 * 85**2 + points * 2 * columns**2 + 2 * 69**2
    cost = 8 * 69**2 + (24 + 64) * 100
    return iterations * step + (iterations + 1) * cost


def peak_flops() -> float:
    """Multiplications and additions a second in a large float32 matrix product, on the threads in use."""
    a = torch.randn(1536, 1536)
    return 2 * 1536**3 / seconds(lambda: a @ a, 5)


def peak_memory_mb() -> float:
    """Of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(people: int, runs: int) -> dict[str, float]:
    data, prior = load_body(), load_pose_prior()
    body = CompactBody(data)
    lifter = load_lifter(OPEN_LIFTER, data.fingerprint)
    many = problems(body, prior, people, tuple(range(JOINTS.count)))
    coco = problems(body, prior, people, JOINTS.coco)
    fitter = BatchFitter(body, prior, FitConfig(objective=PUBLISHED, init=("multistart",)))
    anchored = BatchFitter(body, prior, FitConfig(), lifter)

    large = many.take(MANY)
    fitter.fit(large.observations, [large.start])
    memory = peak_memory_mb()

    def speed(fit: Callable[[Problems], object], on: Problems, size: int) -> float:
        some = on.take(size)
        return size / seconds(lambda: fit(some), runs)

    def one_start(p: Problems) -> object:
        return fitter.fit(p.observations, [p.start])

    result = fitter.fit(many.observations, [many.start])
    ours = speed(one_start, many, people)
    out = {
        "fits_per_s": ours,
        "fits_per_s_coco": speed(one_start, coco, people),
        "fits_per_s_batch_64": speed(one_start, many, 64),
        "fits_per_s_batch_256": speed(one_start, many, 256),
        "fits_per_s_anchored_with_lifter_and_score": speed(lambda p: anchored.fit(p.observations), many, people),
        "fits_per_s_multistart": speed(lambda p: fitter.fit(p.observations), many, 512),
        "iterations": result.iterations.double().mean().item(),
        "peak_memory_mb": memory,
        "floor_share": floor_flops(many.observations, result.iterations.double().mean().item()) * ours / peak_flops(),
    }

    few = many.take(REFERENCE_BATCH)
    mesh = MeshPoints(with_vertices_of_smpl(data))
    begin = time.perf_counter()
    reference = adam.solve(
        mesh,  # type: ignore[arg-type]  # a body of other points, with the same call
        prior,
        PUBLISHED,
        replace(few.start, anchor=None),
        few.observations,
        iterations=REFERENCE_ITERATIONS,
    )
    reference_per_s = REFERENCE_BATCH / (time.perf_counter() - begin)
    mine = fitter.fit(few.observations, [few.start])
    with torch.no_grad():
        theirs = total_cost(body, prior, PUBLISHED, reference.pose_aa, reference.betas, reference.camera_m, few.observations)
    return {
        "reference_fits_per_s": reference_per_s,
        "ratio": ours / reference_per_s,
        "coco_ratio": out["fits_per_s_coco"] / reference_per_s,
        "multistart_ratio": out["fits_per_s_multistart"] / reference_per_s,
        "anchored_ratio": out["fits_per_s_anchored_with_lifter_and_score"] / reference_per_s,
        "reference_objective": theirs.double().mean().item(),
        "objective": mine.cost.double().mean().item(),
        "objective_share_lower": (mine.cost <= theirs * (1 + 1e-3)).double().mean().item(),
        **out,
    }


def main() -> None:
    """Command line: see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=4096, help="fits in the call that is timed")
    parser.add_argument("--threads", type=int, help="default: as many as torch takes")
    parser.add_argument("--runs", type=int, default=5, help="of which the median counts")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    found = measure(arguments.people, arguments.runs)
    print(json.dumps({"threads": torch.get_num_threads(), **{k: round(v, 3) for k, v in found.items()}}))


if __name__ == "__main__":
    main()
