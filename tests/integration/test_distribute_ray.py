"""``distribute`` onto a Ray cluster on this machine, whose nodes are processes with a cache each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.events import EventLog, validate_event
from tests.support.repos import random_bytes

from hf_haul.cluster import Distribution, distribute
from hf_haul.config import MiB
from hf_haul.localhub import LocalHub, Repo

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default", "error:::hf_haul"),  # what Ray says of itself is its own business
]

ray = pytest.importorskip("ray", reason="pip install hf-haul[ray]")

NODES = 3
FILES = {
    "model.safetensors": random_bytes(9 * MiB + 1, 1),
    "more.bin": random_bytes(4 * MiB, 2),
    "a.txt": b"a",
}
SIZE = sum(map(len, FILES.values()))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    here = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 100 * MiB}
    cluster = Cluster(initialize_head=True, head_node_args={**here, "include_dashboard": False})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(**here)
        ray.init(
            address=cluster.address,
            log_to_driver=False,
            runtime_env={
                "env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "HF_HAUL_DURABLE": "0"}
            },
        )
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    repo = Repo("org/m")
    repo.commit(FILES)
    with LocalHub(repo) as hub:
        hub.set_pace(None, total=8 * MiB)
        yield hub


def run(hub: LocalHub, folder: Path, **options: Any) -> Distribution:
    common = {"cache_dir": f"{folder}/{{node}}", "endpoint": hub.url, "token": False, "worker_timeout": 5.0}
    return distribute("ray", "org/m", **{"per": "worker", **common, **options})


def sent(hub: LocalHub) -> int:
    assert hub.requests.settle()
    kinds = {"cdn", "resolve", "resolve-cache"}
    return sum(record.body_bytes for record in hub.requests if record.kind in kinds)


def test_each_node_of_ray_gets_all_and_the_origin_sends_it_once(
    cluster: Any, hub: LocalHub, tmp_path: Path
) -> None:
    log = EventLog()
    found = run(hub, tmp_path, on_event=log)
    found.raise_for_errors()
    assert len(found.nodes) == NODES
    for result in found.nodes.values():
        assert result.path is not None
        assert {name: Path(result.path, name).read_bytes() for name in FILES} == FILES
    assert sent(hub) <= 1.05 * SIZE
    for event in log.events:
        validate_event(event)
    assert {event["node"] for event in log.of("done") if "node" in event} == set(found.nodes)
    again = run(hub, tmp_path)
    assert (again.origin_bytes, again.peer_bytes) == (0, 0)


def test_instances_of_one_host_and_cache_are_one_node(cluster: Any, hub: LocalHub, tmp_path: Path) -> None:
    found = run(hub, tmp_path, per="host")
    found.raise_for_errors()
    assert len(found.nodes) == 1


def test_one_that_is_lost_is_named_and_the_others_finish(cluster: Any, hub: LocalHub, tmp_path: Path) -> None:
    import threading

    from tests.support.waits import until

    extra = cluster.add_node(node_ip_address="127.0.0.1", num_cpus=1, object_store_memory=100 * MiB)
    hub.set_pace(None, total=3 * MiB)

    def lose() -> None:
        assert until(lambda: hub.body_bytes > SIZE / 3, 60)
        cluster.remove_node(extra, allow_graceful=False)

    losing = threading.Thread(target=lose)
    losing.start()
    found = run(hub, tmp_path)
    losing.join(30)
    assert len(found.nodes) == NODES + 1
    assert len(found.errors) == 1
    assert sent(hub) <= (1 + 2 / NODES) * SIZE


def test_without_ray_init_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match=r"call ray.init\(\) first"):
        distribute("ray", "org/m")
