"""Agents in processes of their own, which get one repository together; the origin counts what it sends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.support.hub import sent_of_files
from tests.support.node_processes import TOKEN, NodeProcess, NodeProcesses
from tests.support.repos import random_bytes
from tests.support.waits import until

from hf_haul.cluster.plan import JobPlan, make_plan
from hf_haul.config import KiB, MiB
from hf_haul.localhub import LocalHub, Repo

FILES = {
    "model-1.safetensors": random_bytes(7 * MiB + 1, 1),
    "model-2.safetensors": random_bytes(5 * MiB, 2),
    "copy/model-2.safetensors": random_bytes(5 * MiB, 2),
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
}
SIZE = sum(map(len, dict.fromkeys(FILES.values(), 1)))
STRIPE = 128 * KiB
PACE = 8.0 * MiB  # bytes per second of the origin
#: What the origin may send of each byte: where several processes share two processors with others, one may be
#: held up for so long that the others take it for slow, and fetch some of what is its to fetch.
ONCE = 1.3


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    repo = Repo("org/m")
    repo.commit(FILES)
    with LocalHub(repo) as made:
        made.set_pace(None, total=PACE)
        yield made


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[NodeProcesses]:
    with NodeProcesses(tmp_path / "nodes") as made:
        yield made


def plan_for(hub: LocalHub, count: int, **options: Any) -> JobPlan:
    names = [f"n{number}" for number in range(count)]
    return make_plan("org/m", nodes=names, endpoint=hub.url, token=False, stripe_bytes=STRIPE, **options)


def is_whole(folder: str | Path) -> bool:
    return all(Path(folder, path).read_bytes() == data for path, data in FILES.items())


def finish(*nodes: NodeProcess) -> list[dict[str, Any]]:
    results = [node.result() for node in nodes]
    for node, result in zip(nodes, results, strict=True):
        assert result["error"] is None, node.log
        assert is_whole(result["path"])
    return results


@pytest.mark.parametrize("count", [3, 6])
def test_the_origin_sends_each_byte_once(hub: LocalHub, nodes: NodeProcesses, count: int) -> None:
    plan = plan_for(hub, count)
    with nodes.running(plan) as started:
        results = finish(*started.values())
    assert sent_of_files(hub) <= ONCE * SIZE
    assert sum(result["origin_bytes"] for result in results) == pytest.approx(
        sent_of_files(hub), abs=2 * STRIPE
    )
    for result in results:
        assert result["origin_bytes"] + result["peer_bytes"] >= SIZE
        assert result["present_bytes"] == 0
        assert 0 < result["seconds"] < 60
        assert result["last"]["ev"] == "done"
    asked = [record.kind for record in hub.requests if record.kind in {"info", "tree"}]
    assert asked == ["info", "tree"]  # the plan, and nobody else


def test_files_and_their_metadata_are_as_any_download_leaves_them(
    hub: LocalHub, nodes: NodeProcesses, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    plan = plan_for(hub, 2)
    with nodes.running(plan) as started:
        finish(*started.values())
    hub.close()
    for name in plan.nodes:
        folder = snapshot_download("org/m", cache_dir=nodes.cache(name), local_files_only=True)
        assert is_whole(folder)
        assert list(nodes.cache(name).glob("*/blobs/*.incomplete")) == []
        assert (nodes.cache(name) / "models--org--m" / "refs" / "main").read_text() == plan.commit


def test_a_local_dir_takes_part_like_a_cache(hub: LocalHub, nodes: NodeProcesses, tmp_path: Path) -> None:
    plan = plan_for(hub, 2)
    first = nodes.start(plan, "n0", local_dir=tmp_path / "plain")
    second = nodes.start(plan, "n1")
    members = {"n0": first.url, "n1": second.url}
    for node in (first, second):
        node.run(members)
    results = finish(first, second)
    assert results[0]["path"] == str(tmp_path / "plain")
    assert sent_of_files(hub) <= ONCE * SIZE


def test_who_has_not_the_jobs_token_gets_nothing_and_learns_nothing(
    hub: LocalHub, nodes: NodeProcesses
) -> None:
    plan = plan_for(hub, 2)
    with nodes.running(plan) as started:
        results = finish(*started.values())
        etag = next(iter(plan.blobs()))[0]
        base = f"{started['n0'].url}/haul/v1"
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            for tail in (
                "health",
                f"jobs/{plan.job_id}/state",
                f"jobs/{plan.job_id}/plan",
                f"jobs/{plan.job_id}/blobs/{etag}",
            ):
                answer = requests.get(f"{base}/{tail}", headers=headers, timeout=10)
                assert answer.status_code == 401
                assert plan.job_id not in answer.text
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert requests.get(f"{base}/health", headers=right, timeout=10).json()["job"] == plan.job_id
        stranger = nodes.start(plan, "n9", token="another")
        stranger.run({name: node.url for name, node in started.items()})
        assert "refuses this node's token" in stranger.log or until(
            lambda: "refuses this node's token" in stranger.log
        )
        assert stranger.result()["peer_bytes"] == 0  # it was left alone, and asked the origin
        assert TOKEN not in stranger.log + "".join(node.log for node in started.values())
    assert results


def test_one_that_is_killed_costs_no_more_than_its_share_twice(hub: LocalHub, nodes: NodeProcesses) -> None:
    plan = plan_for(hub, 4)
    with nodes.running(plan) as started:
        victim = started["n1"]
        assert until(lambda: hub.body_bytes > SIZE / 2, 30.0)
        victim.kill()
        finish(*(node for node in started.values() if node is not victim))
    assert sent_of_files(hub) <= (1 + 2 / 4) * SIZE + STRIPE


def test_who_comes_late_takes_nothing_from_the_origin(hub: LocalHub, nodes: NodeProcesses) -> None:
    plan = plan_for(hub, 3)
    with nodes.running(plan) as started:
        finish(*started.values())
        before = sent_of_files(hub)
        late = nodes.start(plan, "late")
        late.run({"n1": started["n1"].url})  # it learns of the others, and they of it
        result = finish(late)[0]
        assert sent_of_files(hub) == before
        assert (result["origin_bytes"], result["present_bytes"]) == (0, 0)
        late.close()


def test_a_second_run_takes_nothing_from_anybody(hub: LocalHub, nodes: NodeProcesses) -> None:
    plan = plan_for(hub, 3)
    with nodes.running(plan) as started:
        finish(*started.values())
    before = sent_of_files(hub)
    with nodes.running(plan) as started:
        for result in finish(*started.values()):
            assert (result["origin_bytes"], result["peer_bytes"]) == (0, 0)
            assert result["present_bytes"] == SIZE
    assert sent_of_files(hub) == before


def test_a_node_that_lost_its_cache_gets_it_from_the_others(
    hub: LocalHub, nodes: NodeProcesses, tmp_path: Path
) -> None:
    plan = plan_for(hub, 3)
    with nodes.running(plan) as started:
        finish(*started.values())
    before = sent_of_files(hub)
    nodes.cache("n1").rename(tmp_path / "lost")
    with nodes.running(plan) as started:
        results = finish(*started.values())
    assert sent_of_files(hub) == before
    assert [result["origin_bytes"] for result in results] == [0, 0, 0]


def test_after_all_were_killed_only_what_nobody_had_is_fetched(hub: LocalHub, nodes: NodeProcesses) -> None:
    plan = plan_for(hub, 3)
    with nodes.running(plan, max_concurrent_downloads=4) as started:
        assert until(lambda: hub.body_bytes > SIZE / 2, 30.0)
        for node in started.values():
            node.kill()
    first = sent_of_files(hub)
    assert first < 0.95 * SIZE, "the kill came too late to tell anything"
    with nodes.running(plan) as started:
        results = finish(*started.values())
    # Of what was under way when they were killed, each connection may lose what it had not written yet.
    assert sent_of_files(hub) <= ONCE * SIZE + 12 * STRIPE
    assert sum(result["present_bytes"] for result in results) > 0


def test_a_node_that_has_wrong_bytes_is_named_and_all_others_have_the_right_ones(
    hub: LocalHub, nodes: NodeProcesses
) -> None:
    plan = plan_for(hub, 3)
    with nodes.running(plan) as started:
        finish(*started.values())
    blob = next(path for path in nodes.cache("n1").glob("*/blobs/*") if path.stat().st_size == 7 * MiB + 1)
    data = bytearray(blob.read_bytes())
    data[3 * MiB] ^= 0xFF  # its disk has changed a byte, and nobody has noticed
    blob.write_bytes(data)
    for name in ("n0", "n2"):
        nodes.cache(name).rename(nodes.cache(name).with_name(f"{name}-before"))
    with nodes.running(plan) as started:
        results = [started[name].result() for name in ("n0", "n2")]
        logs = [started[name].log for name in ("n0", "n2")]
        for result in results:
            assert result["error"] is None
            assert is_whole(result["path"])
        liar = started["n1"].url
    assert any(liar in log and "wrong" in log for log in logs), "\n".join(logs)


def test_one_whose_disk_is_full_says_so_and_the_others_end(hub: LocalHub, nodes: NodeProcesses) -> None:
    plan = plan_for(hub, 3)
    full = nodes.start(plan, "n1", room=3 * MiB)
    others = [nodes.start(plan, name) for name in ("n0", "n2")]
    members = {node.name: node.url for node in (full, *others)}
    for node in (full, *others):
        node.run(members)
    finish(*others)
    failed = full.result()
    assert failed["path"] is None
    assert failed["error"]["kind"] == "disk"
    assert "space" in failed["error"]["message"]
    assert any("n1 cannot get all files" in node.log for node in others)
    assert sent_of_files(hub) <= (1 + 2 / 3) * SIZE + 2 * STRIPE


def test_what_a_node_fetches_from_others_does_not_count_for_its_bandwidth(
    hub: LocalHub, nodes: NodeProcesses
) -> None:
    hub.set_pace(None)
    plan = plan_for(hub, 2)
    first = nodes.start(plan, "n0")
    first.run({"n0": first.url})
    first.result()
    second = nodes.start(plan, "n1", max_bandwidth_bps=100 * KiB)  # all of it would take two minutes
    second.run({"n0": first.url, "n1": second.url})
    assert finish(second)[0]["seconds"] < 30
