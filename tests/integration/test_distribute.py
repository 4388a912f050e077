"""``distribute`` onto six Dask workers, each a process with a cache of its own; the origin counts what it sends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from tests.support import dask_workers
from tests.support.events import EventLog, validate_event
from tests.support.hub import sent_of_files
from tests.support.repos import random_bytes
from tests.support.waits import until
from tests.support.wants import want_modules

from hf_haul.cluster import Distribution, distribute
from hf_haul.config import MiB
from hf_haul.failures import FailureKind, describe
from hf_haul.localhub import LocalHub, Repo

want_modules("distributed", extra="dask")

import dask  # noqa: E402  after the look whether it is there
from distributed import Client, LocalCluster  # noqa: E402  the same

pytestmark = [
    pytest.mark.filterwarnings("default", "error:::hf_haul"),  # what Dask says of itself is its own business
    pytest.mark.skipif(os.name == "nt", reason="processes are killed and stopped by signals"),
    pytest.mark.slow,
]

NODES = 6
FILES = {
    "model-1.safetensors": random_bytes(11 * MiB + 1, 1),
    "model-2.safetensors": random_bytes(9 * MiB, 2),
    "model-3.safetensors": random_bytes(4 * MiB, 3),
    "copy/model-3.safetensors": random_bytes(4 * MiB, 3),
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
}
SIZE = sum(map(len, dict.fromkeys(FILES.values())))
#: Bytes per second: of the origin, and of what each node sends.
UPLINK, NODE = 16 * MiB, 32 * MiB


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        dask.config.set(dask_workers.NO_PROFILER),
        LocalCluster(
            n_workers=NODES,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
            env={"HF_HAUL_DURABLE": "0"},
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(NODES, timeout=60)
        yield client


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    repo = Repo("org/m")
    repo.commit(FILES)
    with LocalHub(repo) as hub:
        hub.set_pace(None, total=UPLINK)
        yield hub


class Job:
    """Calls ``distribute`` for one cache directory."""

    def __init__(self, client: Client, hub: LocalHub, folder: Path) -> None:
        self.client, self.hub, self.folder = client, hub, folder
        self.log = EventLog()

    def run(self, **options: Any) -> Distribution:
        return distribute(
            self.client,
            "org/m",
            **{
                "cache_dir": f"{self.folder}/{{node}}",
                "per": "worker",
                "endpoint": self.hub.url,
                "token": False,
                "max_send_rate": NODE,
                "on_event": self.log,
                "worker_timeout": 20.0,
                **options,
            },
        )

    @property
    def sent(self) -> int:
        """Bytes of files that the origin has sent."""
        return sent_of_files(self.hub)

    def workers(self) -> dict[str, str]:
        """Addresses by the end of a node's name."""
        known: Mapping[str, Any] = self.client.scheduler_info()["workers"]
        return {str(worker["name"]): address for address, worker in known.items()}

    def on(self, name: str, function: Any, *arguments: Any) -> Any:
        """Call a function on a worker."""
        address = self.workers()[name]
        return self.client.run(function, *arguments, workers=[address])[address]


@pytest.fixture
def job(client: Client, hub: LocalHub, tmp_path: Path) -> Job:
    return Job(client, hub, tmp_path / "caches")


def require_whole(found: Distribution, *failed: str) -> None:
    """Every node, but those that failed, has right files in an ordinary cache."""
    for name, result in found.nodes.items():
        if name.rpartition("-")[2] in failed:
            assert result.error is not None
            continue
        assert result.error is None, (name, result.error)
        assert result.path is not None
        for path, data in FILES.items():
            assert Path(result.path, path).read_bytes() == data, (name, path)


def test_the_origin_sends_each_byte_once_and_all_is_there(job: Job) -> None:
    found = job.run()
    require_whole(found)
    assert len(found.nodes) == NODES
    # tests/benchmarks/real_swarm.py measures the time.
    assert job.sent <= 1.05 * SIZE
    assert found.origin_bytes == pytest.approx(job.sent, rel=0.01)
    asked = [record.kind for record in job.hub.requests if record.kind in {"info", "tree"}]
    assert asked == ["info", "tree"]
    job.hub.close()
    for name, result in found.nodes.items():
        cache = job.folder / name
        assert (
            huggingface_hub.snapshot_download("org/m", cache_dir=cache, local_files_only=True) == result.path
        )
        assert list(cache.glob("*/blobs/*.incomplete")) == []


def test_events_of_all_nodes_come_to_one_place(job: Job) -> None:
    found = job.run()
    for event in job.log.events:
        validate_event(event)
    of_all = [event for event in job.log.events if "node" not in event]
    assert (of_all[0]["ev"], of_all[-1]["ev"]) == ("plan", "done")
    assert of_all[0]["bytes"] == NODES * sum(map(len, FILES.values()))
    assert of_all[-1]["fetched"] == found.origin_bytes + found.peer_bytes
    assert {event["node"] for event in job.log.of("done") if "node" in event} == set(found.nodes)


def test_a_second_run_and_one_that_joins_take_nothing_from_the_origin(
    job: Job, cluster: LocalCluster
) -> None:
    job.run()
    before = job.sent
    again = job.run()
    require_whole(again)
    assert (again.origin_bytes, again.peer_bytes, job.sent) == (0, 0, before)
    assert all(result.present_bytes == SIZE for result in again.nodes.values())
    cluster.scale(NODES + 1)
    try:
        job.client.wait_for_workers(NODES + 1, timeout=60)
        joined = job.run()
        require_whole(joined)
        assert len(joined.nodes) == NODES + 1
        assert (joined.origin_bytes, job.sent) == (0, before)
    finally:
        cluster.scale(NODES)
        assert until(lambda: len(job.workers()) == NODES, 30)


def test_a_worker_that_joins_meanwhile_is_a_node_too_and_takes_nothing_from_the_origin(
    job: Job, cluster: LocalCluster
) -> None:
    job.hub.set_pace(None, total=UPLINK / 4)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(job.run)
        assert until(lambda: job.hub.body_bytes > SIZE / 4, 30)
        cluster.scale(NODES + 1)
        try:
            found = running.result(60)
        finally:
            cluster.scale(NODES)
            assert until(lambda: len(job.workers()) == NODES, 30)
    require_whole(found)
    assert len(found.nodes) == NODES + 1
    late = found.nodes[list(found.nodes)[-1]]
    assert late.origin_bytes == 0
    assert job.sent <= 1.05 * SIZE


def test_one_that_is_killed_comes_back_and_costs_no_more_than_its_share_twice(job: Job) -> None:
    job.hub.set_pace(None, total=UPLINK / 2)
    victim = job.on("2", dask_workers.pid)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(job.run)
        assert until(lambda: job.hub.body_bytes > SIZE / 2, 30)
        os.kill(victim, signal.SIGKILL)
        found = running.result(60)
    require_whole(found)
    assert job.sent <= (1 + 2 / NODES) * SIZE
    assert job.on("2", dask_workers.pid) != victim


def test_after_all_were_killed_a_second_call_takes_up_what_is_there(job: Job) -> None:
    job.run(allow_patterns="model-1.safetensors")
    before = job.sent
    job.hub.set_pace(None, total=UPLINK / 2)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(job.run, worker_timeout=0.0)
        assert until(lambda: job.hub.body_bytes > before + 4 * MiB, 30)
        for each in job.client.run(dask_workers.pid).values():
            os.kill(each, signal.SIGKILL)
        failed = running.result(60)
    assert len(failed.errors) == NODES
    assert "has gone" in str(failed.errors.popitem()[1])
    killed = job.sent
    assert until(lambda: len(job.workers()) == NODES, 60)
    found = job.run()
    require_whole(found)
    assert job.sent - killed <= 1.05 * (SIZE - before)


def test_a_node_with_wrong_bytes_is_found_out_and_the_others_have_right_ones(job: Job) -> None:
    found = job.run()
    wrong = next(name for name in found.nodes if name.endswith("-1"))
    path = found.nodes[wrong].path
    assert path is not None
    blob = Path(path, "model-1.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 0xFF
    blob.chmod(0o644)
    blob.write_bytes(data)
    for name in found.nodes:
        if name != wrong:
            (job.folder / name).rename(job.folder / f"{name}-before")
    again = job.run()
    for name, result in again.nodes.items():
        if name != wrong:
            assert result.error is None
            assert result.path is not None
            assert Path(result.path, "model-1.safetensors").read_bytes() == FILES["model-1.safetensors"]


def restarted(job: Job, name: str) -> None:
    """End a worker's process, and wait for the one that takes its place."""
    address = job.workers()[name]
    os.kill(job.client.run(os.getpid, workers=[address])[address], signal.SIGKILL)
    assert until(lambda: job.workers().get(name) not in {None, address}, 60)


def test_a_worker_without_hf_haul_is_named_in_a_line_and_the_others_finish(job: Job) -> None:
    job.on("4", dask_workers.forget_hf_haul)
    try:
        found = job.run()
    finally:
        restarted(job, "4")
    require_whole(found, "4")
    (error,) = found.errors.values()
    assert str(error).startswith("hf-haul is not installed there")


def test_a_full_disk_is_the_error_of_its_node_and_the_others_finish(job: Job) -> None:
    job.on("5", dask_workers.fill_disk, 3 * MiB)
    try:
        found = job.run()
    finally:
        restarted(job, "5")
    require_whole(found, "5")
    (error,) = found.errors.values()
    assert describe(error).kind is FailureKind.DISK
    assert job.sent <= (1 + 2 / NODES) * SIZE


def test_a_slow_node_is_whole_in_the_end_and_the_others_do_not_wait_for_it(job: Job) -> None:
    only = "model-1.safetensors"
    job.on("3", dask_workers.slow_down, NODE // 32)
    try:
        found = job.run(allow_patterns=only)
    finally:
        restarted(job, "3")
    assert not found.errors
    for result in found.nodes.values():
        assert result.path is not None
        assert Path(result.path, only).read_bytes() == FILES[only]
    (slow,) = (name for name in found.nodes if name.endswith("-3"))
    assert all(each.seconds < found.nodes[slow].seconds for name, each in found.nodes.items() if name != slow)
    # tests/benchmarks/real_swarm.py measures how little it delays them.
    assert job.sent <= (1 + 2 / NODES) * len(FILES[only]), "at the most what it was to fetch came twice"


def test_one_that_is_frozen_meanwhile_does_not_hold_up_the_others_and_goes_on_afterwards(job: Job) -> None:
    job.hub.set_pace(None, total=UPLINK / 4)
    frozen = job.on("1", dask_workers.pid)
    addresses = job.workers()
    others = [name for name in addresses if name != "1"]
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(job.run)
        assert until(lambda: job.hub.body_bytes > SIZE / 2, 30)
        os.kill(frozen, signal.SIGSTOP)
        try:
            assert until(
                lambda: (
                    len({event["node"] for event in job.log.of("done") if "node" in event}) >= len(others)
                ),
                60,
            )
            assert not running.done()
        finally:
            os.kill(frozen, signal.SIGCONT)
        found = running.result(60)
    require_whole(found)
    assert job.on("1", dask_workers.pid) == frozen
    assert job.sent <= (1 + 2 / NODES) * SIZE


def test_an_interrupt_ends_all_nodes_within_a_moment(job: Job) -> None:
    job.hub.set_pace(None, total=UPLINK / 4)
    sent_at: list[float] = []

    def interrupt() -> None:
        assert until(lambda: job.hub.body_bytes > SIZE / 4, 30)
        sent_at.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        interrupted = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            job.run()
        ended = time.monotonic()
        interrupted.result(30)
    assert ended - sent_at[0] < 2.5, "a second for the nodes, and one for the terminal"
    assert until(lambda: not any(job.client.run(dask_workers.threads_of_nodes).values()), 10)
    assert until(
        lambda: not job.client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)), 10
    )
    job.hub.set_pace(None)
    again = job.run()
    require_whole(again)
    assert any(result.present_bytes for result in again.nodes.values()), "what was there is fetched again"
