from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import HfApi, ModelInfo, RepoFile
from huggingface_hub.errors import (
    FileMetadataError,
    RepositoryNotFoundError,
)
from tests.support.hub_answers import (
    ENDPOINT,
    SHA,
    SHA256,
    XET,
    Pages,
    http,
    item,
    next_page,
    repository,
    response,
    serve,
)

from hf_haul.hub import listing
from hf_haul.hub.api import HubApi
from hf_haul.hub.metadata import ListedFile
from hf_haul.hub.repository import Repository


def test_a_listing_holds_every_file_of_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Pages(
        response(
            body=[item("a"), {"type": "directory", "path": "d", "oid": SHA, "size": 0}],
            **next_page(f"{ENDPOINT}/api/models/org/name/tree/{SHA}?cursor=2"),
        ),
        response(body=[item("d/b", lfs={"oid": SHA256, "size": 9, "pointerSize": 1}, xetHash=XET)]),
    )
    monkeypatch.setattr(listing, "_get", pages)
    assert repository().list_files(SHA) == {
        "a": ListedFile(7, SHA),
        "d/b": ListedFile(7, SHA, SHA256, 9, XET),
    }
    assert pages.asked == [
        (f"{ENDPOINT}/api/models/org/name/tree/{SHA}", {"recursive": True, "expand": False}),
        (f"{ENDPOINT}/api/models/org/name/tree/{SHA}?cursor=2", None),
    ]


@pytest.mark.parametrize(
    ("endpoint", "link", "followed"),
    [
        pytest.param(
            ENDPOINT,
            f"{ENDPOINT}/api/models/org/name/tree/x?cursor=2",
            f"{ENDPOINT}/api/models/org/name/tree/x?cursor=2",
            id="our own endpoint",
        ),
        pytest.param(
            ENDPOINT,
            "https://huggingface.co/api/models/org/name/tree/x?cursor=2",
            f"{ENDPOINT}/api/models/org/name/tree/x?cursor=2",
            id="a mirror that passes the Hub's link on",
        ),
        pytest.param(
            ENDPOINT,
            "http://hub.test:9999/api/models/org/name/tree/x?cursor=2",
            f"{ENDPOINT}/api/models/org/name/tree/x?cursor=2",
            id="another port",
        ),
        pytest.param(
            f"{ENDPOINT}/mirror/hf",
            "https://huggingface.co/api/models/org/name/tree/x?cursor=2",
            f"{ENDPOINT}/mirror/hf/api/models/org/name/tree/x?cursor=2",
            id="a mirror below a path",
        ),
        pytest.param(
            ENDPOINT,
            "/api/models/org/name/tree/x?cursor=2",
            f"{ENDPOINT}/api/models/org/name/tree/x?cursor=2",
            id="a relative link",
        ),
    ],
)
def test_the_next_page_is_asked_of_our_own_endpoint_whatever_the_link_says(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, link: str, followed: str
) -> None:
    pages = Pages(response(body=[item("a")], **next_page(link)), response(body=[item("b")]))
    monkeypatch.setattr(listing, "_get", pages)
    assert set(repository(endpoint=endpoint).list_files(SHA)) == {"a", "b"}
    assert pages.asked[1] == (followed, None)
    assert pages.headers[1]["authorization"] == "Bearer hf_secret"


class FirstPageOnly:
    """A mirror that answers with the first page of a listing whichever page is asked for."""

    def __init__(self, files: list[str], page_size: int, *, circle: bool) -> None:
        self.files = files
        self.page_size = page_size
        self.circle = circle
        self.asked: list[str] = []

    def entries(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        start = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path in self.files:
            if not path.startswith(start):
                continue
            first, *rest = path[len(start) :].split("/")
            if rest:
                found[start + first] = {"type": "directory", "path": start + first, "oid": SHA, "size": 0}
            if recursive or not rest:
                found[path] = item(path)
        return list(found.values())

    def __call__(self, url: str, *, params: Any, **_: Any) -> Any:
        self.asked.append(url)
        path = url.partition("?")[0]
        recursive = params["recursive"] if params else "recursive=true" in url
        folder = unquote(path.partition(f"/tree/{SHA}")[2].strip("/"))
        entries = self.entries(folder, recursive)
        again = "" if self.circle else f"&n={len(self.asked)}"
        link = next_page(f"{path}?recursive={str(recursive).lower()}&cursor=2{again}")
        more = len(entries) > self.page_size
        return response(body=entries[: self.page_size], **(link if more else {}))


@pytest.mark.parametrize("circle", [True, False], ids=["the same link", "another link each time"])
def test_a_mirror_that_knows_first_pages_only_is_asked_for_each_folder(
    monkeypatch: pytest.MonkeyPatch, circle: bool
) -> None:
    files = [f"{folder}{i}" for folder in ("", "a/", "b/", "b/c/", "b/d e/") for i in range(4)]
    mirror = FirstPageOnly(files, 7, circle=circle)
    monkeypatch.setattr(listing, "_get", mirror)
    assert sorted(repository().list_files(SHA)) == sorted(files)


def told_of(path: str) -> RepoFile:
    return RepoFile(path=path, size=9, oid=SHA, lfs={"size": 9, "oid": SHA256, "pointerSize": 1}, xetHash=XET)


@pytest.mark.parametrize("keeps", ["nothing", "an info without files", "a file"])
def test_a_folder_of_more_than_a_page_is_made_whole_from_the_repositorys_info(
    monkeypatch: pytest.MonkeyPatch, keeps: str
) -> None:
    files = [*(f"f{i:03d}" for i in range(250)), "z/1", "z/2"]
    monkeypatch.setattr(listing, "_get", FirstPageOnly(files, 7, circle=True))
    batches: list[int] = []

    def repo_info(self: HfApi, repo_id: str, **_: Any) -> Any:
        names = [] if keeps == "an info without files" else files
        return ModelInfo(id=repo_id, sha=SHA, siblings=[{"rfilename": name} for name in names])

    def get_paths_info(self: HfApi, repo_id: str, paths: list[str], **_: Any) -> list[RepoFile]:
        batches.append(len(paths))
        return [told_of(path) for path in paths if keeps != "a file" or path != "f100"]

    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    monkeypatch.setattr(HubApi, "get_paths_info", get_paths_info)
    if keeps != "nothing":
        with pytest.raises(FileMetadataError, match=r"the first 7 entries of 'org/name'"):
            repository().list_files(SHA)
        return
    found = repository().list_files(SHA)
    assert sorted(found) == files
    assert found["f000"] == ListedFile(7, SHA)
    assert found["f249"] == ListedFile(9, SHA, SHA256, 9, XET)
    assert batches == [100, 100, 45]


def test_a_listing_that_is_refused_raises_the_hubs_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_get", Pages(response(404, X_Error_Code="RepoNotFound")))
    with pytest.raises(RepositoryNotFoundError):
        repository().list_files(SHA)


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        pytest.param({"error": "no"}, r"expected a list, got \{'error': 'no'\}", id="an object"),
        pytest.param(["a"], "an entry without a path: 'a'", id="a string for an entry"),
        pytest.param([{"type": "file"}], "an entry without a path", id="no path"),
        pytest.param([item("a", oid=None)], "'a' has no object id", id="no object id"),
        pytest.param([item("a", size=-1)], "'a' has a size of -1", id="a negative size"),
        pytest.param([item("a", size=True)], "'a' has a size of True", id="a bool for a size"),
        pytest.param([item("a", lfs="x")], "'a' has no object id", id="a string for lfs"),
        pytest.param(
            [item("a", lfs={"oid": SHA256, "size": 1.5})], r"'a' has a size of 1\.5", id="a broken LFS size"
        ),
        pytest.param(
            [item("a", size=1 << 63)], "'a' has a size of 9223372036854775808", id="no size of a file"
        ),
        pytest.param([item("a", xetHash=5)], "'a' has a Xet hash of 5", id="a number for a Xet hash"),
        pytest.param([{"path": "a", "size": 1, "oid": SHA}], "'a' has no type", id="no type"),
        pytest.param([item("\ud800")], r"'\\ud800' is no text", id="half a surrogate"),
        pytest.param([item("d/" * 2100 + "x")], "is in more than 255 folders", id="2100 folders"),
        pytest.param(
            b"[" + b"1" * 5000 + b"]", "ValueError: Exceeds the limit", id="a number of 5000 digits"
        ),
        pytest.param(b'["\xff"]', "UnicodeDecodeError", id="no encoding"),
    ],
)
def test_a_listing_of_something_else_is_an_error_that_says_what(
    monkeypatch: pytest.MonkeyPatch, page: Any, complaint: str
) -> None:
    monkeypatch.setattr(listing, "_get", Pages(response(body=page)))
    with pytest.raises(FileMetadataError, match=rf"tree/{SHA} cannot be read as a listing.*{complaint}"):
        repository().list_files(SHA)


def test_a_listing_nested_too_deeply_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_get", Pages(response(body=b"[" * 100_000)))
    with pytest.raises(FileMetadataError, match="nested too deeply"):
        repository().list_files(SHA)


@pytest.mark.parametrize(
    "following",
    [
        "http://thief.test\\@hub.test/api/x", "/\\thief.test/api/x", "http://hub.test@thief.test/api/x", "file:///etc/passwd",
        "http://user:pass@hub.test/api/x", "http:///thief.test/api/x", "http://thief.test%5c@hub.test/api/x",
    ],
)  # fmt: skip
def test_a_next_page_that_could_be_anybodys_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, following: str
) -> None:
    pages = Pages(response(body=[item("a")], **next_page(following)))
    monkeypatch.setattr(listing, "_get", pages)
    with pytest.raises(
        FileMetadataError, match=rf"tree/{SHA} cannot be read.*the URL of its next page is invalid"
    ):
        repository().list_files(SHA)
    assert len(pages.asked) == 1


def test_a_next_page_is_asked_for_with_the_bytes_it_was_named_with(monkeypatch: pytest.MonkeyPatch) -> None:
    for raw, quoted in (("ü模".encode(), "%C3%BC%E6%A8%A1"), (b"\xfc", "%FC"), (b"a b", "a%20b")):
        first = http.Response(
            200,
            headers=[(b"Link", b'</api/x?cursor=%s>; rel="next"' % raw)],
            content=json.dumps([item("a")]).encode(),
        )
        answers = iter([first, response(body=[item("b")])])
        with monkeypatch.context() as patch:
            asked = serve(patch, lambda _, answers=answers: next(answers))  # type: ignore[misc]
            assert repository().list_files(SHA).keys() == {"a", "b"}
        assert asked[1].url.raw_path == f"/api/x?cursor={quoted}".encode()


def test_a_next_page_keeps_the_endpoints_own_password(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Pages(
        response(body=[item("a")], **next_page("https://huggingface.co/api/models/org/m/tree/x?cursor=2")),
        response(body=[item("b")], **next_page("https://mirror.test/hf/api/models/org/m/tree/x?cursor=3")),
        response(body=[item("c")]),
    )
    monkeypatch.setattr(listing, "_get", pages)
    mirror = Repository("org/m", endpoint="https://user:pass@mirror.test/hf")
    assert mirror.list_files(SHA).keys() == {"a", "b", "c"}
    assert [url for url, _ in pages.asked[1:]] == [
        f"https://user:pass@mirror.test/hf/api/models/org/m/tree/x?cursor={page}" for page in (2, 3)
    ]


def encoded(data: bytes, encoding: str) -> Any:
    """An answer as it is sent: with its body still compressed."""
    return http.Response(200, headers={"Content-Encoding": encoding}, stream=http.ByteStream(data))


@pytest.mark.parametrize("encoding", ["identity", "gzip", "GZIP", "deflate"])
def test_a_page_is_read_in_any_encoding_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    data = json.dumps([item(f"file {i}") for i in range(50_000)]).encode()
    squeezed = {"identity": data, "deflate": zlib.compress(data)}.get(encoding, gzip.compress(data))
    asked = serve(monkeypatch, lambda _: encoded(squeezed, encoding))
    assert len(repository().list_files(SHA)) == 50_000
    assert asked[0].headers["Accept-Encoding"] == "gzip"
    assert str(asked[0].url).endswith(f"/tree/{SHA}?recursive=true&expand=false")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        pytest.param(lambda: encoded(gzip.compress(b"[" + b" " * 100_000), "gzip"), "more than 0 MiB", id="a bomb"),
        pytest.param(lambda: encoded(b" " * 100_000, ""), "more than 0 MiB", id="too long"),
        pytest.param(lambda: encoded(b"[]", "br"), "Content-Encoding is 'br'", id="not asked for"),
        pytest.param(lambda: encoded(b"[]", "gzip, gzip"), "Content-Encoding is 'gzip, gzip'", id="twice"),
        pytest.param(lambda: encoded(b"[]", "gzip"), "not what its Content-Encoding says", id="not compressed"),
    ],
)  # fmt: skip
def test_a_page_that_is_too_large_or_cannot_be_read_is_an_error(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any], complaint: str
) -> None:
    monkeypatch.setattr(listing, "_PAGE_BYTES", 50_000)
    serve(monkeypatch, lambda _: answer())
    with pytest.raises(FileMetadataError, match=complaint):
        repository().list_files(SHA)


def test_a_bomb_is_not_inflated_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_PAGE_BYTES", 1_000_000)
    bomb = gzip.compress(b" " * 400_000_000, compresslevel=9)
    serve(monkeypatch, lambda _: encoded(bomb, "gzip"))
    tracemalloc.start()
    try:
        with pytest.raises(FileMetadataError, match="one page of it has more than 0 MiB"):
            repository().list_files(SHA)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_page_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(0, 10)

    class Dripping(http.SyncByteStream):  # type: ignore[misc]  # httpx or httpx2, known at run time only
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b" "

    monkeypatch.setattr(listing, "monotonic", lambda: next(seconds))
    serve(monkeypatch, lambda _: http.Response(200, stream=Dripping()))
    with pytest.raises(FileMetadataError, match="takes more than 300 s"):
        repository().list_files(SHA)


class Endless:
    """A mirror whose listing has no end."""

    def __init__(self, *, empty: bool) -> None:
        self.empty = empty
        self.asked = 0

    def __call__(self, url: str, **_: Any) -> Any:
        self.asked += 1
        page = [] if self.empty else [item(f"{self.asked}/{i}") for i in range(1000)]
        return response(body=json.dumps(page).encode(), **next_page(f"{ENDPOINT}/api/x?cursor={self.asked}"))


def test_a_listing_without_end_is_an_error_that_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HAUL_MAX_LISTING", "4500")
    mirror = Endless(empty=False)
    monkeypatch.setattr(listing, "_get", mirror)
    with pytest.raises(FileMetadataError, match=r"more than 4500 entries; HF_HAUL_MAX_LISTING"):
        repository().list_files(SHA)
    assert mirror.asked == 5
    with pytest.raises(FileMetadataError, match="more than 10 entries"):
        repository().list_files(SHA, most=10)


def test_pages_without_entries_do_not_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Endless(empty=True)
    monkeypatch.setattr(listing, "_get", mirror)
    with pytest.raises(FileMetadataError, match="101 consecutive pages are empty"):
        repository().list_files(SHA)
    assert mirror.asked == 101


def test_folders_that_name_folders_for_ever_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror with one page of each folder only, and a folder in each."""

    def deeper(url: str, *, params: Any, **_: Any) -> Any:
        path = url.partition("?")[0]
        folder = unquote(path.partition(f"/tree/{SHA}")[2].strip("/"))
        inner = {"type": "directory", "path": f"{folder}/d".strip("/"), "oid": SHA, "size": 0}
        link = next_page(f"{path}?cursor=2") if params is None or params["recursive"] else {}
        return response(body=[inner], **link)

    monkeypatch.setattr(listing, "_get", deeper)
    with pytest.raises(FileMetadataError, match="is in more than 255 folders"):
        repository().list_files(SHA)
