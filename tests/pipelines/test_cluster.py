from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_example_cluster_is_one_that_ray_up_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert {"type", "region"} <= set(config["provider"]) and config["auth"]["ssh_user"]
    assert not {"ssh_private_key", "KeyName"} & set(config["auth"])
    prepared = prepare_config(config)
    # What the provider would look up for these machines when it is asked.
    for name, node in prepared["available_node_types"].items():
        node.setdefault("resources", {"CPU": 16} | ({"GPU": 1} if name == "trainer" else {}))
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert prepared["head_node_type"] == "head" and types["head"]["max_workers"] == 0
    # The code asks for CPU and GPU, nothing of its own: any other name here would be one that nothing uses.
    assert {r for node in types.values() for r in node["resources"]} <= {"CPU", "GPU"}
    assert sum(n["max_workers"] for n in types.values()) <= prepared["max_workers"]
    assert any("dashboard-host=127.0.0.1" in c for c in prepared["head_start_ray_commands"])
    assert types["fitter"]["min_workers"] and types["trainer"]["min_workers"]
