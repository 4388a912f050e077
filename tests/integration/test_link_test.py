"""What a link brings, measured against a local Hub that sends as slowly as it is told to."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from tests.support.hub import ServedRepo, serve_repo
from tests.support.repos import make_sparse_file
from tests.support.waits import until

from hf_haul.errors import TransferError
from hf_haul.hub.link_report import LinkSample
from hf_haul.hub.link_test import largest_file, measure_link, remote_url
from hf_haul.hub.repository import Repository
from hf_haul.localhub.testing.faults import IgnoreRange, Stall, Status, Trickle
from hf_haul.task import RemoteFile

BIG = "big.bin"
SIZE = 64 << 20
#: Bytes per second of one connection: slow enough for several of them to be no work for a busy machine.
PACE = 2e5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    folder = tmp_path_factory.mktemp("source")
    make_sparse_file(folder / BIG, SIZE)
    (folder / "small.txt").write_text("small")
    with serve_repo(folder) as served:
        yield served


@pytest.fixture(autouse=True)
def _fresh(served: ServedRepo) -> Iterator[None]:
    served.hub.requests.clear()
    yield
    served.hub.faults.clear()
    assert until(lambda: not [each for each in threading.enumerate() if "bench" in each.name])


@pytest.fixture
def repository(served: ServedRepo) -> Repository:
    return Repository("org/tiny", endpoint=served.hub.url, token=False)


@pytest.fixture
def remote(repository: Repository) -> RemoteFile:
    return largest_file(repository, None)


def test_the_largest_file_of_a_repository_is_read_or_the_one_named(repository: Repository) -> None:
    assert largest_file(repository, None).path == BIG
    assert largest_file(repository, "main", "small.txt").path == "small.txt"
    with pytest.raises(RepositoryNotFoundError):
        largest_file(Repository("org/nobody", endpoint=repository.endpoint, token=False), None)


def test_where_each_connection_brings_the_same_the_most_are_the_best(
    served: ServedRepo, remote: RemoteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    served.hub.faults.add(Trickle(PACE), kind="cdn", times=None)
    told: list[LinkSample] = []
    report = measure_link(remote, most_connections=4, max_seconds=3.0, on_sample=told.append)
    assert [sample.connections for sample in report.samples] == [1, 2, 4]
    assert told == list(report.samples)
    assert report.samples[-1].rate == pytest.approx(4 * PACE, rel=0.5)
    assert (report.best_connections, report.limit, report.stopped) == (4, "connection", None)
    assert report.size == SIZE
    assert report.first_request_seconds
    assert report.first_byte_seconds
    assert report.seconds < 5
    assert served.hub.requests.settle()
    assert report.bytes <= sum(record.body_bytes for record in served.hub.requests.of("cdn"))
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_no_more_connections_are_tried_than_a_download_may_use(
    served: ServedRepo, remote: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HAUL_MAX_CONNECTIONS", "3")
    served.hub.faults.add(Trickle(PACE), kind="cdn", times=None)
    report = measure_link(remote, max_seconds=3.0)
    assert [sample.connections for sample in report.samples] == [1, 2, 3]


def test_it_ends_when_the_bytes_have_come_that_it_may_fetch(served: ServedRepo, remote: RemoteFile) -> None:
    report = measure_link(remote, max_bytes=20 << 20, max_seconds=60.0)
    assert report.stopped == "the byte limit was reached"
    assert 20 << 20 <= report.bytes < SIZE
    assert report.seconds < 10


def test_it_ends_when_its_time_is_over(served: ServedRepo, remote: RemoteFile) -> None:
    served.hub.faults.add(Trickle(PACE), kind="cdn", times=None)
    report = measure_link(remote, most_connections=32, max_seconds=0.9)
    assert report.seconds < 3
    assert report.bytes < 32 * PACE


def test_a_server_that_asks_to_wait_is_not_asked_again(served: ServedRepo, remote: RemoteFile) -> None:
    served.hub.faults.add(Trickle(PACE), kind="cdn", times=None)
    # The first request, five probes, and the first connection.
    refuse = served.hub.faults.add(Status(429, headers={"Retry-After": "30"}), kind="cdn", nth=8, times=None)
    report = measure_link(remote, max_seconds=6.0)
    assert report.limit == "server"
    assert "answered 429" in (report.stopped or "")
    assert [sample.connections for sample in report.samples] == [1]
    assert refuse.hits == 1
    assert report.seconds < 5, "nobody waited"


def test_a_server_that_asks_to_wait_at_once_is_told_so(served: ServedRepo, remote: RemoteFile) -> None:
    refuse = served.hub.faults.add(Status(429), times=None)
    report = measure_link(remote, max_seconds=5.0)
    assert (report.limit, report.samples, report.first_request_seconds) == ("server", (), None)
    assert refuse.hits == 1


def test_a_server_without_ranges_gets_one_connection(served: ServedRepo, remote: RemoteFile) -> None:
    served.hub.faults.add(IgnoreRange(), kind="cdn", times=None)
    report = measure_link(remote, max_seconds=1.5)
    assert report.limit == "ranges"
    assert [sample.connections for sample in report.samples] == [1]


def test_a_limit_that_is_set_is_kept(remote: RemoteFile) -> None:
    report = measure_link(remote, most_connections=2, max_seconds=2.0, max_bandwidth="4MB/s")
    assert report.limit == "bandwidth"
    assert report.best_rate == pytest.approx(4e6, rel=0.3)


def test_any_url_can_be_measured(served: ServedRepo) -> None:
    url = f"{served.hub.url}/org/tiny/resolve/main/{BIG}"
    served.hub.faults.add(Trickle(PACE), kind="cdn", times=None)
    report = measure_link(remote_url(url), most_connections=1, max_seconds=1.0)
    assert (report.url, report.size) == (url, SIZE)
    assert report.best_connections == 1
    with pytest.raises(TransferError, match="404"):
        measure_link(remote_url(f"{served.hub.url}/org/tiny/resolve/main/nothing"))


def test_a_signature_is_not_told(served: ServedRepo) -> None:
    url = f"{served.hub.url}/org/tiny/resolve/main/{BIG}?token=secret"
    report = measure_link(remote_url(url), most_connections=1, max_seconds=0.5, max_bytes=1 << 20)
    assert "secret" not in str(report.as_dict())


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_ends_it_within_a_second(served: ServedRepo, remote: RemoteFile) -> None:
    stall = served.hub.faults.add(Stall(after=100_000), kind="cdn", nth=7, times=None)

    def interrupt() -> None:
        assert stall.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        measure_link(remote, max_seconds=60.0)
    assert time.monotonic() - began < 3
    interrupting.join(10)
