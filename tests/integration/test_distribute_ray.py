"""``distribute`` onto a Ray cluster on this machine, whose nodes are processes with a cache each."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from tests.support.hub import hub_environment, run_python

from hf_haul.cluster import distribute
from hf_haul.localhub import LocalHub

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(240),  # Ray takes half a minute to begin where processors are few
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no ray (pip install hf-haul[ray])"),
]

#: In a process of its own: Ray's nodes listen on this machine's address, which tests stay away from.
PROGRAM = """
import json, logging, os, random, sys, threading, time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from hf_haul.cluster import distribute
from hf_haul.localhub import LocalHub, Repo

MiB = 1 << 20
FILES = {
    "model.safetensors": random.Random(1).randbytes(9 * MiB + 1),
    "more.bin": random.Random(2).randbytes(4 * MiB),
    "a.txt": b"a",
}
folder = sys.argv[1]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
for _ in range(2):
    cluster.add_node(num_cpus=1)
variables = {"PYTHONPATH": os.environ["PYTHONPATH"], "HF_HAUL_DURABLE": "0"}
ray.init(address=cluster.address, log_to_driver=False, runtime_env={"env_vars": variables})
repo = Repo("org/m")
repo.commit(FILES)
ended = []


def on_event(event):
    if event["ev"] in {"done", "error"}:
        ended.append(event.get("node"))


with LocalHub(repo) as hub:
    def run(place, **options):
        ended.clear()
        before = hub.body_bytes
        found = distribute(
            "ray", "org/m", cache_dir=f"{folder}/{place}", endpoint=hub.url, token=False,
            worker_timeout=5, on_event=on_event, **options,
        )
        paths = [result.path for result in found.nodes.values() if result.path]
        right = all(Path(p, name).read_bytes() == data for p in paths for name, data in FILES.items())
        print(json.dumps({
            "nodes": list(found.nodes), "errors": [str(error) for error in found.errors.values()],
            "sent": (hub.body_bytes - before) / sum(map(len, FILES.values())), "right": right,
            "ended": sorted(name for name in ended if name),
        }), flush=True)

    hub.set_pace(None, total=8 * MiB)
    run("a/{node}", per="worker")
    run("a/{node}", per="worker")
    run("b")
    extra = cluster.add_node(num_cpus=1)
    hub.set_pace(None, total=2 * MiB)
    before = hub.body_bytes

    def lose():
        while hub.body_bytes - before < 4 * MiB:
            time.sleep(0.05)
        cluster.remove_node(extra, allow_graceful=False)

    threading.Thread(target=lose, daemon=True).start()
    run("c/{node}", per="worker")
ray.shutdown()
cluster.shutdown()
"""


def test_the_nodes_of_ray_get_a_repository_once_and_one_that_is_lost_is_named(tmp_path: Path) -> None:
    with LocalHub() as hub:
        env = hub_environment(hub, tmp_path / "home", TMPDIR="/tmp")  # Ray's sockets need short names
    env.pop("NO_PROXY")  # Ray's own connections go by it, and fail
    done = run_python(PROGRAM, env, str(tmp_path / "caches"), timeout=220)
    assert done.returncode == 0, done.stderr[-5000:]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]  # Ray tells, too
    first, again, host, lost = told
    assert len(first["nodes"]) == 3
    assert first["ended"] == sorted(first["nodes"])
    assert first["sent"] <= 1.05
    assert again["sent"] <= 0.01
    assert (len(host["nodes"]), host["errors"]) == (1, [])
    assert len(lost["nodes"]) == 4
    assert len(lost["errors"]) == 1
    assert "its actor" in lost["errors"][0] or "has gone" in lost["errors"][0]
    assert lost["sent"] <= 1 + 2 / 4
    assert all(each["right"] for each in (first, again, host, lost))
    assert [first["errors"], again["errors"]] == [[], []]


def test_without_ray_init_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match=r"call ray.init\(\) first"):
        distribute("ray", "org/m")
