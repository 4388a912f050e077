"""Killed at any moment, any number of times: the next run goes on, fetches next to nothing twice, and leaves nothing."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.children import Child, Nursery, job_for
from tests.support.engine import SMALL, WEIGHTS, Rig, serve_files
from tests.support.repos import random_bytes
from tests.support.waits import until

from hf_haul.config import DEFAULT_TIMINGS, KiB, MiB, Timings
from hf_haul.manager import ParallelDownloadManager

SIZE = 12 * MiB
CONNECTIONS = 4
#: Bytes per second and connection: the hub's pace keeps the kernel's buffers small, too.
PACE = 3 * MiB
#: What one kill may cost: per connection 1 MiB, and what was in the kernels' buffers.
COST = CONNECTIONS * (MiB + 768 * KiB)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path / "out", weights=SIZE) as rig:
        rig.hub.set_pace(PACE)
        rig.settings = replace(
            rig.settings, part_size=2 * MiB, chunk_size=64 * KiB, max_concurrent_downloads=CONNECTIONS
        )
        yield rig


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("results")) as nursery:
        yield nursery


def _job(rig: Rig, *paths: str, **more: object) -> dict[str, object]:
    requests = [rig.request(path, headers={}) for path in paths or (WEIGHTS, SMALL)]
    settings = {
        "part_size": 2 * MiB, "chunk_size": 64 * KiB, "max_concurrent_downloads": CONNECTIONS, **more
    }  # fmt: skip
    return job_for(rig, *requests, **settings)  # type: ignore[arg-type]  # some of them are not settings


def _claimed(rig: Rig) -> int:
    """Bytes that the journals of the staged files claim."""
    total = 0
    for name in rig.left:
        with contextlib.suppress(FileNotFoundError):  # published meanwhile
            records = (rig.folder / name).read_bytes()[SIZE + 512 :]
            records = records[: len(records) // 20 * 20]
            total += sum(stop - start for start, stop, _ in struct.iter_unpack("<QQI", records))
    return total


def _claims(rig: Rig, nbytes: int) -> None:
    """Wait until so many bytes are claimed."""
    assert rig.hub.requests.wait_for(lambda _: _claimed(rig) >= nbytes, timeout=20)


def _finish(rig: Rig, child: Child) -> dict[str, object]:
    result = child.wait()
    assert result["errors"] == {}
    assert rig.is_whole(WEIGHTS)
    assert rig.left == []
    assert sorted(p.name for p in rig.folder.iterdir()) == sorted([SMALL, WEIGHTS])
    return result


def test_killed_again_and_again_a_download_goes_on_and_fetches_little_twice(
    rig: Rig, nursery: Nursery
) -> None:
    claimed = 0
    for step in range(1, 9):
        child = nursery.start(_job(rig))
        _claims(rig, step * SIZE // 10)
        child.kill()
        assert _claimed(rig) >= claimed
        claimed = _claimed(rig)
        assert rig.sent(WEIGHTS) <= claimed + step * COST
    result = _finish(rig, nursery.start(_job(rig)))
    assert result["transferred"] == SIZE - claimed
    assert rig.sent(WEIGHTS) <= SIZE + 8 * COST


def test_killed_many_times_within_moments_of_the_start_it_still_arrives(rig: Rig, nursery: Nursery) -> None:
    rig.hub.set_pace(None)
    dice = random.Random(11)
    for _ in range(40):
        child = nursery.start(_job(rig))
        before = len(rig.hub.requests)
        rig.hub.requests.wait_for(lambda log, n=before: len(log) > n, timeout=dice.random() * 0.05)
        child.kill()
    _finish(rig, nursery.start(_job(rig)))


def test_killed_in_the_middle_of_many_small_files_nothing_is_left_and_none_is_torn(
    tmp_path: Path, nursery: Nursery
) -> None:
    more = {f"small/{i}.txt": random_bytes(2000, i) for i in range(120)}
    with serve_files(tmp_path / "out", weights=MiB, more=more, git_files="direct") as rig:
        rig.hub.set_latency(0.02)  # so that no run gets far
        dice = random.Random(5)
        for _ in range(8):
            child = nursery.start(_job(rig, *more))
            target = len(rig.hub.requests) + dice.randrange(1, 10)
            rig.hub.requests.wait_for(lambda log, n=target: len(log) >= n, timeout=5)
            child.kill()
            for path in more:
                assert not (rig.folder / path).exists() or rig.is_whole(path)
        assert nursery.start(_job(rig, *more)).wait()["errors"] == {}
        assert all(rig.is_whole(path) for path in more)
        assert rig.left == []
        assert len(rig.hub.requests.of("resolve")) <= len(more) + 9 * CONNECTIONS


@pytest.mark.parametrize(
    ("pretend", "timings"),
    [
        pytest.param(("locks always succeed",), DEFAULT_TIMINGS, id="locks lie"),
        pytest.param(("another container",), DEFAULT_TIMINGS, id="another container"),
        pytest.param(
            ("another container", "locks always succeed"), Timings(unseen=0.0), id="container, locks lie"
        ),
        pytest.param(("another host",), Timings(unseen=0.0), id="another host"),
        pytest.param(
            ("another host", "locks always succeed"), Timings(unseen=0.0), id="another host, locks lie"
        ),
    ],
)
def test_a_killed_processes_bytes_are_taken_over_wherever_it_ran(
    rig: Rig, nursery: Nursery, pretend: tuple[str, ...], timings: Timings
) -> None:
    job = _job(rig, pretend=pretend, timings=timings)
    for step in (1, 2):
        child = nursery.start(job)
        _claims(rig, step * SIZE // 3)
        child.kill()
        claimed = _claimed(rig)
    result = _finish(rig, nursery.start(job))
    assert result["transferred"] == SIZE - claimed
    assert rig.sent(WEIGHTS) <= SIZE + 2 * COST


def test_without_resume_everything_is_fetched_anew_and_nothing_left(rig: Rig, nursery: Nursery) -> None:
    child = nursery.start(_job(rig))
    _claims(rig, SIZE // 2)
    child.kill()
    assert rig.left
    result = _finish(rig, nursery.start(_job(rig, enable_resume=False)))
    assert result["transferred"] in {SIZE, SIZE + 300}  # the small file may have been in place


def test_a_repository_that_changed_in_between_gets_its_new_bytes_only(rig: Rig, nursery: Nursery) -> None:
    child = nursery.start(_job(rig))
    _claims(rig, SIZE // 2)
    child.kill()
    assert rig.left
    rig.files[WEIGHTS] = random_bytes(SIZE, "new weights")
    rig.repo.commit({WEIGHTS: rig.files[WEIGHTS]}, "second")
    result = nursery.start(_job(rig)).wait()
    assert result["errors"] == {}
    assert rig.is_whole(WEIGHTS)
    assert result["transferred"] >= SIZE
    assert rig.left == [], "whoever asks for the old version again would have to replace the new one"


def test_a_file_without_digest_that_changed_in_between_is_not_stitched_together(
    rig: Rig, nursery: Nursery
) -> None:
    """Neither digest nor etag is known beforehand: the source's own etag tells the versions apart."""
    url = f"{rig.hub.url}/org/m/resolve/main/{WEIGHTS}"
    request = rig.request(WEIGHTS, url=url, digest=None, etag=None, headers={})
    rig.hub.options.lfs = "direct"
    child = nursery.start(job_for(rig, request, part_size=2 * MiB))
    _claims(rig, SIZE // 2)
    child.kill()
    assert rig.left
    rig.files[WEIGHTS] = random_bytes(SIZE, "new weights")
    rig.repo.commit({WEIGHTS: rig.files[WEIGHTS]}, "second")
    assert nursery.start(job_for(rig, request, part_size=2 * MiB)).wait()["errors"] == {}
    assert rig.is_whole(WEIGHTS)
    assert rig.left == []


def test_a_file_without_digest_is_resumed_while_its_source_says_it_is_the_same(
    rig: Rig, nursery: Nursery
) -> None:
    request = rig.request(WEIGHTS, digest=None, etag=None, headers={})
    rig.hub.options.lfs = "direct"
    child = nursery.start(job_for(rig, request, part_size=2 * MiB))
    _claims(rig, SIZE // 2)
    child.kill()
    claimed = _claimed(rig)
    result = nursery.start(job_for(rig, request, part_size=2 * MiB)).wait()
    assert result["errors"] == {}
    assert rig.is_whole(WEIGHTS)
    assert result["transferred"] == SIZE - claimed


def test_in_order_writing_resumes_too(rig: Rig, nursery: Nursery) -> None:
    rig.hub.options.lfs = "direct"
    child = nursery.start(_job(rig, WEIGHTS, write_mode="sequential"))
    assert rig.hub.requests.wait_for(lambda _: rig.sent(WEIGHTS) > SIZE // 4)
    child.kill()
    (left,) = [rig.folder / name for name in rig.left]
    assert left.read_bytes() == rig.files[WEIGHTS][: left.stat().st_size]
    rig.hub.set_pace(None)
    result = nursery.start(_job(rig, write_mode="sequential")).wait()
    assert result["errors"] == {}
    assert rig.is_whole(WEIGHTS)
    assert rig.left == []
    assert result["transferred"] < SIZE


def test_cancelled_and_asked_again_in_one_process_it_goes_on(rig: Rig) -> None:
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="org/m")
        _claims(rig, SIZE // 2)
        assert handle.cancel()
        assert handle.wait(10)
        assert rig.left
        again = manager.submit([rig.request(WEIGHTS)], model_id="org/m")
        assert again.wait(30)
        assert again.errors() == []
        assert rig.is_whole(WEIGHTS)
        assert rig.left == []
    assert rig.sent() <= SIZE + COST


def test_what_a_power_failure_took_is_found_out_and_fetched_again(rig: Rig, nursery: Nursery) -> None:
    """The journal survived, some of the bytes did not."""
    child = nursery.start(_job(rig, WEIGHTS))
    _claims(rig, SIZE // 2)
    child.kill()
    (left,) = [rig.folder / name for name in rig.left]
    with left.open("r+b") as file:
        file.write(bytes(64 * KiB))
    rig.hub.set_pace(None)
    _finish(rig, nursery.start(_job(rig)))


def test_a_link_that_was_signed_anew_goes_on_where_the_last_one_expired(rig: Rig) -> None:
    """The bytes are those of one object, whatever the signature; its version in the link is another matter."""
    target = rig.folder / "by-link.bin"

    def begin(manager: ParallelDownloadManager, query: str) -> str:
        return manager.add_download_task("m", WEIGHTS, f"{rig.url(WEIGHTS)}?{query}", target, SIZE)

    signed = "v=1&X-Amz-Date={0}&X-Amz-Expires=60&X-Amz-Signature={0}"
    with rig.manager() as manager:
        task = begin(manager, signed.format(1))
        assert until(lambda: (manager.get_model_queue_status(task) or {})["bytes_done"] > SIZE // 2)
        manager.cancel_model_download(task)
        assert manager.wait_for_model_completion(task, 20)["timed_out"] is False
    rig.hub.set_pace(None)
    with rig.manager() as manager:
        other = begin(manager, signed.format(2).replace("v=1", "v=2"))
        assert until(lambda: (manager.get_model_queue_status(other) or {})["active_tasks"])
        manager.cancel_model_download(other)
        result = manager.wait_for_model_completion(begin(manager, signed.format(3)), 40)
    assert result["success"]
    assert result["bytes_resumed"] > SIZE // 3
    assert target.read_bytes() == rig.files[WEIGHTS]
    assert rig.left == [], "what was staged of the other version went with it"
