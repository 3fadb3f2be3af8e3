"""How training workers find each other: through a file on this machine, so that nothing listens beyond loopback.

Ray's own way, torch's TCP store, listens on every interface; it is used on clusters only. Each time Ray starts the workers,
first or again, they get a new incarnation (see `pipelines.cluster.incarnation`).
"""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

from pipelines.cluster.incarnation import set_incarnation


@dataclass(kw_only=True)
class RendezvousConfig(TorchConfig):
    """`folder` holds the files by which local workers meet; without one they meet in Ray's way."""

    folder: str | None = None

    @property
    def backend_cls(self) -> type[Backend]:
        return _Rendezvous


class _Rendezvous(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        name, world = uuid.uuid4().hex, len(worker_group)
        worker_group.execute(set_incarnation, name)
        if backend_config.folder is None:
            TorchConfig().backend_cls().on_start(worker_group, TorchConfig())
        elif world > 1:
            url = f"file://{backend_config.folder}/rendezvous-{name}"
            gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
            ray.get(
                [
                    worker_group.execute_single_async(rank, _join, url, rank, world, "nccl" if gpu else "gloo")
                    for rank in range(world)
                ]
            )

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_leave)


def _join(url: str, rank: int, world: int, backend: str) -> None:
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.update(GLOO_SOCKET_IFNAME=loopback, NCCL_SOCKET_IFNAME=loopback)
    torch.distributed.init_process_group(backend, init_method=url, rank=rank, world_size=world)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
