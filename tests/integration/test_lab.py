"""A lab's server: what is absent is fetched once from another Hub, for all who ask."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from huggingface_hub import HfApi, hf_hub_download, scan_cache_dir, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tests.support.labs import LabServer, lab_before
from tests.support.repos import contents

import hf_haul
from hf_haul.config import Settings
from hf_haul.localhub import Account, LocalHub, Repo
from hf_haul.localhub.faults import Corrupt, Stall, Status

MIB = 1 << 20
WEIGHTS = bytes(range(256)) * (12 * MIB // 256)
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": WEIGHTS,
    "sub/vocab.txt": b"a\n" * 500,
    "empty": b"",
}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)


@pytest.fixture
def repo() -> Repo:
    made = Repo("org/m")
    made.commit(dict(FILES), xet_hashes={"model.safetensors": "ab" * 32})
    made.tag("v1")
    return made


@pytest.fixture
def upstream(repo: Repo) -> Iterator[LocalHub]:
    with LocalHub(repo, accounts=[Account("lab", "hf_lab", repos=("*",), gated=("org/gated",))]) as hub:
        yield hub


@pytest.fixture
def lab(upstream: LocalHub, tmp_path: Path) -> Iterator[LabServer]:
    with lab_before(upstream, tmp_path / "served") as served:
        yield served


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


def file_url(
    server: LabServer, name: str = "model.safetensors", revision: str = "main", repo: str = "org/m"
) -> str:
    return f"{server.url}/{repo}/resolve/{revision}/{name}"


def upstream_bytes(upstream: LocalHub) -> int:
    assert upstream.requests.settle()
    return sum(each.body_bytes for each in upstream.requests.of("cdn"))


#: What is sent may be in the kernel's buffers when a part is cut, and is counted all the same; bytes per second at which
#: that is not much.
SLACK, PACE = 1.2, 40e6

DOWNLOADS = [
    pytest.param(snapshot_download, id="huggingface_hub"),
    pytest.param(hf_haul.snapshot_download, id="hf-haul"),
]


@pytest.mark.parametrize("download", DOWNLOADS)
def test_a_snapshot_is_fetched_from_upstream_and_ends_as_an_ordinary_cache(
    download: Callable[..., str], lab: LabServer, upstream: LocalHub, tmp_path: Path
) -> None:
    got = download("org/m", endpoint=lab.url, cache_dir=tmp_path / "client")
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    assert contents(Path(got)) == expected
    found = scan_cache_dir(lab.cache)
    assert found.warnings == []
    upstream.close()
    again = download(
        "org/m", cache_dir=lab.cache, local_files_only=True, allow_patterns=["*.json", "*.safetensors"]
    )
    assert Path(again, "model.safetensors").read_bytes() == WEIGHTS
    assert Path(again).name == Path(got).name


def test_many_clients_for_one_file_cause_one_upstream_download(
    lab: LabServer, upstream: LocalHub, tmp_path: Path
) -> None:
    def fetch(number: int) -> bytes:
        download = (hf_hub_download, hf_haul.hf_hub_download)[number % 2]
        path = download("org/m", "model.safetensors", endpoint=lab.url, cache_dir=tmp_path / str(number))
        return Path(path).read_bytes()

    upstream.set_pace(None, total=PACE)
    with ThreadPoolExecutor(8) as threads:
        assert all(data == WEIGHTS for data in threads.map(fetch, range(8)))
    assert upstream_bytes(upstream) < SLACK * len(WEIGHTS)
    assert lab.lab.fetches is not None
    assert lab.lab.fetches.begun == 1
    assert lab.lab.lookups is not None
    assert lab.lab.lookups.asked == 1


def test_bytes_are_sent_as_they_arrive_and_the_last_one_when_they_are_verified(
    lab: LabServer, upstream: LocalHub, session: requests.Session
) -> None:
    upstream.faults.add(Stall(after=2 * MIB), kind="cdn", times=None)
    with session.get(file_url(lab), stream=True, timeout=20) as first:
        assert first.raw.read(MIB) == WEIGHTS[:MIB]
        with session.get(
            file_url(lab), stream=True, timeout=20, headers={"Range": "bytes=1000-1048575"}
        ) as second:
            assert (second.status_code, second.content) == (206, WEIGHTS[1000:MIB])
        assert lab.blobs() == set()
        upstream.faults.clear()
        upstream.faults.release()
        assert first.raw.read() == WEIGHTS[MIB:]
    assert lab.blobs() == {hashlib.sha256(WEIGHTS).hexdigest()}
    records = lab.hub.requests.of("resolve")
    assert [each.arrived for each in records] == [True, True]


@pytest.mark.parametrize(
    ("asked", "status", "span"),
    [
        pytest.param("bytes=0-0", 206, slice(0, 1), id="the first byte"),
        pytest.param("bytes=5000000-5000099", 206, slice(5_000_000, 5_000_100), id="in the middle"),
        pytest.param("bytes=-7", 206, slice(len(WEIGHTS) - 7, None), id="the end"),
        pytest.param(f"bytes={len(WEIGHTS)}-", 416, None, id="beyond the end"),
        pytest.param("", 200, slice(None), id="all"),
    ],
)
def test_ranges_of_a_file_that_is_absent(
    asked: str, status: int, span: slice | None, lab: LabServer, session: requests.Session
) -> None:
    answer = session.get(file_url(lab), headers={"Range": asked} if asked else {}, timeout=20)
    assert answer.status_code == status
    if span is not None:
        assert answer.content == WEIGHTS[span]


def test_a_head_fetches_nothing_and_no_answer_names_a_xet_hash(
    lab: LabServer, upstream: LocalHub, session: requests.Session
) -> None:
    head = session.head(file_url(lab), timeout=20)
    assert head.status_code == 200
    assert head.headers["ETag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert head.headers["Content-Length"] == str(len(WEIGHTS))
    assert "X-Xet-Hash" not in head.headers
    tree = session.get(f"{lab.url}/api/models/org/m/tree/main?recursive=true", timeout=20)
    assert len(tree.json()) == len(FILES) + 1
    assert "xetHash" not in tree.text
    assert upstream.requests.of("cdn") == upstream.requests.of("resolve*") == []


@pytest.mark.parametrize("size", [pytest.param("whole", id="200"), pytest.param("range", id="206")])
def test_of_a_wrong_file_nobody_gets_the_end(
    size: str, lab: LabServer, upstream: LocalHub, session: requests.Session
) -> None:
    upstream.faults.add(Corrupt(offset=77), kind="cdn", times=None)
    headers = {} if size == "whole" else {"Range": "bytes=10-"}
    try:
        answer = session.get(file_url(lab), headers=headers, timeout=20)
    except requests.RequestException:
        pass  # it ended early
    else:
        assert answer.status_code == 502
    assert lab.blobs() == set()
    for fetch in lab.lab.fetches or ():  # it is tried once more
        assert fetch.handle.wait(20)
    upstream.faults.clear()
    assert session.get(file_url(lab), timeout=20).content == WEIGHTS


def test_what_is_cached_is_served_while_upstream_is_away(
    lab: LabServer, upstream: LocalHub, tmp_path: Path
) -> None:
    first = snapshot_download("org/m", endpoint=lab.url, cache_dir=tmp_path / "one")
    upstream.close()
    # As if its answer were too old by now, in a server that was started anew.
    with lab_before(upstream.url, lab.cache, refresh=0.0) as again:
        second = snapshot_download("org/m", endpoint=again.url, cache_dir=tmp_path / "two")
        assert contents(Path(second)) == contents(Path(first))
        for url, path in (("org/m", "main/other"), ("org/other", "main/config.json")):
            answer = requests.get(f"{again.url}/{url}/resolve/{path}", timeout=30)
            code = answer.headers["X-Error-Code"]
            assert (answer.status_code, code) == (
                (404, "EntryNotFound") if url == "org/m" else (504, "UpstreamAway")
            )
        branch = requests.get(file_url(again, "config.json", revision="unknown"), timeout=30)
        assert (branch.status_code, branch.headers["X-Error-Code"]) == (504, "UpstreamAway")
        assert requests.get(f"{again.url}/health", timeout=30).json()["upstream"] == "away"


def test_branches_are_looked_up_no_more_often_than_asked(
    repo: Repo, upstream: LocalHub, tmp_path: Path, session: requests.Session
) -> None:
    with (
        lab_before(upstream, tmp_path / "slow", refresh=3600.0) as slow,
        lab_before(upstream, tmp_path / "always", refresh=0.0) as always,
    ):
        for server in (slow, always):
            for _ in range(3):
                assert (
                    session.get(file_url(server, "config.json"), timeout=20).content == FILES["config.json"]
                )
        repo.commit({"config.json": b"{}"})
        assert session.get(file_url(slow, "config.json"), timeout=20).content == FILES["config.json"]
        assert session.get(file_url(always, "config.json"), timeout=20).content == b"{}"
        # A commit is what it is, and one that was seen need not be asked for.
        assert slow.lab.lookups is not None
        before = slow.lab.lookups.asked
        assert (
            session.get(file_url(slow, "config.json", revision="v1"), timeout=20).content
            == FILES["config.json"]
        )
        assert slow.lab.lookups.asked == before + 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        pytest.param(lambda url, to: hf_hub_download("org/none", "a", endpoint=url, cache_dir=to), RepositoryNotFoundError, id="no repository"),
        pytest.param(lambda url, to: hf_hub_download("org/m", "a", revision="none", endpoint=url, cache_dir=to), RevisionNotFoundError, id="no revision"),
        pytest.param(lambda url, to: hf_hub_download("org/m", "none", endpoint=url, cache_dir=to), EntryNotFoundError, id="no file"),
        pytest.param(lambda url, to: snapshot_download("org/none", endpoint=url, cache_dir=to), RepositoryNotFoundError, id="no snapshot"),
        pytest.param(lambda url, to: hf_haul.snapshot_download("org/none", endpoint=url, cache_dir=to), RepositoryNotFoundError, id="no snapshot of ours"),
    ],
)  # fmt: skip
def test_what_upstream_does_not_have_is_refused_as_the_hub_does(
    call: Callable[[str, Path], str], error: type[Exception], lab: LabServer, tmp_path: Path
) -> None:
    with pytest.raises(error):
        call(lab.url, tmp_path / "client")


# -- tokens


@pytest.fixture
def secret_repos(upstream: LocalHub) -> None:
    upstream.add(Repo("org/private", private=True)).commit({"a.txt": b"private"})
    upstream.add(Repo("org/gated", gated="auto")).commit({"a.txt": b"gated", "b.bin": b"large"})


@pytest.mark.usefixtures("secret_repos")
def test_a_clients_token_is_never_forwarded(lab: LabServer, upstream: LocalHub, tmp_path: Path) -> None:
    for name in ("org/m", "org/private", "org/gated"):
        # This server has no accounts: a token is refused here, and seen by nobody else.
        answer = requests.get(
            f"{lab.url}/{name}/resolve/main/a.txt", headers={"Authorization": "Bearer hf_lab"}, timeout=20
        )
        assert answer.status_code == 401
    with lab_before(upstream, tmp_path / "locked", token="serve-token") as locked:
        api = HfApi(locked.url, token="serve-token")
        assert api.model_info("org/m").sha
        for name, error in (("org/private", RepositoryNotFoundError), ("org/gated", GatedRepoError)):
            for file in ("a.txt", "b.bin", "a.txt"):
                if file == "b.bin" and name == "org/private":
                    continue
                with pytest.raises(error):
                    hf_hub_download(
                        name, file, endpoint=locked.url, token="serve-token", cache_dir=tmp_path / "c"
                    )
        for headers in ({}, {"Authorization": "Bearer hf_lab"}):
            asked = len(upstream.requests)
            answer = requests.get(f"{locked.url}/org/unheard/resolve/main/a.txt", headers=headers, timeout=20)
            assert answer.status_code == 401
            assert len(upstream.requests) == asked  # who may have nothing has nobody asked
    assert {each.token for each in upstream.requests} == {None}


@pytest.mark.usefixtures("secret_repos")
def test_with_private_the_servers_own_token_opens_what_it_may(
    upstream: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_lab")
    with lab_before(upstream, tmp_path / "served", token="serve-token", private=True) as served:
        for name, text in (("org/private", "private"), ("org/gated", "gated")):
            got = hf_hub_download(
                name, "a.txt", endpoint=served.url, token="serve-token", cache_dir=tmp_path / "c"
            )
            assert Path(got).read_text() == text
            assert requests.get(file_url(served, "a.txt", repo=name), timeout=20).status_code == 401
    assert {each.token for each in upstream.requests} == {"Bearer hf_lab"}
    assert all(each.token is None for each in upstream.requests.of("cdn"))


def test_a_server_that_is_its_own_upstream_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with lab_before(f"http://127.0.0.1:{port}", tmp_path / "served", port=port) as served:
        answer = requests.get(file_url(served), timeout=30)
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (504, "UpstreamAway")
    assert 508 in {each.status for each in served.hub.requests}


# -- space


def test_what_was_not_used_for_longest_makes_room(
    repo: Repo, upstream: LocalHub, tmp_path: Path, session: requests.Session
) -> None:
    parts = {f"part-{number}.bin": bytes([number]) * MIB for number in range(5)}
    repo.commit(dict(parts))
    cache = tmp_path / "served"
    own = hf_hub_download("org/m", "config.json", endpoint=upstream.url, cache_dir=cache)  # somebody's own
    ticks = iter(range(1000))
    with lab_before(upstream, cache, max_size=3 * MIB) as served:
        assert served.lab.kept is not None
        served.lab.kept._clock = lambda: float(next(ticks))  # each use is later than the one before
        for name in ("part-0.bin", "part-1.bin", "part-2.bin", "part-0.bin", "part-3.bin"):
            assert session.get(file_url(served, name), timeout=20).content == parts[name]
        names = {path.name for path in cache.glob("*/snapshots/*/*")}
        assert names == {"config.json", "part-0.bin", "part-2.bin", "part-3.bin"}
        assert Path(own).read_bytes() == FILES["config.json"]
        assert len(served.blobs()) == 4
        assert session.get(file_url(served, "part-1.bin"), timeout=20).content == parts["part-1.bin"]
        too_large = session.get(file_url(served), timeout=20)
        assert (too_large.status_code, too_large.headers["X-Error-Code"]) == (507, "DiskFull")
    with lab_before(upstream, cache, max_size=3 * MIB) as again:  # it remembers what was fetched
        assert again.lab.kept is not None
        assert again.lab.kept.total == 3 * MIB


# -- steering


def control(
    server: LabServer, session: requests.Session, token: str | None, **order: Any
) -> requests.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return session.post(f"{server.url}/haul/v1/control", json=order, headers=headers, timeout=20)


def status_of(server: LabServer, session: requests.Session, token: str) -> dict[str, Any]:
    answer = session.get(
        f"{server.url}/haul/v1/status", headers={"Authorization": f"Bearer {token}"}, timeout=20
    )
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_who_has_the_token_pauses_resumes_limits_and_cancels(
    upstream: LocalHub, tmp_path: Path, session: requests.Session
) -> None:
    upstream.faults.add(Stall(after=MIB), kind="cdn", times=None)
    settings = Settings(give_up_after=60.0, stall_timeout=60.0)
    with lab_before(upstream, tmp_path / "served", token="t0ken", settings=settings) as served:
        for token in (None, "wrong"):
            assert control(served, session, token, action="pause").status_code == 401
            assert session.get(f"{served.url}/metrics", timeout=20).status_code == 401
        assert session.get(f"{served.url}/haul/v1/status", timeout=20).status_code == 401
        assert session.get(f"{served.url}/health", timeout=20).json()["status"] == "ok"
        for order in (
            {"action": "fly"},
            {"action": "cancel"},
            {"action": "limit", "of": "in", "rate": "quick"},
            {},
        ):
            assert control(served, session, "t0ken", **order).status_code == 400
        assert control(served, session, "t0ken", action="limit", of="in", rate="30MB/s").json() == {
            "done": True
        }
        assert control(served, session, "t0ken", action="limit", of="out", rate="none").json() == {
            "done": True
        }
        assert status_of(served, session, "t0ken")["limits"] == {"in": 30_000_000, "out": None}
        with session.get(
            file_url(served), stream=True, timeout=30, headers={"Authorization": "Bearer t0ken"}
        ) as waiting:
            assert waiting.raw.read(1000) == WEIGHTS[:1000]
            assert control(served, session, "t0ken", action="pause").json() == {"done": True}
            now = status_of(served, session, "t0ken")
            assert now["paused"] is True
            (fetching,), (sending,) = now["fetching"], now["sending"]
            assert (fetching["repo"], fetching["path"], fetching["waiting"]) == (
                "org/m",
                "model.safetensors",
                1,
            )
            assert (sending["client"], sending["path"], sending["fetched"]) == (
                "127.0.0.1",
                "model.safetensors",
                True,
            )
            assert control(served, session, "t0ken", action="resume").json() == {"done": True}
            assert control(served, session, "t0ken", action="cancel", id=fetching["id"]).json() == {
                "done": True
            }
            with pytest.raises(Exception, match=r"(?i)incomplete|broken|reset"):
                waiting.raw.read()
        assert served.lab.fetches is not None
        # What came is gone on from.
        upstream.faults.clear()
        upstream.faults.release()
        answer = session.get(file_url(served), timeout=30, headers={"Authorization": "Bearer t0ken"})
        assert answer.content == WEIGHTS
    assert control_without_token(upstream, tmp_path, session) == 403


def control_without_token(upstream: LocalHub, tmp_path: Path, session: requests.Session) -> int:
    with lab_before(upstream, tmp_path / "open") as served:
        return control(served, session, None, action="pause").status_code


# -- what is told


def test_the_access_log_has_a_line_for_each_request_and_no_secret(upstream: LocalHub, tmp_path: Path) -> None:
    lines: list[str] = []
    with lab_before(upstream, tmp_path / "served", token="t0ken", access_log=lines.append) as served:
        headers = {"Authorization": "Bearer t0ken"}
        for url in (file_url(served, "config.json") + "?sig=secret", file_url(served, "config.json")):
            assert requests.get(url, headers=headers, timeout=20).status_code == 200
        requests.get(f"{served.url}/a%0Ab/resolve/main/\u2028x", headers=headers, timeout=20)
        assert served.hub.requests.settle()
    assert len(lines) == 3
    assert all("secret" not in line and "t0ken" not in line and "\n" not in line for line in lines)
    assert '127.0.0.1 "GET /org/m/resolve/main/config.json" 200 22 ' in lines[0]
    assert [line.rsplit(" ", 1)[1] for line in lines[:2]] == ["fetched", "here"]


def test_metrics_are_as_prometheus_reads_them(lab: LabServer, session: requests.Session) -> None:
    session.get(file_url(lab, "config.json"), timeout=20)
    assert lab.hub.requests.settle()
    answer = session.get(f"{lab.url}/metrics", timeout=20)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    seen: dict[str, str] = {}
    for line in answer.text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            seen[name] = kind
        elif not line.startswith("#"):
            name = line.partition("{")[0].partition(" ")[0]
            base = name if name in seen else name.rpartition("_")[0]
            assert base in seen, line
            float(line.rpartition(" ")[2])
    assert seen["hf_haul_fetches_total"] == "counter"
    assert 'hf_haul_requests_total{route="resolve",status="200"} 1' in answer.text
    assert f"hf_haul_upstream_bytes_total {len(FILES['config.json'])}\n" in answer.text


def test_an_upstream_that_limits_requests_is_heeded_and_the_cache_serves(
    upstream: LocalHub, tmp_path: Path, session: requests.Session
) -> None:
    with lab_before(upstream, tmp_path / "served", refresh=0.0) as served:
        assert session.get(file_url(served, "config.json"), timeout=20).status_code == 200
        upstream.faults.add(Status(429, headers={"Retry-After": "7"}), kind="info", times=None)
        assert session.get(file_url(served, "config.json"), timeout=20).content == FILES["config.json"]
        assert status_of_open(served, session)["upstream"]["error"] is not None


@pytest.fixture
def silent(repo: Repo, tmp_path: Path) -> Iterator[LabServer]:
    """A lab that knows which files there are, and whose upstream is gone since."""
    with LocalHub(repo) as hub, lab_before(hub, tmp_path / "served", refresh=1e6) as served:
        listed = requests.head(file_url(served), timeout=20)
        assert listed.status_code == 200
        hub.close()
        yield served


def test_an_upstream_that_does_not_answer_is_left_alone_for_files_too(
    silent: LabServer, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches = silent.lab.fetches
    assert fetches is not None
    for name in ("config.json", "config.json", "model.safetensors"):
        answer = session.get(file_url(silent, name), timeout=60)
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (504, "UpstreamAway")
        assert "Retry-After" not in answer.headers  # clients would leave the files alone that are here
        assert fetches.begun == 1
    # Once its time is over it is asked again, and nobody has to wait until that fetch has failed.
    monkeypatch.setattr("hf_haul.lab.silence.LEAVE_ALONE", 0.0)
    monkeypatch.setattr("hf_haul.lab.fetches.PATIENCE", 0.0)
    fetches.manager.pause_downloads()  # as long as it likes
    answer = session.get(file_url(silent, "model.safetensors"), timeout=60)
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (504, "UpstreamAway")
    assert fetches.begun == 2
    assert [fetch.name for fetch in fetches] == ["model.safetensors"]


def test_a_fetch_that_nobody_waited_for_is_there_for_who_asks_next(
    upstream: LocalHub, tmp_path: Path, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_haul.lab.silence.LEAVE_ALONE", 0.0)
    monkeypatch.setattr("hf_haul.lab.fetches.PATIENCE", 0.0)
    settings = Settings(give_up_after=5.0, max_retries=0)
    with lab_before(upstream, tmp_path / "served", refresh=1e6, settings=settings) as served:
        upstream.faults.add(Status(503), kind="resolve", times=1)
        assert session.get(file_url(served, "config.json"), timeout=20).status_code == 504
        fetches = served.lab.fetches
        assert fetches is not None
        fetches.manager.pause_downloads()
        assert session.get(file_url(served, "config.json"), timeout=20).status_code == 504
        [fetch] = fetches
        fetches.manager.resume_downloads()
        fetch.handle.wait()
        assert session.get(file_url(served, "config.json"), timeout=20).content == FILES["config.json"]
        assert fetches.begun == 2


def test_a_client_of_a_lab_whose_upstream_is_away_gives_up_as_with_any_other_server(
    silent: LabServer, session: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_haul.lab.silence.LEAVE_ALONE", 0.0)
    monkeypatch.setattr("hf_haul.lab.fetches.PATIENCE", 0.0)
    fetches = silent.lab.fetches
    assert fetches is not None
    assert session.get(file_url(silent, "config.json"), timeout=60).status_code == 504
    fetches.manager.pause_downloads()  # it takes as long as it likes
    settings = Settings(max_retries=2, first_retry_wait=0.0)
    with (
        hf_haul.ParallelDownloadManager(settings=settings) as manager,
        pytest.raises(hf_haul.HaulError, match="gave up after 3 attempts"),
    ):
        hf_haul.snapshot_download(
            "org/m",
            endpoint=silent.url,
            cache_dir=tmp_path / "own",
            allow_patterns="config.json",
            manager=manager,
        )
    assert fetches.begun == 2


def status_of_open(server: LabServer, session: requests.Session) -> dict[str, Any]:
    found: dict[str, Any] = session.get(f"{server.url}/haul/v1/status", timeout=20).json()
    return found


def test_two_servers_with_one_cache_fetch_a_file_once(upstream: LocalHub, tmp_path: Path) -> None:
    cache = tmp_path / "served"
    upstream.set_pace(None, total=PACE)
    with (
        lab_before(upstream, cache) as one,
        lab_before(upstream, cache) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        got = list(pool.map(lambda served: requests.get(file_url(served), timeout=30).content, (one, two)))
    assert got == [WEIGHTS, WEIGHTS]
    assert upstream_bytes(upstream) < SLACK * len(WEIGHTS)
