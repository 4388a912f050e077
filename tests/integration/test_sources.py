"""Several sources for one file: who is asked, who is left alone, and that nobody's bytes are believed."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from tests.support.engine import SETTINGS, SMALL, TOKEN, WEIGHTS, Outcome, Rig, serve_files
from tests.support.events import EventLog
from tests.support.hub import hub_environment
from tests.support.repos import random_bytes
from tests.support.waits import until
from tests.support.wire import Connection, Wire

from hf_haul.config import KiB, Settings, Timings
from hf_haul.errors import InvalidUrlError
from hf_haul.filesystem import HaulFileSystem
from hf_haul.hub.acceleration import accelerate
from hf_haul.hub.metadata import FileMetadata
from hf_haul.hub.repository import Repository
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.hub.verification import verify
from hf_haul.localhub import Account, LocalHub
from hf_haul.localhub.testing.faults import (
    Corrupt,
    Cut,
    Fault,
    Headers,
    Html,
    IgnoreRange,
    Redirects,
    Reset,
    Stall,
    Status,
    TooLong,
    Trickle,
    WrongRange,
    WrongTotal,
)
from hf_haul.manager import ParallelDownloadManager
from hf_haul.task import FileRequest, OtherSource

SIZE = 400 * KiB
MORE = {f"part-{number}.safetensors": random_bytes(SIZE, f"part-{number}") for number in range(3)}
PATHS = [WEIGHTS, SMALL, *MORE]
OWN_TOKEN = "hf_lab"


@dataclass
class Lab:
    """A Hub, and any number of servers that have the same files."""

    rig: Rig
    stack: ExitStack
    others: list[LocalHub] = field(default_factory=list)

    def serve(self, *faults: Fault, path: str = "*", **options: Any) -> LocalHub:
        """Start another server, all of whose answers about files like ``path`` have faults."""
        hub = self.stack.enter_context(LocalHub(self.rig.repo, lfs="direct", git_files="direct", **options))
        for fault in faults:
            hub.faults.add(fault, kind="resolve", path=path, times=None)
        self.others.append(hub)
        return hub

    def silent(self) -> Wire:
        """Start a server that takes requests and never answers."""
        wire = Wire(Connection.closed_by_client)
        self.stack.callback(wire.close)
        return wire

    def refuse(self, fault: Fault, **which: Any) -> None:
        """Have the Hub answer no request for a file any more."""
        self.rig.hub.faults.add(fault, kind="resolve", times=None, **which)

    def base(self, url: str) -> str:
        return f"{url}/org/m/resolve/{self.rig.repo.head.id}"

    def request(self, path: str, *urls: str, **facts: Any) -> FileRequest:
        """A request for a file, which may come from each of some URLs of servers, too."""
        request = self.rig.request(path, **facts)
        sources = tuple(OtherSource(self.base(url)) for url in urls)
        return replace(request, remote=replace(request.remote, sources=sources))

    def fetch(self, *urls: str, paths: list[str] | None = None, **changes: Any) -> Outcome:
        """Fetch files, by default all, and see that every byte is right."""
        paths = PATHS if paths is None else paths
        outcome = self.rig.fetch(*(self.request(path, *urls) for path in paths), **changes)
        assert outcome.errors == {}
        assert [path for path in paths if not self.rig.is_whole(path)] == []
        return outcome


def asked(hub: LocalHub, path: str = "*") -> list[str]:
    """The files that a server was asked for."""
    return [record.path for record in hub.requests if path in {"*", record.path}]


def came_from(outcome: Outcome, hub: LocalHub) -> int:
    return outcome.progress.bytes_by_source.get(hub.url, 0)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        rig = stack.enter_context(serve_files(tmp_path / "out", weights=SIZE, more=MORE, lfs="direct"))
        rig.folder.mkdir()
        rig.settings = replace(SETTINGS, timings=Timings(other_answer=0.5, worth_hedging=0.2))
        yield Lab(rig, stack)


# ---- who is asked


def test_all_sources_of_a_file_bring_parts_of_it_and_results_say_which_brought_how_much(lab: Lab) -> None:
    first, second = lab.serve(), lab.serve()
    for hub in (lab.rig.hub, first, second):
        hub.set_pace(None, total=1e6)
    outcome = lab.fetch(first.url, second.url, max_concurrent_downloads=16)
    total = sum(len(lab.rig.files[path]) for path in PATHS)
    by_source = outcome.progress.bytes_by_source
    assert set(by_source) == {lab.rig.hub.url, first.url, second.url}
    assert sum(by_source.values()) == outcome.progress.bytes_transferred >= total
    assert min(by_source.values()) > total // 10
    assert all(came_from(outcome, hub) <= hub.body_bytes for hub in (first, second))


def test_with_a_good_a_slow_a_dead_a_lying_and_a_partial_source_at_once_every_byte_is_right(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    good, slow = lab.serve(), lab.serve(Trickle(20_000.0))
    lying = lab.serve(*(Corrupt(offset) for offset in range(0, SIZE, 16 * KiB)))
    partial = lab.serve(Status(404), path="part-*")
    dead = lab.silent().url("")
    with caplog.at_level(logging.WARNING):
        outcome = lab.fetch(slow.url, dead, lying.url, partial.url, good.url)
    assert came_from(outcome, good) > 0
    assert outcome.progress.bytes_by_source.get(dead, 0) == 0
    for path in MORE:
        assert len(asked(partial, path)) <= 1, "it does not have it, and need not be asked again"
    if came_from(outcome, lying):
        assert f"{lying.url} sent wrong bytes" in caplog.text
    assert lab.rig.left == []


def test_a_source_that_does_not_answer_costs_one_part_once(lab: Lab) -> None:
    dead, good = lab.silent(), lab.serve()
    with lab.rig.manager() as manager:
        for path in PATHS:
            handle = manager.submit([lab.request(path, dead.url(""), good.url)], model_id="org/m")
            assert handle.wait(20)
            assert handle.errors() == []
    assert dead.accepted <= 1
    assert all(map(lab.rig.is_whole, PATHS))


def test_a_source_that_refuses_connections_is_left_alone(lab: Lab) -> None:
    gone = LocalHub(lab.rig.repo, lfs="direct").start()
    gone.close()
    outcome = lab.fetch(gone.url)
    assert came_from(outcome, lab.rig.hub) == outcome.progress.bytes_transferred


def test_what_a_source_lacks_it_is_asked_for_once(lab: Lab) -> None:
    partial = lab.serve(Status(404), path="part-*")
    outcome = lab.fetch(partial.url)
    assert [path for path in MORE if len(asked(partial, path)) > 1] == []
    assert came_from(outcome, lab.rig.hub) >= 3 * SIZE


def test_where_the_files_of_the_hub_cannot_be_had_other_sources_bring_them(lab: Lab) -> None:
    lab.refuse(Reset())
    good = lab.serve()
    outcome = lab.fetch(good.url)
    assert came_from(outcome, good) == outcome.progress.bytes_transferred
    assert len(asked(lab.rig.hub)) <= 8


def test_where_no_other_source_works_the_hub_is_asked_with_all_patience(lab: Lab) -> None:
    bad = lab.serve(Reset())
    lab.rig.hub.faults.add(Reset(), kind="resolve", times=3)
    outcome = lab.fetch(bad.url)
    assert came_from(outcome, lab.rig.hub) == outcome.progress.bytes_transferred


def test_a_source_that_stops_in_the_middle_is_not_waited_for_where_parts_come_in_order(lab: Lab) -> None:
    stuck = lab.serve(Stall(1000))
    with lab.rig.manager(write_mode="sequential", stall_timeout=600.0) as manager:
        for path in MORE:
            handle = manager.submit([lab.request(path, stuck.url)], model_id="org/m")
            assert handle.wait(20)
            assert handle.errors() == []
    assert all(map(lab.rig.is_whole, MORE))
    assert len(asked(stuck)) == 1, "each time would have cost as much again"


def test_a_slow_source_loses_its_part_to_a_faster_one(lab: Lab) -> None:
    slow = lab.serve(Trickle(500.0))  # for which it would need 800 seconds
    outcome = lab.fetch(slow.url, paths=[WEIGHTS])
    assert came_from(outcome, slow) < SIZE // 20


# ---- nobody's bytes are believed


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Html(), id="a web page"),
        pytest.param(WrongTotal(SIZE + 1), id="another size"),
        pytest.param(WrongRange(1000), id="another range, and says so"),
        pytest.param(WrongRange(1000, admits=False), id="another range, and does not say so"),
        pytest.param(IgnoreRange(), id="the whole file"),
        pytest.param(Cut(1000), id="too little"),
        pytest.param(TooLong(), id="too much"),
        pytest.param(Corrupt(70_000), id="one wrong byte"),
        pytest.param(Redirects(302, 301), id="redirects"),
        pytest.param(Headers({"Content-Encoding": "gzip"}), id="says it is compressed"),
        pytest.param(Status(302, headers={"Location": "http://127.0.0.1:9/x"}), id="leads to nowhere"),
        pytest.param(Status(302, headers={"Location": "http://127.0.0.1:9\\@x/"}), id="leads astray"),
        pytest.param(Status(429, retry_after=100.0), id="asks to wait"),
        pytest.param(Status(503), id="is overloaded"),
        pytest.param(Status(401), id="wants a token"),
    ],
)
def test_whatever_another_source_does_the_bytes_are_right(lab: Lab, fault: Fault) -> None:
    lab.fetch(lab.serve(fault).url)
    assert lab.rig.left == []


def test_who_sent_wrong_bytes_is_named_and_not_asked_again_and_nobody_else_is_blamed(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    honest, lying = lab.serve(), lab.serve(*(Corrupt(offset) for offset in range(0, SIZE, KiB)))
    for hub in (lab.rig.hub, honest, lying):
        hub.set_pace(None, total=1e6)
    with lab.rig.manager() as manager, caplog.at_level(logging.WARNING):

        def fetch(path: str) -> dict[str, int]:
            handle = manager.submit([lab.request(path, honest.url, lying.url)], model_id="org/m")
            assert handle.wait(20)
            assert handle.errors() == []
            assert lab.rig.is_whole(path)
            return dict(handle.progress().bytes_by_source)

        first, *others = (fetch(path) for path in [WEIGHTS, *MORE])
    assert first[lying.url] > 0
    assert first[honest.url] > 0
    assert all(lying.url not in each for each in others)
    assert any(honest.url in each for each in others)
    assert [r.message for r in caplog.records if "sent wrong bytes" in r.message] == [
        f"{lying.url} sent wrong bytes of {WEIGHTS}, which came from elsewhere instead; it is left alone for an hour"
    ]


@pytest.mark.parametrize("fault", [Status(403), Reset()], ids=["refuses", "is away"])
def test_where_the_hub_cannot_be_had_who_lies_is_found_out_by_asking_one_source_at_a_time(
    lab: Lab, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    lying, honest = lab.serve(*(Corrupt(offset) for offset in range(0, SIZE, KiB))), lab.serve()
    for hub in (lying, honest):
        hub.set_pace(None, total=1e6)
    lab.refuse(fault)
    with caplog.at_level(logging.WARNING):
        outcome = lab.fetch(lying.url, honest.url, paths=[WEIGHTS])
    assert came_from(outcome, lying) > 0
    assert came_from(outcome, honest) >= SIZE
    assert [r.message for r in caplog.records if "sent wrong bytes" in r.message] == [
        f"{lying.url} sent wrong bytes of {WEIGHTS}, which came from elsewhere instead; it is left alone for an hour"
    ]


def test_where_everybody_lies_and_the_hub_refuses_the_file_fails_and_nobody_is_blamed(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = [Corrupt(offset) for offset in range(0, SIZE, KiB)]
    first, second = lab.serve(*wrong), lab.serve(*wrong)
    lab.refuse(Status(403))
    with caplog.at_level(logging.WARNING):
        outcome = lab.rig.fetch(lab.request(WEIGHTS, first.url, second.url))
    assert list(outcome.errors) == [WEIGHTS]
    assert not (lab.rig.folder / WEIGHTS).exists()
    assert "sent wrong bytes" not in caplog.text, "it may be the listing that is wrong"


def test_where_bytes_are_written_in_order_what_a_liar_brought_comes_once_more_and_no_more_than_that(
    lab: Lab,
) -> None:
    lying = lab.serve(*(Corrupt(offset) for offset in range(0, SIZE, KiB)))
    outcome = lab.fetch(lying.url, paths=[WEIGHTS], write_mode="sequential")
    assert came_from(outcome, lying) > 0
    assert outcome.progress.bytes_transferred <= 2 * SIZE


def test_what_an_earlier_session_left_of_a_lying_source_is_found_out(lab: Lab) -> None:
    lying = lab.serve(*(Corrupt(offset) for offset in range(0, SIZE, KiB)))
    lying.set_pace(None, total=200_000.0)
    lab.refuse(Status(403))
    with lab.rig.manager() as manager:
        handle = manager.submit([lab.request(WEIGHTS, lying.url)], model_id="org/m")
        until(lambda: handle.progress().bytes_done > 64 * KiB, 20)
        handle.cancel()
        assert handle.wait(20)
    assert lab.rig.left != []
    lab.rig.hub.faults.clear()
    lying.set_pace(None)
    lab.fetch(lying.url, paths=[WEIGHTS])


@pytest.mark.parametrize("what", ["no digest", "no size", "no verification"])
def test_what_cannot_be_checked_comes_from_the_hub_alone(lab: Lab, what: str) -> None:
    other = lab.serve()
    facts: dict[str, Any] = {"no digest": {"digest": None}, "no size": {"size": None}}.get(what, {})
    outcome = lab.rig.fetch(lab.request(WEIGHTS, other.url, **facts), verify=what != "no verification")
    assert outcome.errors == {}
    assert asked(other) == []


# ---- secrets


def test_the_token_of_the_hub_goes_to_the_hub_and_a_source_gets_its_own(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lab.serve(accounts=[Account("me", OWN_TOKEN)])
    second = lab.serve()
    monkeypatch.setenv("HF_HAUL_SOURCE_TOKEN", "hf_of_all_others")
    settings = replace(lab.rig.settings, source_tokens={f"{first.url}/": OWN_TOKEN})
    with ParallelDownloadManager(settings=settings) as manager:
        snapshot_download(
            "org/m",
            endpoint=lab.rig.hub.url,
            token=TOKEN.removeprefix("Bearer "),
            cache_dir=tmp_path / "cache",
            manager=manager,
            sources=[first.url, second.url],
        )
    assert {record.token for record in lab.rig.hub.requests} == {TOKEN}
    assert {record.token for record in first.requests} == {f"Bearer {OWN_TOKEN}"}
    assert {record.token for record in second.requests} == {"Bearer hf_of_all_others"}


# ---- the doors


def test_a_snapshot_takes_bytes_from_the_sources_of_a_call_and_tells_of_it(lab: Lab, tmp_path: Path) -> None:
    lab.refuse(Status(403))
    other, log = lab.serve(), EventLog()
    with ParallelDownloadManager(settings=lab.rig.settings) as manager:
        folder = snapshot_download(
            "org/m",
            endpoint=lab.rig.hub.url,
            cache_dir=tmp_path / "cache",
            manager=manager,
            sources=[other.url],
            on_event=log,
        )
    assert isinstance(folder, str)
    assert all((Path(folder) / path).read_bytes() == lab.rig.files[path] for path in PATHS)
    log.check()
    total = sum(len(lab.rig.files[path]) for path in PATHS)
    assert log.one("done")["bytes_by_source"] == {other.url: total}
    ends = {each["path"]: each["bytes_by_source"] for each in log.of("file") if each["state"] == "done"}
    assert ends == {path: {other.url: len(lab.rig.files[path])} for path in PATHS}
    assert {record.kind for record in other.requests} == {"resolve"}, "what is listed is the Hub's to say"


def test_the_query_of_a_source_stays_behind_the_paths_of_files(lab: Lab, tmp_path: Path) -> None:
    lab.refuse(Status(403))
    other = lab.serve()
    with ParallelDownloadManager(settings=lab.rig.settings) as manager:
        snapshot_download(
            "org/m",
            endpoint=lab.rig.hub.url,
            cache_dir=tmp_path / "cache",
            manager=manager,
            sources=[f"{other.url}?key=1#top"],
        )
    assert {record.path for record in other.requests} == set(PATHS)
    assert all(record.url.endswith("?key=1") for record in other.requests)


def test_one_file_takes_bytes_from_the_sources_of_the_settings(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = lab.serve()
    monkeypatch.setenv("HF_HAUL_SOURCES", f"{other.url}, ")
    # Asked about, the Hub answers; asked for bytes, it refuses.
    lab.refuse(Status(403), method="GET")
    path = hf_hub_download("org/m", WEIGHTS, endpoint=lab.rig.hub.url, cache_dir=tmp_path / "cache")
    assert Path(path).read_bytes() == lab.rig.files[WEIGHTS]


def test_a_file_comes_from_its_hub_where_the_question_about_its_digest_breaks(
    lab: Lab, tmp_path: Path
) -> None:
    other = lab.serve()
    broken = lab.rig.hub.faults.add(Reset(), kind="paths-info", times=None)
    path = hf_hub_download(
        "org/m", WEIGHTS, endpoint=lab.rig.hub.url, cache_dir=tmp_path / "cache", sources=[other.url]
    )
    assert Path(path).read_bytes() == lab.rig.files[WEIGHTS]
    assert broken.hits
    assert asked(other) == [], "its digest may be wrong"


def test_code_that_calls_huggingface_hub_takes_bytes_from_the_sources_of_the_settings(
    lab: Lab, tmp_path: Path
) -> None:
    other = lab.serve()
    lab.refuse(Status(403), method="GET")  # asked about, the Hub answers
    settings = replace(lab.rig.settings, sources=(other.url,))
    with ParallelDownloadManager(settings=settings) as manager, accelerate(manager=manager):
        where: dict[str, Any] = {"endpoint": lab.rig.hub.url, "cache_dir": tmp_path / "cache"}
        of_a_branch = huggingface_hub.hf_hub_download("org/m", WEIGHTS, **where)
        folder = huggingface_hub.snapshot_download("org/m", **where)
    assert Path(of_a_branch).read_bytes() == lab.rig.files[WEIGHTS]
    assert all((Path(folder) / path).read_bytes() == lab.rig.files[path] for path in PATHS)
    commit = lab.rig.repo.head.id
    assert {record.url.partition("/resolve/")[2].partition("/")[0] for record in other.requests} == {commit}


def test_an_accelerated_download_of_a_branch_that_has_moved_takes_nothing_from_sources(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = lab.serve()
    settings = replace(lab.rig.settings, sources=(other.url,))

    def moved(repository: Repository, path: str, revision: str, **_options: Any) -> FileMetadata:
        del repository, path, revision
        return FileMetadata("0" * 40, "another-version", SIZE)

    monkeypatch.setattr(Repository, "metadata", moved)
    with ParallelDownloadManager(settings=settings) as manager, accelerate(manager=manager):
        path = huggingface_hub.hf_hub_download(
            "org/m", WEIGHTS, endpoint=lab.rig.hub.url, cache_dir=tmp_path / "cache"
        )
    assert Path(path).read_bytes() == lab.rig.files[WEIGHTS]
    assert asked(other) == []


def test_a_copy_from_the_filesystem_takes_bytes_from_the_sources_of_the_settings(
    lab: Lab, tmp_path: Path
) -> None:
    other = lab.serve()
    lab.refuse(Status(403))
    settings = replace(lab.rig.settings, sources=(other.url,))
    with ParallelDownloadManager(settings=settings) as manager:
        fs = HaulFileSystem(endpoint=lab.rig.hub.url, skip_instance_cache=True)
        fs.manager = manager
        fs.get("org/m", str(tmp_path / "copy"), recursive=True)
        fs.get_file(f"org/m/{WEIGHTS}", str(tmp_path / "one"))
    assert all((tmp_path / "copy" / path).read_bytes() == lab.rig.files[path] for path in PATHS)
    assert (tmp_path / "one").read_bytes() == lab.rig.files[WEIGHTS]


def test_a_repair_takes_bytes_from_the_sources_of_the_settings(lab: Lab, tmp_path: Path) -> None:
    with ParallelDownloadManager(settings=lab.rig.settings) as manager:
        folder = snapshot_download(
            "org/m", endpoint=lab.rig.hub.url, local_dir=tmp_path / "out", manager=manager
        )
    assert isinstance(folder, str)
    damaged = bytearray(lab.rig.files[WEIGHTS])
    damaged[SIZE // 2] ^= 0xFF
    (Path(folder) / WEIGHTS).write_bytes(damaged)
    other = lab.serve()
    lab.refuse(Status(403))
    settings = replace(lab.rig.settings, sources=(other.url,))
    with ParallelDownloadManager(settings=settings) as manager:
        report = verify(folder, repair=True, endpoint=lab.rig.hub.url, manager=manager)
    assert report.is_ok
    assert (Path(folder) / WEIGHTS).read_bytes() == lab.rig.files[WEIGHTS]
    assert set(asked(other)) == {WEIGHTS}


def test_the_command_takes_sources_and_says_what_came_from_where(lab: Lab, tmp_path: Path) -> None:
    other, partial = lab.serve(), lab.serve(Status(404))
    lab.refuse(Status(403))
    sources = ["--source", partial.url, "--source", other.url]
    done = subprocess.run(
        [sys.executable, "-m", "hf_haul.cli", "download", "org/m", "--local-dir", str(tmp_path / "here"), "--json", *sources],
        env=hub_environment(lab.rig.hub, tmp_path / "home"), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["bytes_by_source"] == {other.url: result["bytes_fetched"]}


def test_the_files_of_a_managers_queue_have_sources_of_the_queue_and_of_their_own(lab: Lab) -> None:
    other, own = lab.serve(), lab.serve()
    lab.refuse(Status(403))
    specs: list[dict[str, Any]] = [
        {"path": path, "size": SIZE, "sha256": hashlib.sha256(lab.rig.files[path]).hexdigest()}
        for path in MORE
    ]
    specs[0]["sources"] = [f"{lab.base(own.url)}/{specs[0]['path']}"]
    other.faults.add(Status(404), path=specs[0]["path"], times=None)
    with lab.rig.manager() as manager:
        result = manager.download_model_parallel(
            "org/m", specs, lab.base(lab.rig.hub.url), lab.rig.folder, sources=[lab.base(other.url)]
        )
    assert result["success"]
    assert result["bytes_by_source"] == {other.url: 2 * SIZE, own.url: SIZE}


def test_what_is_no_source_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidUrlError, match=r"a source .* is not an http"), lab_manager() as manager:
        manager.queue_model_download(
            "m", [{"path": "a", "size": 1}], "http://127.0.0.1:9", tmp_path, sources=["ftp://x/"]
        )
    with pytest.raises(TypeError, match="sources must be a list"), lab_manager() as manager:
        manager.queue_model_download(
            "m", [{"path": "a", "size": 1}], "http://127.0.0.1:9", tmp_path, sources="http://x/"
        )


def lab_manager() -> ParallelDownloadManager:
    return ParallelDownloadManager(settings=Settings())
