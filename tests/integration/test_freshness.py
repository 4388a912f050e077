"""When a filesystem looks again where a branch is, and that open files stay with their commit."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.clock import FakeClock

from hf_haul.config import Settings
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.testing.faults import Status
from hf_haul.manager import ParallelDownloadManager

SETTINGS = Settings(first_retry_wait=0.01, max_retry_wait=0.05, max_retries=3, durable=False)


@pytest.fixture
def manager() -> Iterator[ParallelDownloadManager]:
    with ParallelDownloadManager(settings=SETTINGS) as manager:
        yield manager


class Moving:
    """A repository whose branch has moved since a filesystem looked, and the filesystem."""

    root = "org/moving"

    def __init__(self, hub: LocalHub, repo: Repo, manager: ParallelDownloadManager, **options: Any) -> None:
        self.hub, self.repo = hub, repo
        self.fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True, **options)
        self.fs.manager = manager
        assert self.fs.find(self.root) == [f"{self.root}/a.txt", f"{self.root}/sub/b.txt"]
        self.fs.modified(f"{self.root}/a.txt")
        assert not self.fs.exists(f"{self.root}/new/c.txt")
        self.move()

    def move(self) -> None:
        """Go on to the next commit: one file has more bytes now, one is new, one is gone."""
        self.repo.commit({"a.txt": b"longer", "new/c.txt": b"new", "sub/b.txt": None}, "second")
        self.hub.requests.clear()

    def looks(self) -> int:
        """How often the hub was asked where the branch is."""
        return len(self.hub.requests.of("info"))


@pytest.fixture
def moving(manager: ParallelDownloadManager) -> Iterator[Callable[..., Moving]]:
    repo = Repo("org/moving")
    repo.commit({"a.txt": b"old", "sub/b.txt": b"gone"}, "first")
    with LocalHub(repo) as hub:
        yield lambda **options: Moving(hub, repo, manager, **options)


A, B, C = (f"{Moving.root}/{name}" for name in ("a.txt", "sub/b.txt", "new/c.txt"))

#: What finds out that the branch has moved, with the options that ask for it; each true with the second commit.
LOOKS: dict[str, Callable[..., object]] = {
    "ls": lambda fs, **o: {each.rpartition("/")[2] for each in fs.ls("org/moving", detail=False, **o)} == {"a.txt", "new"},
    "info": lambda fs, **o: fs.info(A, **o)["size"] == 6,
    "info of what is new": lambda fs, **o: fs.info(C, **o)["size"] == 3,
    "exists": lambda fs, **o: fs.exists(C, **o),
    "lexists": lambda fs, **o: fs.lexists(C, **o),
    "does not exist": lambda fs, **o: not fs.exists(B, **o),
    "find": lambda fs, **o: fs.find("org/moving", **o) == [A, C],
    "glob": lambda fs, **o: fs.glob("org/moving/**/*.txt", **o) == [A, C],
    "glob of one": lambda fs, **o: fs.glob(C, **o) == [C],
    "walk": lambda fs, **o: [folder for folder, _, _ in fs.walk("org/moving", **o)] == ["org/moving", "org/moving/new"],
    "du": lambda fs, **o: fs.du("org/moving", **o) == 9,
    "open": lambda fs, **o: fs.open(A, **o).read() == b"longer",
    "open a stream": lambda fs, **o: fs.open(A, block_size=0, **o).read() == b"longer",
    "open a text": lambda fs, **o: fs.open(A, "r", **o).read() == "longer",
    "cat_file": lambda fs, **o: fs.cat_file(A, **o) == b"longer",
    "cat": lambda fs, **o: fs.cat("org/moving", recursive=True, **o) == {A: b"longer", C: b"new"},
    "cat_ranges": lambda fs, **o: fs.cat_ranges([A, C], 0, 2, **o) == [b"lo", b"ne"],
    "modified": lambda fs, **o: fs.modified(C, **o),
}  # fmt: skip
#: Those that take no ``refresh``.
QUIET_LOOKS: dict[str, Callable[..., object]] = {
    "isfile": lambda fs: fs.isfile(C),
    "isdir": lambda fs: fs.isdir("org/moving/new"),
    "size": lambda fs: fs.size(A) == 6,
    "ukey": lambda fs: fs.ukey(C),
    "url": lambda fs: fs.url("org/moving/new").endswith("/tree/main/new"),
    "listdir": lambda fs: len(fs.listdir("org/moving")) == 2,
    "stat": lambda fs: fs.stat(A)["size"] == 6,
    "read_bytes": lambda fs: fs.read_bytes(A) == b"longer",
    "get_mapper": lambda fs: dict(fs.get_mapper("org/moving")) == {"a.txt": b"longer", "new/c.txt": b"new"},
}


@pytest.mark.parametrize("look", LOOKS)
def test_refresh_looks_again(look: str, moving: Callable[..., Moving]) -> None:
    place = moving()
    assert place.fs.find(place.root) == [A, B]
    assert place.looks() == 0
    assert LOOKS[look](place.fs, refresh=True)
    # All of it is of one version, and the next ones rely on it.
    assert place.looks() == 1
    assert place.fs.find(place.root) == [A, C]
    assert place.looks() == 1


@pytest.mark.parametrize("look", [*LOOKS, *QUIET_LOOKS])
def test_without_a_cache_of_listings_every_call_looks_again(look: str, moving: Callable[..., Moving]) -> None:
    place = moving(use_listings_cache=False)
    assert {**LOOKS, **QUIET_LOOKS}[look](place.fs)


@pytest.mark.parametrize("look", [*LOOKS, *QUIET_LOOKS])
def test_what_was_listed_expires(look: str, moving: Callable[..., Moving]) -> None:
    clock = FakeClock()
    place = moving(listings_expiry_time=60)
    place.fs._freshness._clock = clock
    place.fs.invalidate_cache()
    assert place.fs.find(place.root) == [A, C]
    place.repo.commit({"a.txt": b"old", "sub/b.txt": b"gone", "new/c.txt": None}, "third")
    clock.advance(59)
    assert {**LOOKS, **QUIET_LOOKS}[look](place.fs)
    place.move()
    clock.advance(1)
    assert {**LOOKS, **QUIET_LOOKS}[look](place.fs)
    asked = place.looks()
    assert asked == 1
    clock.advance(59)
    assert {**LOOKS, **QUIET_LOOKS}[look](place.fs)
    assert place.looks() == asked


def test_a_listing_of_a_commit_that_is_still_the_branch_s_is_not_asked_for_again(
    moving: Callable[..., Moving],
) -> None:
    place = moving(use_listings_cache=False)
    for _ in range(3):
        assert place.fs.find(place.root) == [A, C]
    assert place.looks() == 3
    assert len(place.hub.requests.of("tree")) == 1


@pytest.mark.parametrize("options", [{}, {"use_listings_cache": False}, {"listings_expiry_time": 0.0}])
@pytest.mark.parametrize(("name", "revision"), [("org/moving", "main"), ("org/moving@main", None)])
def test_another_name_of_a_revision_means_the_same_commit(
    moving: Callable[..., Moving], options: dict[str, Any], name: str, revision: str | None
) -> None:
    place = moving(**options)
    there = {each["name"].rpartition("/")[2]: each["size"] for each in place.fs.ls(name, revision=revision)}
    assert there == ({"a.txt": 6, "new": 0} if options else {"a.txt": 3, "sub": 0})
    with place.fs.open(f"{name}/a.txt", revision=revision) as file:
        assert file.read() == (b"longer" if options else b"old")
    assert place.fs.cat_file(A) == (b"longer" if options else b"old")


@pytest.mark.parametrize("name", ["org/moving", "org/moving@main"])
@pytest.mark.parametrize("how", ["refresh", "no cache", "invalidate"])
def test_a_revision_that_has_moved_is_forgotten_under_all_its_names(
    moving: Callable[..., Moving], name: str, how: str
) -> None:
    place = moving(use_listings_cache=how != "no cache")
    names = ["org/moving", "org/moving@main"]
    place.fs.invalidate_cache()
    before = [place.fs.find(each) for each in names]
    assert before == [[f"{each}/a.txt", f"{each}/new/c.txt"] for each in names]
    place.repo.commit({"a.txt": b"longest", "new/c.txt": None, "sub/b.txt": b"back"}, "third")
    if how == "invalidate":
        place.fs.invalidate_cache(name)
    else:
        place.fs.ls(name, refresh=how == "refresh")
    for each in names:
        assert place.fs.find(each) == [f"{each}/a.txt", f"{each}/sub/b.txt"]
        assert place.fs.info(f"{each}/a.txt", revision="main")["size"] == 7
        with place.fs.open(f"{each}/a.txt", revision="main") as file:
            assert file.read() == b"longest"


def test_files_that_are_open_keep_their_commit_and_so_do_their_pickles(moving: Callable[..., Moving]) -> None:
    place = moving()
    with place.fs.open(B) as file, place.fs.open(A, block_size=0) as stream:
        assert stream.read(1) == b"o"
        assert file.read(2) == b"go"
        before = pickle.dumps((file, stream))
        assert place.fs.find(place.root, refresh=True) == [A, C]
        with pytest.raises(FileNotFoundError):
            place.fs.info(B)
        assert file.details["size"] == file.size == 4
        assert stream.details["size"] == 3
        for pickled in (before, pickle.dumps((file, stream))):
            for copy, rest in zip(pickle.loads(pickled), (b"ne", b"ld"), strict=True):
                with copy:
                    assert copy.read() == rest
        assert file.read() == b"ne"
        assert stream.read() == b"ld"


def test_a_repository_that_appears_or_goes_is_noticed(manager: ParallelDownloadManager) -> None:
    with LocalHub(Repo("org/other")) as hub:
        fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        fs.manager = manager
        assert not fs.exists("org/late/a.txt")
        late = Repo("org/late")
        late.commit({"a.txt": b"late"}, "first")
        hub.add(late)
        assert not fs.exists("org/late/a.txt")
        with pytest.raises(FileNotFoundError):
            fs.ls("org/late")
        assert fs.ls("org/late", detail=False, refresh=True) == ["org/late/a.txt"]
        assert fs.exists("org/late/a.txt")
        gone = Status(404, headers={"X-Error-Code": "RepoNotFound"})
        hub.faults.add(gone, kind="info", times=None)
        assert fs.exists("org/late/a.txt")
        assert not fs.exists("org/late/a.txt", refresh=True)
        with pytest.raises(FileNotFoundError):
            fs.ls("org/late", refresh=True)


def test_a_walk_is_of_one_version_while_others_look_again(moving: Callable[..., Moving]) -> None:
    place = moving(use_listings_cache=False)
    walk = place.fs.walk(place.root)
    assert next(walk) == ("org/moving", ["new"], ["a.txt"])
    place.repo.commit({"new/d.txt": b"4"}, "third")
    assert next(walk) == ("org/moving/new", [], ["c.txt"])
    assert list(walk) == []
    assert place.fs.exists("org/moving/new/d.txt")


def test_a_listing_that_another_thread_outran_is_not_kept(
    moving: Callable[..., Moving], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = moving()
    real, once = place.fs._api.list_repo_tree, threading.Event()

    def overtaken(*args: Any, **options: Any) -> Any:
        found = list(real(*args, **options))
        if not once.is_set():
            once.set()
            other = threading.Thread(target=lambda: place.fs.info(A, refresh=True))
            other.start()
            other.join(20)
        return found

    place.fs.dircache.clear()
    monkeypatch.setattr(place.fs._api, "list_repo_tree", overtaken)
    names = place.fs.ls(place.root, detail=False)
    assert once.is_set()
    assert set(names) == {"org/moving/new", A}
    assert place.fs.exists(C)
