"""What the tests of lost nodes run in a process of its own: a cluster of several nodes on this machine, one of which is killed.

Run as `python -m tests.pipelines.node_workers fit-static|eval|train DATA FOLDER`. All nodes are of this process's making.
"""

from __future__ import annotations

import math
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import pipelines.cluster.waiting
import pipelines.evaluation.evaluate
import pipelines.rejections
from pipelines.errors import StageError
from pipelines.evaluation.evaluate import EvaluationConfig, evaluate
from pipelines.evaluation.subjects import checkpoint_subject
from pipelines.fitting.fit_static import fit_static
from pipelines.folders import DataFolder, RunFolder
from pipelines.training.run import train
from spin.fitting.fitter import FitConfig
from spin.network.checkpoints import Checkpoint, save_checkpoint
from spin.network.hmr import HMR, MeanParameters
from tests.pipelines.processes import descendants_of

CONFIG = FitConfig("lm", 20)


class Nodes:
    """A cluster: a head with `head` cores, and others of one core."""

    def __init__(self, head: int, others: int) -> None:
        from ray.cluster_utils import (
            Cluster,
        )  # not where this file is only imported: Ray reads its settings once

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False})
        self.others = [self.cluster.add_node(num_cpus=1) for _ in range(others)]
        self.cluster.wait_for_nodes()
        self.killed = 0

    def kill_one_that_runs(self, what: str) -> None:
        """Kills a node, at once and with all that runs on it, if one runs a process of this name; once."""
        for node in self.others:
            (raylet,) = node.all_processes["raylet"]
            if not self.killed and any(what in line for line in descendants_of(raylet.process.pid).values()):
                self.kill(node)
                return

    def kill(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)
        self.others.remove(node)
        self.killed += 1


def lose_a_node_while_fitting(data: DataFolder) -> None:
    """Both cores' batches must go through the one that is left."""
    nodes = Nodes(head=1, others=1)
    record = pipelines.rejections.RejectedLedger.record

    def record_and_kill(self: Any, samples: Any, verdicts: Any) -> None:
        record(self, samples, verdicts)
        nodes.kill_one_that_runs("fit_batch")

    pipelines.rejections.RejectedLedger.record = record_and_kill  # type: ignore[method-assign]
    done = fit_static(data, "world", CONFIG, batch=1, address=nodes.cluster.address)
    assert nodes.killed, "no node was killed, so nothing was tested"
    assert done.fitted == done.samples
    nodes.cluster.shutdown()


def lose_a_node_while_training(fitted: Path, folder: Path) -> None:
    """Twice the same training, of two workers; in the second the node of one is lost after a checkpoint."""
    from tests.pipelines.training import test_train_survives as survives

    nodes = Nodes(head=0, others=3)
    config = replace(survives.CONFIG, max_steps=15)  # not over before the kill, however busy the machine

    def run(name: str, watch: Callable[[RunFolder], None]) -> dict[str, Any]:
        data, run = DataFolder(shutil.copytree(fitted, folder / name)), RunFolder.of(folder, f"run-{name}")
        threading.Thread(target=watch, args=(run,), daemon=True).start()
        train(data, run, config, resume=False, address=nodes.cluster.address)
        return survives.state(data, run)

    def kill(run: RunFolder) -> None:
        while not nodes.killed:
            if run.checkpoint(3).exists():
                nodes.kill_one_that_runs("RayTrainWorker")
            time.sleep(0.05)

    undisturbed = run("undisturbed", lambda _: None)
    survived = run("survived", kill)
    assert nodes.killed, "no node was killed, so nothing was tested"
    survives.assert_same(survived, undisturbed)
    nodes.cluster.shutdown()


def lose_a_node_while_measuring(data: DataFolder, folder: Path) -> None:
    """The only one with a core: that is said, and what the next one measures is what one process measures.

    When none is left and none comes, the command ends with a line.
    """
    nodes, said = Nodes(head=0, others=1), list[str]()
    network = HMR("resnet18", mean=MeanParameters.from_body_pose(torch.zeros(69)))
    save_checkpoint(folder / "net.pt", Checkpoint(model=network.state_dict(), config={"img_res": 32}))

    def measured(address: str | None) -> dict[str, float]:
        subject, config = (
            checkpoint_subject(folder / "net.pt"),
            EvaluationConfig(workers=1, batch=1, log_every=1),
        )
        return evaluate(data, "world-test", subject, folder / "out.json", config=config, address=address).metrics

    def lose(_: str) -> None:
        if not nodes.killed:
            nodes.kill(nodes.others[0])

    def replace_it(line: str) -> None:
        said.append(line)
        if not nodes.others:
            nodes.others.append(nodes.cluster.add_node(num_cpus=1))

    alone = measured(None)
    pipelines.evaluation.evaluate.say = lose  # type: ignore[attr-defined]  # of a shard that is done
    pipelines.cluster.waiting.say = replace_it  # type: ignore[attr-defined]
    pipelines.cluster.waiting.SILENT_S = 5.0
    found = measured(nodes.cluster.address)
    # Not bit for bit: this process computes on more threads.
    assert found.keys() == alone.keys()
    assert all(math.isclose(found[name], alone[name], rel_tol=1e-4) for name in alone), (found, alone)
    assert nodes.killed and "eval world-test: nothing done" in said[0], said
    assert "needs 1 CPU, the cluster has 0 CPU" in said[0]

    nodes.kill(nodes.others[0])
    pipelines.cluster.waiting.NO_PLACE_S = 12.0
    pipelines.cluster.waiting.say = said.append  # type: ignore[attr-defined]
    try:
        measured(nodes.cluster.address)
        raise AssertionError("it was measured on no node")
    except StageError as error:
        assert "waited 0.2 minutes for 1 CPU, and the cluster has 0 CPU" in str(error), error
    nodes.cluster.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "fit-static":
        lose_a_node_while_fitting(DataFolder(Path(sys.argv[2])))
    elif sys.argv[1] == "eval":
        lose_a_node_while_measuring(DataFolder(Path(sys.argv[2])), Path(sys.argv[3]))
    else:
        lose_a_node_while_training(Path(sys.argv[2]), Path(sys.argv[3]))
