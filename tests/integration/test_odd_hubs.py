"""Hubs and mirrors that differ from the real one: each row is whole with us, and says where upstream gives up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from tests.support.engine import leftovers
from tests.support.repos import contents, make_repo

from hf_haul.config import Settings
from hf_haul.errors import UnsafePathError
from hf_haul.filesystem import HaulFileSystem
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.localhub import Account, LocalHub, Repo
from hf_haul.localhub.testing.faults import Fault, Headers, Status
from hf_haul.manager import ParallelDownloadManager

SETTINGS = Settings(first_retry_wait=0.01, max_retry_wait=0.05, max_retries=3, durable=False)
WEIGHTS = "model-00001-of-00002.safetensors"
CONFIG = "config.json"
NOWHERE: frozenset[str] = frozenset()
WHOLE, LFS, GIT = "a snapshot", "an LFS file", "a git file"
EVERYTHING = frozenset({WHOLE, LFS, GIT})


@dataclass(frozen=True)
class Odd:
    """What is odd about a hub.

    Attributes:
        options: Of the local hub.
        faults: What goes wrong with every matching request.
        upstream: What huggingface_hub downloads from it nevertheless.
        offline: Whether huggingface_hub finds its own download again without the hub.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[tuple[Fault, Mapping[str, Any]], ...] = ()
    upstream: frozenset[str] = EVERYTHING
    offline: bool = True


def without(*names: str, **where: Any) -> tuple[Fault, Mapping[str, Any]]:
    """Answers that lack some headers."""
    return Headers(dict.fromkeys(names)), where


def row(name: str, *faults: tuple[Fault, Mapping[str, Any]], **more: Any) -> Any:
    kept = {key: more.pop(key) for key in ("upstream", "offline") if key in more}
    return pytest.param(Odd(more, faults, **kept), id=name)


ON_STORAGE: dict[str, Any] = {"kind": "cdn"}
OWN = {"lfs": "same_origin"}
DIRECT = {"lfs": "direct", "git_files": "direct"}
#: Upstream follows a redirect on the hub's own origin, and wants a Hub's headers of whatever it ends at.
JUST_GIT = frozenset({GIT})

ROWS = [
    row("LFS on the hub's own origin, with a Hub's headers", **OWN),
    row(
        "LFS on the hub's own origin, plain files",
        without("X-Repo-Commit", **ON_STORAGE),
        **OWN,
        upstream=JUST_GIT,
    ),
    row(
        "LFS on the hub's own origin, etags of the storage",
        (Headers({"X-Repo-Commit": None, "ETag": '"66a1-5f"'}), ON_STORAGE),
        **OWN,
        upstream=JUST_GIT,
    ),
    row(
        "LFS on the hub's own origin, no HEAD",
        (Status(403), {**ON_STORAGE, "method": "HEAD"}),
        **OWN,
        upstream=JUST_GIT,
    ),
    row("LFS as plain answers", **DIRECT),
    row("etags without quotes", quoted_etags=False),
    row("etags without quotes, no redirects", quoted_etags=False, **DIRECT),
    row("commits of 64 digits", commit_names="sha256"),
    row("commits of 64 digits, no quotes, no redirects", commit_names="sha256", quoted_etags=False, **DIRECT),
    row("commits called as asked for", commit_names="asked", offline=False),
    row("commits called as asked for, no redirects", commit_names="asked", offline=False, **DIRECT),
    row("no X-Repo-Commit", without("X-Repo-Commit"), upstream=NOWHERE),
    row("no etag of git files", without("ETag", "X-Linked-Etag", path=CONFIG), upstream=frozenset({LFS})),
    row("no X-Linked-Size", without("X-Linked-Size")),
    row("no X-Linked-Etag where there is an ETag", without("X-Linked-Etag"), **DIRECT),
    row("no etag on the storage", without("ETag", **ON_STORAGE)),
    row(
        "etags of another kind in redirects",
        (
            Headers({"X-Linked-Etag": '"5d41402abc4b2a76b9719d911017c592"'}),
            {"kind": "resolve", "path": WEIGHTS},
        ),
    ),
    row("no Content-Range", without("Content-Range")),
    row("no headers about the body", without("Content-Type", "Content-Disposition", "Accept-Ranges", "Vary")),
    row("compressed text", gzip_git_files=True, **DIRECT),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repo(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, str]:
    return contents(folder)


@pytest.fixture(scope="module")
def manager() -> Iterator[ParallelDownloadManager]:
    with ParallelDownloadManager(settings=SETTINGS) as manager:
        yield manager


@contextmanager
def serve(odd: Odd, repo: Repo) -> Iterator[LocalHub]:
    with LocalHub(repo, **odd.options) as hub:
        for fault, where in odd.faults:
            hub.faults.add(fault, times=None, **where)
        yield hub


@pytest.fixture
def repo(folder: Path) -> Repo:
    repo = Repo.from_folder(folder, "org/tiny")
    repo.tag("release/1.0")
    return repo


@pytest.mark.parametrize("odd", ROWS)
def test_a_snapshot_is_whole_and_huggingface_hub_finds_it_offline(
    odd: Odd, repo: Repo, expected: dict[str, str], manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache", "token": False}
    with serve(odd, repo) as hub:
        for revision in ("main", "release/1.0"):
            found = snapshot_download(
                "org/tiny", endpoint=hub.url, revision=revision, manager=manager, **where
            )
            assert contents(Path(found)) == expected
            offline = huggingface_hub.snapshot_download(
                "org/tiny", revision=revision, local_files_only=True, **where
            )
            assert offline == found
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("path", [WEIGHTS, CONFIG], ids=["LFS file", "git file"])
@pytest.mark.parametrize("odd", ROWS)
def test_a_file_is_whole_and_huggingface_hub_finds_it_offline(
    odd: Odd, path: str, repo: Repo, folder: Path, manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache", "token": False}
    with serve(odd, repo) as hub:
        found = hf_hub_download("org/tiny", path, endpoint=hub.url, manager=manager, **where)
    assert Path(found).read_bytes() == (folder / path).read_bytes()
    assert huggingface_hub.hf_hub_download("org/tiny", path, local_files_only=True, **where) == found
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("odd", ROWS)
def test_a_local_dir_is_whole_and_known_to_be_so_the_next_time(
    odd: Odd, repo: Repo, expected: dict[str, str], manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    with serve(odd, repo) as hub:
        for expected_downloads in (True, False):
            hub.requests.clear()
            snapshot_download(
                "org/tiny", endpoint=hub.url, token=False, local_dir=tmp_path / "local", manager=manager
            )
            assert contents(tmp_path / "local") == expected
            assert hub.requests.settle()
            assert bool(hub.requests.of("resolve")) is expected_downloads


@pytest.mark.parametrize("odd", ROWS)
def test_the_filesystem_reads_what_is_there(odd: Odd, repo: Repo, folder: Path) -> None:
    with serve(odd, repo) as hub:
        fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        for path in (WEIGHTS, CONFIG):
            content = (folder / path).read_bytes()
            assert fs.cat_file(f"org/tiny/{path}") == content
            assert fs.cat_file(f"org/tiny/{path}", start=100, end=300) == content[100:300]


@pytest.mark.parametrize("odd", ROWS)
def test_upstream_manages_what_the_row_says_and_no_more(
    odd: Odd, repo: Repo, expected: dict[str, str], tmp_path: Path
) -> None:
    with serve(odd, repo) as hub:
        for what in sorted(EVERYTHING):
            where: dict[str, Any] = {"cache_dir": tmp_path / what, "token": False}

            def download(what: str = what, **more: Any) -> str:
                if what == WHOLE:
                    return str(huggingface_hub.snapshot_download("org/tiny", **more))
                name = WEIGHTS if what == LFS else CONFIG
                return str(huggingface_hub.hf_hub_download("org/tiny", name, **more))

            if what not in odd.upstream:
                with pytest.raises(LocalEntryNotFoundError):
                    download(endpoint=hub.url, **where)
                continue
            found = download(endpoint=hub.url, **where)
            assert what != WHOLE or contents(Path(found)) == expected
            if odd.offline:
                assert download(local_files_only=True, **where) == found
            else:
                with pytest.raises(LocalEntryNotFoundError):
                    download(local_files_only=True, **where)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_storage_on_the_hubs_own_origin_may_refuse_a_token(
    folder: Path, manager: ParallelDownloadManager, tmp_path: Path, status: int
) -> None:
    repo = Repo.from_folder(folder, "org/private", private=True)
    account = Account("me", "hf_me", repos=("org/*",))
    with LocalHub(repo, accounts=[account], lfs="same_origin", git_files="redirect") as hub:
        # A signed URL and a token: S3 calls it "only one auth mechanism allowed".
        hub.faults.add(Status(status), kind="cdn", times=None, when=lambda record: record.token is not None)
        where: dict[str, Any] = {"endpoint": hub.url, "token": "hf_me", "manager": manager}
        found = snapshot_download("org/private", cache_dir=tmp_path / "a", **where)
        assert contents(Path(found)) == contents(folder)
        one = hf_hub_download("org/private", WEIGHTS, cache_dir=tmp_path / "b", **where)
        assert Path(one).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_the_filesystem_takes_its_token_nowhere_else_whatever_links_say(folder: Path) -> None:
    repo = Repo.from_folder(folder, "org/private", private=True)
    account = Account("me", "hf_me", repos=("org/*",))
    with LocalHub() as elsewhere, LocalHub(repo, accounts=[account]) as hub:
        elsewhere.add(repo)
        hub.options.page_size, hub.options.link_origin = 3, elsewhere.url
        fs = HaulFileSystem(endpoint=hub.url, token="hf_me", skip_instance_cache=True)
        assert {path.removeprefix("org/private/") for path in fs.find("org/private")} == set(contents(folder))
        assert len(elsewhere.requests) == 0
        assert len(hub.requests.of("tree")) > 3


# -- a commit that is only the name of a branch


@pytest.fixture
def moving(manager: ParallelDownloadManager, tmp_path: Path) -> Iterator[tuple[Repo, dict[str, Any]]]:
    repo = Repo("org/moving")
    repo.commit({CONFIG: b'{"v": 1}', "w.safetensors": b"1" * 1000, "same.txt": b"same"}, "first")
    with LocalHub(repo, commit_names="asked") as hub:
        where = {"endpoint": hub.url, "token": False, "cache_dir": tmp_path / "cache", "manager": manager}
        yield repo, where


NEW = {CONFIG: b'{"v": 2}', "w.safetensors": b"2" * 1000, "new.txt": b"new", "same.txt": b"same"}


@pytest.mark.parametrize("local", [False, True], ids=["cache", "local_dir"])
def test_a_branch_that_moved_on_behind_an_odd_mirror_is_fetched_anew(
    moving: tuple[Repo, dict[str, Any]], local: bool, tmp_path: Path
) -> None:
    repo, where = moving
    if local:
        where["local_dir"] = tmp_path / "local"
    snapshot_download("org/moving", **where)
    repo.commit(NEW, "second")
    would = snapshot_download("org/moving", dry_run=True, **where)
    assert {info.filename for info in would if info.will_download} == set(NEW) - {"same.txt"}
    folder = Path(snapshot_download("org/moving", **where))
    assert {path: (folder / path).read_bytes() for path in NEW} == NEW
    assert leftovers(tmp_path) == []


def test_a_file_of_a_branch_that_moved_on_behind_an_odd_mirror_is_fetched_anew(
    moving: tuple[Repo, dict[str, Any]],
) -> None:
    repo, where = moving
    hf_hub_download("org/moving", CONFIG, **where)
    repo.commit(NEW, "second")
    assert Path(hf_hub_download("org/moving", CONFIG, **where)).read_bytes() == NEW[CONFIG]


def test_a_file_that_a_branch_lacks_today_is_not_held_to_be_missing_for_ever(
    moving: tuple[Repo, dict[str, Any]],
) -> None:
    repo, where = moving
    with pytest.raises(huggingface_hub.errors.RemoteEntryNotFoundError):
        hf_hub_download("org/moving", "new.txt", **where)
    known = huggingface_hub.try_to_load_from_cache("org/moving", "new.txt", cache_dir=where["cache_dir"])
    assert known is None
    repo.commit(NEW, "second")
    assert Path(hf_hub_download("org/moving", "new.txt", **where)).read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../../../evil", "/evil", "a/../../../../evil"])
def test_a_commit_that_would_lead_out_of_the_cache_is_refused_before_anything_is_written(
    moving: tuple[Repo, dict[str, Any]], name: str, tmp_path: Path
) -> None:
    repo, where = moving
    repo.tag(name)
    with pytest.raises(UnsafePathError, match="commit"):
        snapshot_download("org/moving", revision=name, **where)
    with pytest.raises(UnsafePathError):
        hf_hub_download("org/moving", CONFIG, revision=name, **where)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
