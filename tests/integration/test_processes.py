"""Several processes that want the same files: the bytes come once, and nobody waits for the dead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.children import Nursery, job_for
from tests.support.engine import SMALL, WEIGHTS, Rig, leftovers, serve_files
from tests.support.repos import contents, random_bytes
from tests.support.waits import until

from hf_haul.config import DEFAULT_TIMINGS, KiB, MiB, Timings

SIZE = 8 * MiB
PROCESSES = 8


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    more = {f"more/{i}.bin": random_bytes(300 * KiB, i) for i in range(6)}
    with serve_files(tmp_path / "out", weights=SIZE, more=more) as rig:
        rig.hub.set_pace(3 * MiB)
        yield rig


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("results")) as nursery:
        yield nursery


def _job(rig: Rig, *paths: str, **more: Any) -> dict[str, Any]:
    requests = [rig.request(path, headers={}) for path in paths or rig.files]
    return job_for(rig, *requests, part_size=MiB, chunk_size=64 * KiB, max_concurrent_downloads=4, **more)


def _all_whole(rig: Rig) -> bool:
    return all(rig.is_whole(path) for path in rig.files)


def _total(rig: Rig) -> int:
    return sum(len(data) for data in rig.files.values())


def test_eight_processes_fetch_every_byte_about_once_and_all_succeed(rig: Rig, nursery: Nursery) -> None:
    children = [nursery.start(_job(rig)) for _ in range(PROCESSES)]
    results = [child.wait() for child in children]
    assert [result["errors"] for result in results] == [{}] * PROCESSES
    assert _all_whole(rig)
    assert rig.left == []
    # Small files may be asked for twice, by a process that looked just before another published.
    assert sum(result["transferred"] for result in results) <= _total(rig) * 1.1


def test_the_files_are_shared_out_among_the_processes(rig: Rig, nursery: Nursery) -> None:
    children = [nursery.start(_job(rig)) for _ in range(4)]
    results = [child.wait() for child in children]
    assert len([result for result in results if result["transferred"]]) > 1


def test_a_process_that_waits_says_for_whom(rig: Rig, nursery: Nursery) -> None:
    first = nursery.start(_job(rig, WEIGHTS))
    assert rig.hub.requests.wait_for(lambda log: log.of("cdn", WEIGHTS))
    second = nursery.start(_job(rig, WEIGHTS))
    result = second.wait()
    assert first.wait()["errors"] == {}
    assert result["errors"] == {}
    assert result["transferred"] == 0
    # At the instant of publication the name may be gone already: then it is "another process".
    assert any(f"process {first.pid} " in waited_for for waited_for in result["waited_for"])


def test_when_the_process_that_fetches_is_killed_another_goes_on_where_it_was(
    rig: Rig, nursery: Nursery
) -> None:
    first = nursery.start(_job(rig, WEIGHTS))
    assert rig.hub.requests.wait_for(lambda log: log.of("cdn", WEIGHTS))
    others = [nursery.start(_job(rig, WEIGHTS)) for _ in range(3)]
    assert rig.hub.requests.wait_for(lambda _: rig.sent(WEIGHTS) > SIZE // 2)
    first.kill()
    results = [child.wait() for child in others]
    assert [result["errors"] for result in results] == [{}] * 3
    assert rig.is_whole(WEIGHTS)
    assert rig.left == []
    assert sum(result["transferred"] for result in results) < SIZE
    assert rig.sent(WEIGHTS) <= SIZE + 4 * (MiB + 768 * KiB)


def test_a_process_that_was_stopped_keeps_nobody_waiting_and_ends_well_when_it_goes_on(
    rig: Rig, nursery: Nursery
) -> None:
    first = nursery.start(_job(rig, WEIGHTS))
    records = SIZE + 512 + 2 * 20
    assert until(lambda: [name for name in rig.left if (rig.folder / name).stat().st_size >= records], 60)
    first.stop()
    second = nursery.start(_job(rig, WEIGHTS, timings=Timings(asleep=1.0)))
    result = second.wait()
    assert result["errors"] == {}
    assert result["over"]
    assert any(f"process {first.pid} " in waited_for for waited_for in result["waited_for"])
    assert rig.is_whole(WEIGHTS)
    assert result["transferred"] < SIZE, "what the first had was copied"
    first.go_on()
    assert first.wait()["errors"] == {}
    assert rig.is_whole(WEIGHTS)
    assert rig.left == []


@pytest.mark.parametrize(
    "pretend",
    [
        pytest.param((), id="as it is"),
        pytest.param(("locks always succeed",), id="locks lie"),
        pytest.param(("another container",), id="eight containers"),
        pytest.param(("another container", "locks always succeed"), id="eight containers, locks lie"),
        pytest.param(("another host", "locks always succeed"), id="eight hosts, locks lie"),
    ],
)
def test_eight_processes_and_three_of_them_killed(
    rig: Rig, nursery: Nursery, pretend: tuple[str, ...]
) -> None:
    """Where neither process ids nor locks tell, the age of a file does; here it need not be great."""
    timings = Timings(unseen=1.0) if len(pretend) > 1 else DEFAULT_TIMINGS
    job = _job(rig, pretend=pretend, timings=timings)
    children = [nursery.start(job) for _ in range(PROCESSES)]
    for victim, part in zip(children[:3], (5, 3, 2), strict=True):
        assert rig.hub.requests.wait_for(lambda _, part=part: rig.sent() > _total(rig) // part)
        victim.kill()
    results = [child.wait() for child in children[3:]]
    assert [result["errors"] for result in results] == [{}] * 5
    assert _all_whole(rig)
    assert rig.left == []


def test_processes_that_take_each_other_for_dead_waste_bytes_and_nothing_else(
    rig: Rig, nursery: Nursery
) -> None:
    """Worse than any file system: locks lie, and every other process seems long gone."""
    pretend = ("another host", "locks always succeed")
    job = _job(rig, WEIGHTS, SMALL, pretend=pretend, timings=Timings(unseen=0.0))
    children = [nursery.start(job) for _ in range(4)]
    results = [child.wait() for child in children]
    assert all(result["over"] for result in results)
    assert rig.is_whole(WEIGHTS)
    assert rig.is_whole(SMALL)
    for result in results:  # one that was robbed again and again may give up, but never lies
        assert all("StagedLostError" in error for error in result["errors"].values())


def test_eight_snapshots_into_one_cache_cross_the_network_once(
    rig: Rig, nursery: Nursery, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    arguments = {"repo_id": "org/m", "cache_dir": str(cache), "endpoint": rig.hub.url}
    job = job_for(rig, snapshot=arguments, part_size=MiB)
    children = [nursery.start(job) for _ in range(PROCESSES)]
    assert rig.hub.requests.wait_for(lambda _: rig.sent() > SIZE // 2)
    children[0].kill()
    folders = {child.wait()["folder"] for child in children[1:]}
    assert len(folders) == 1
    assert set(contents(Path(folders.pop()))) == set(rig.files)
    assert leftovers(cache) == []
    files = [record for record in rig.hub.requests if record.kind in {"cdn", "resolve-cache"}]
    assert sum(record.body_bytes for record in files) <= _total(rig) * 1.1 + 4 * (MiB + 768 * KiB)
