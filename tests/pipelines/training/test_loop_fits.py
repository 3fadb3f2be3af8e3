"""What the loop measures of its network, over the workers' batches together."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from pipelines.folders import DataFolder
from pipelines.training.config import TrainConfig
from pipelines.training.loading import TrainingData
from pipelines.training.loop_fits import LoopFits
from spin.training.targets import GroundTruth
from spin.training.trust import Trust
from store.annotations.table import Annotations

CONFIG = TrainConfig(datasets=("world-test",), smplify_iterations=2)
# Of each rank, in each step. In the last one all that is known is on one rank.
STEPS = (([0, 1, 2], [3, 4, 5]), ([6], [7]), ([0, 5], []))


def learnt(data: DataFolder, steps: list[list[int]], rank: int, world: int, meet: str) -> list[torch.Tensor]:
    """The trust after each step of a rank whose batches hold these rows; a prediction is the truth, turned a little."""
    torch.set_num_threads(1)
    if world > 1:
        from pipelines.training.rendezvous import _join  # in the ranks' own processes: it imports Ray

        _join(meet, rank, world, "gloo")
    known = TrainingData([Annotations.read(data.annotations("world-test"))], img_res=32, ignore_3d=False)
    people = known.sets[0]
    loop, found = LoopFits(data, CONFIG, torch.device("cpu"), world), []
    for rows in steps:
        batch = torch.tensor([*rows, 0])  # and one whose truth isn't held_out
        held_out = torch.arange(len(batch)) < len(rows)
        truth = GroundTruth(torch.from_numpy(people.pose)[batch], torch.from_numpy(people.betas)[batch], held_out)
        fit = loop.of_batch(known.crops.take(batch), truth)
        fit(
            truth.pose_aa * 1.1,
            truth.betas,
            torch.zeros(len(batch), 3),
            torch.from_numpy(known.keypoints)[batch],
        )
        loop.learn()
        found.append(loop.state["trust"])
    return found


def test_two_workers_learn_the_same_and_what_one_would_of_both_their_batches(preprocessed: Path, tmp_path: Path) -> None:
    data, meet = DataFolder(preprocessed), f"file://{tmp_path}/meet"
    alone = learnt(data, [a + b for a, b in STEPS], 0, 1, meet)  # first: it has the solver compiled
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as ranks:
        answers = [ranks.submit(learnt, data, [s[r] for s in STEPS], r, 2, meet) for r in (0, 1)]
        first, second = (answer.result(timeout=120) for answer in answers)
    for mine, other, wanted in zip(first, second, alone, strict=True):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-6)
    counts = [float(Trust.of_vector(vector).count) for vector in first]
    assert 5 < counts[0] <= 6 < counts[1] <= 8 < counts[2] <= 10, "what is known was not measured"
    assert float(Trust.of_vector(first[-1]).share.max()) > 0.1
