"""What goes first: urgent queues over running ones, urgent files, two lanes, and how many files are open."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import SMALL, WEIGHTS, Rig, leftovers, serve_files
from tests.support.repos import random_bytes
from tests.support.waits import SECOND, URGENT, WAITS, keep_waiting, until

from hf_haul.config import KiB, MiB
from hf_haul.localhub.requestlog import RequestLog
from hf_haul.task import DownloadPriority, DownloadState

HIGH, NORMAL, LOW = DownloadPriority
SIZE = 1024 * KiB
CHUNK = 16 * KiB
BIG = "big.bin"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    more = {URGENT: random_bytes(300 * KiB, 1), BIG: random_bytes(SIZE, 2)}
    with serve_files(tmp_path, weights=SIZE, more=more, lfs="direct") as made:
        yield made
        made.hub.requests.settle(2)


def asked_for(path: str) -> Callable[[RequestLog], object]:
    return lambda log: log.of(path=path)


@pytest.mark.parametrize("wait", [w for w in WAITS if w not in {"as the server asked", "in connect"}])
def test_an_urgent_queue_takes_over_from_every_wait_within_a_second(wait: str, tmp_path: Path) -> None:
    with keep_waiting(wait, tmp_path) as kept:
        urgent = kept.manager.submit([kept.rig.request(URGENT)], model_id="urgent", priority=HIGH)
        assert kept.rig.hub.requests.wait_for(asked_for(URGENT), SECOND)
        assert urgent.wait(5)
        assert urgent.errors() == []
        assert not kept.handle.wait(0)
        kept.release()
        assert kept.handle.wait(20), kept.handle.progress()
        assert kept.handle.errors() == []
        assert kept.rig.is_whole(WEIGHTS)


@pytest.mark.parametrize("connections", [1, 4])
def test_on_a_slow_link_an_urgent_queue_takes_over_and_the_other_loses_no_byte(
    rig: Rig, connections: int
) -> None:
    rig.hub.set_pace(None, total=800_000)
    options: dict[str, Any] = {"enable_adaptive_chunking": False, "chunk_size": CHUNK, "part_size": 256 * KiB}
    with rig.manager(max_concurrent_downloads=connections, **options) as manager:
        calm = manager.submit([rig.request(WEIGHTS)], model_id="calm", priority=LOW)
        assert until(lambda: calm.progress().connections == connections)
        assert until(lambda: calm.progress().bytes_transferred > connections * CHUNK)
        urgent = manager.submit([rig.request(URGENT)], model_id="urgent", priority=HIGH)
        assert rig.hub.requests.wait_for(asked_for(URGENT), SECOND)
        assert urgent.wait(20)
        rig.hub.set_pace(None)
        assert calm.wait(20)
        assert calm.errors() == []
        assert calm.progress().bytes_transferred == SIZE
    assert rig.is_whole(WEIGHTS)
    assert rig.hub.requests.settle()
    # What the hub has handed over and nobody has read: a read, and a slice of the hub's.
    assert rig.sent(WEIGHTS) - SIZE <= connections * (CHUNK + 800_000 // 20)


def test_an_urgent_large_file_gets_all_connections_within_a_second(rig: Rig) -> None:
    rig.hub.set_pace(None, total=400_000)
    with rig.manager(max_concurrent_downloads=4, part_size=256 * KiB) as manager:
        calm = manager.submit([rig.request(WEIGHTS)], model_id="calm", priority=LOW)
        assert until(lambda: calm.progress().connections == 4)
        urgent = manager.submit([rig.request(BIG)], model_id="urgent", priority=HIGH)
        assert until(lambda: urgent.progress().connections == 4, 2 * SECOND)
        assert calm.progress().connections == 0
        assert calm.progress().files_done == 0
        rig.hub.set_pace(None)
        assert urgent.wait(20)
        assert calm.wait(20)
    assert rig.is_whole(WEIGHTS)
    assert rig.is_whole(BIG)


def test_urgent_work_elsewhere_takes_nothing_from_a_source_with_its_own_connections(rig: Rig) -> None:
    rig.hub.set_pace(None, total=400_000)
    with rig.manager(max_concurrent_downloads=8, part_size=256 * KiB) as manager:
        calm = manager.submit([rig.request(WEIGHTS)], model_id="calm", priority=LOW)
        assert rig.hub.requests.wait_for(lambda log: len(log.of(path=WEIGHTS)) == 4)
        elsewhere = rig.request(URGENT, base=rig.hub.url.replace("127.0.0.1", "localhost"))
        manager.submit([elsewhere], model_id="urgent", priority=HIGH)
        assert rig.hub.requests.wait_for(asked_for(URGENT), SECOND)
        manager._scheduler.tick()
        assert not any(part.preempted for part in manager._scheduler._parts_of(calm._run))
        assert calm.progress().connections == 4
        assert len(rig.hub.requests.of(path=WEIGHTS)) == 4


def test_a_source_at_its_limit_makes_room_although_another_source_has_a_higher_one(rig: Rig) -> None:
    rig.hub.set_pace(None, total=200_000)
    with rig.manager(max_concurrent_downloads=32, part_size=256 * KiB) as manager:
        manager._scheduler._sources._controller("http://fast.test")._limit = 32
        calm = manager.submit([rig.request(WEIGHTS)], model_id="calm", priority=LOW)
        assert until(lambda: calm.progress().connections == 4)
        manager.submit([rig.request(URGENT)], model_id="urgent", priority=HIGH)
        assert rig.hub.requests.wait_for(asked_for(URGENT), SECOND)


def test_a_queue_can_be_made_urgent_while_it_waits(rig: Rig) -> None:
    rig.hub.set_pace(None, total=200_000)
    with rig.manager(max_concurrent_downloads=2, part_size=256 * KiB) as manager:
        calm = manager.submit([rig.request(WEIGHTS)], model_id="calm", priority=NORMAL)
        waiting = manager.submit([rig.request(URGENT)], model_id="waiting", priority=LOW)
        assert until(lambda: calm.progress().connections == 2 and waiting.progress().connections == 0)
        rig.hub.requests.clear()
        waiting.set_priority(HIGH)
        assert rig.hub.requests.wait_for(asked_for(URGENT), SECOND)


def test_a_paused_urgent_queue_takes_nothing(rig: Rig) -> None:
    rig.hub.set_pace(None, total=200_000)
    with rig.manager(max_concurrent_downloads=2, part_size=256 * KiB) as manager:
        calm = manager.submit([rig.request(WEIGHTS)], model_id="calm", priority=LOW)
        assert until(lambda: calm.progress().connections == 2)
        manager.pause_downloads()
        urgent = manager.submit([rig.request(URGENT)], model_id="urgent", priority=HIGH)
        urgent.pause()
        manager.resume_downloads()
        assert until(lambda: calm.progress().connections == 2)
        manager._scheduler.tick()
        assert not any(part.preempted for part in manager._scheduler._parts_of(calm._run))
        assert rig.hub.requests.of(path=URGENT) == []
        assert urgent.state is DownloadState.PAUSED


# ---- within a queue


def order_of(rig: Rig) -> list[str]:
    seen: dict[str, None] = {}
    for record in rig.hub.requests.of("resolve"):
        seen.setdefault(record.path)
    return list(seen)


def serve(stack: ExitStack, folder: Path, files: dict[str, bytes]) -> Rig:
    return stack.enter_context(serve_files(folder, weights=20 * KiB, more=files, lfs="direct"))


def test_metadata_goes_before_data_and_data_before_weights(tmp_path: Path) -> None:
    with ExitStack() as stack:
        rig = serve(stack, tmp_path, {"tokenizer.json": b"t" * 100, "image.png": b"p" * 50_000})
        with rig.manager(max_concurrent_downloads=1, initial_connections=1) as manager:
            wanted = [rig.request(p) for p in ("image.png", WEIGHTS, "tokenizer.json", SMALL)]
            assert manager.submit(wanted, model_id="m").wait(10)
        assert order_of(rig) == ["tokenizer.json", SMALL, WEIGHTS, "image.png"]


class LastNameFirst:
    """A user's own policy."""

    def __call__(self, path: str, size: int | None) -> tuple[DownloadPriority, tuple[Any, ...]]:
        return NORMAL, tuple(-ord(letter) for letter in path)


def by_length(path: str, size: int | None) -> tuple[DownloadPriority, tuple[Any, ...]]:
    return NORMAL, (len(path),)


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        pytest.param(LastNameFirst(), ["c", "bb", "aaa"], id="an object"),
        pytest.param(by_length, ["c", "bb", "aaa"], id="a function"),
    ],
)
def test_the_policy_can_be_replaced(tmp_path: Path, policy: Any, order: list[str]) -> None:
    with ExitStack() as stack:
        rig = serve(stack, tmp_path, {"aaa": b"1", "bb": b"22", "c": b"333"})
        rig.options = {"policy": policy}
        with rig.manager(max_concurrent_downloads=1, initial_connections=1) as manager:
            assert manager.submit([rig.request(p) for p in ("bb", "aaa", "c")], model_id="m").wait(10)
        assert order_of(rig) == order


def test_a_files_own_priority_beats_the_policy(tmp_path: Path) -> None:
    with ExitStack() as stack:
        rig = serve(stack, tmp_path, {"a.json": b"1", "b.bin": b"22", "c.json": b"333"})
        specs = [Spec("a.json", 1), Spec("b.bin", 2, HIGH), Spec("c.json", 3, LOW)]
        with rig.manager(max_concurrent_downloads=1, initial_connections=1) as manager:
            queue = manager.queue_model_download("m", specs, rig.url(""), tmp_path / "out")
            assert manager.wait_for_model_completion(queue, 10)["success"]
        assert order_of(rig) == ["a.json", "b.bin", "c.json"]


class Spec:
    """A file spec with a priority of its own."""

    def __init__(self, path: str, size: int, priority: DownloadPriority | None = None) -> None:
        self.path, self.size, self.priority = path, size, priority


def test_neither_lane_starves_the_other(tmp_path: Path) -> None:
    small = {f"s{i:03d}.png": random_bytes(2000, i) for i in range(60)}
    large = {f"large{i}.bin": random_bytes(4 * MiB + 1000, i) for i in range(2)}
    ends: list[str] = []
    lock = threading.Lock()

    def tell(progress: Any) -> None:
        if progress.status.final:
            with lock:
                ends.append(progress.file_path)

    with ExitStack() as stack:
        rig = serve(stack, tmp_path, {**small, **large})
        rig.hub.set_pace(4_000_000)
        rig.hub.set_latency(0.01)
        with rig.manager(max_concurrent_downloads=4, part_size=MiB) as manager:
            handle = manager.submit(
                [rig.request(p) for p in (*small, *large)], model_id="m", progress_callback=tell
            )
            both = rig.hub.requests.wait_for(lambda log: log.of(path="large*") and log.of(path="s0*"))
            assert both
            assert handle.wait(30)
            assert handle.errors() == []
        started: dict[str, float] = {}
        for record in rig.hub.requests.of("resolve"):
            started.setdefault(record.path, record.start)  # later ones are for its other parts
        first_large = min(started[p] for p in large)
        assert (
            sum(started[p] < first_large for p in small) < 20
        )  # the weights did not wait for all of the small
        first_end = min(ends.index(p) for p in large)
        assert sum(p in small for p in ends[:first_end]) >= 10  # nor the small for the weights


@pytest.mark.parametrize("most", [1, 3])
def test_open_staged_files_are_bounded_per_queue(tmp_path: Path, most: int) -> None:
    files = {f"f{i:02d}.bin": random_bytes(150 * KiB, i) for i in range(12)}
    with ExitStack() as stack:
        rig = serve(stack, tmp_path, files)
        rig.hub.set_latency(0.01)
        seen = 0
        with rig.manager(max_concurrent_files_per_model=most) as manager:
            handle = manager.submit([rig.request(p) for p in files], model_id="m")
            while not handle.wait(0.002):
                # Beside them there is, for a moment, what a file system is tried with.
                seen = max(seen, sum(not name.startswith(".probe.") for name in leftovers(tmp_path)))
            assert handle.errors() == []
        assert 1 <= seen <= most


def test_queues_of_one_priority_share_no_more_than_the_limit_and_all_finish(rig: Rig) -> None:
    with rig.manager(max_concurrent_downloads=3) as manager:
        handles = [
            manager.submit([rig.request(path)], model_id=path) for path in (WEIGHTS, BIG, URGENT, SMALL)
        ]
        for handle in handles:
            assert handle.wait(20)
            assert handle.errors() == []
    assert rig.hub.requests.settle()
    assert rig.hub.requests.peak() <= 3


def test_no_more_connections_than_the_pool_has(rig: Rig) -> None:
    rig.hub.set_latency(0.01)
    with rig.manager(connection_pool_size=2, max_concurrent_downloads=8, initial_connections=8) as manager:
        handle = manager.submit([rig.request(p) for p in (WEIGHTS, BIG, URGENT)], model_id="m")
        assert handle.wait(20)
        stats = manager.get_download_stats()
        assert stats["sources"][rig.hub.url]["maximum"] == 2
    assert rig.hub.requests.settle()
    assert rig.hub.requests.peak() <= 2
