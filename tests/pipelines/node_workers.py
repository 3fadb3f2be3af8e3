"""What the tests of lost nodes run in a process of its own: a cluster of several nodes on this machine, one of which is killed.

Run as `python -m tests.pipelines.node_workers fit-static|train DATA FOLDER`. All nodes are of this process's making.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pipelines.fit_static
from pipelines.fit_static import fit_static
from pipelines.layout import DataFolder, RunFolder
from pipelines.train import train
from spin.fitting.fitter import FitConfig
from tests.pipelines.processes import descendants_of

CONFIG = FitConfig("lm", 20)


class Nodes:
    """A cluster: a head with `head` cores, and others of one core."""

    def __init__(self, head: int, others: int) -> None:
        from ray.cluster_utils import (
            Cluster,
        )  # not where this file is only imported: Ray reads its settings once

        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False}
        )
        self.others = [self.cluster.add_node(num_cpus=1) for _ in range(others)]
        self.cluster.wait_for_nodes()
        self.killed = 0

    def kill_one_that_runs(self, what: str) -> None:
        """Kills a node, at once and with all that runs on it, if one runs a process of this name; once."""
        for node in self.others:
            (raylet,) = node.all_processes["raylet"]
            if not self.killed and any(what in line for line in descendants_of(raylet.process.pid).values()):
                self.cluster.remove_node(node, allow_graceful=False)
                self.others.remove(node)
                self.killed += 1
                return


def lose_a_node_while_fitting(data: DataFolder) -> None:
    """Both cores' batches must go through the one that is left."""
    nodes = Nodes(head=1, others=1)
    record = pipelines.fit_static.RefusedLedger.record

    def record_and_kill(self: Any, fitted: Any) -> None:
        record(self, fitted)
        nodes.kill_one_that_runs("fit_batch")

    pipelines.fit_static.RefusedLedger.record = record_and_kill  # type: ignore[method-assign]
    done = fit_static(data, "world", CONFIG, batch=1, address=nodes.cluster.address)
    assert nodes.killed, "no node was killed, so nothing was tested"
    assert done.fitted == done.samples
    nodes.cluster.shutdown()


def lose_a_node_while_training(fitted: Path, folder: Path) -> None:
    """Twice the same training, of two workers; in the second the node of one is lost after a checkpoint."""
    from tests.pipelines import test_train_survives as survives

    nodes = Nodes(head=0, others=3)

    def run(name: str, watch: Callable[[RunFolder], None]) -> dict[str, Any]:
        data, run = DataFolder(shutil.copytree(fitted, folder / name)), RunFolder.of(folder, f"run-{name}")
        threading.Thread(target=watch, args=(run,), daemon=True).start()
        train(data, run, survives.CONFIG, resume=False, address=nodes.cluster.address)
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


if __name__ == "__main__":
    if sys.argv[1] == "fit-static":
        lose_a_node_while_fitting(DataFolder(Path(sys.argv[2])))
    else:
        lose_a_node_while_training(Path(sys.argv[2]), Path(sys.argv[3]))
