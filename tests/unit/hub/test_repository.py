from __future__ import annotations

import gzip
import importlib
import itertools
import json
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import huggingface_hub
import pytest
from huggingface_hub import HfApi, ModelInfo, RepoFile, file_download, hf_api, set_client_factory
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import HfFileMetadata
from huggingface_hub.utils import hf_raise_for_status

from hf_haul.errors import ConnectionFailedError, HttpStatusError, UnsafePathError
from hf_haul.hub import repository as hub
from hf_haul.hub.repository import FileMetadata, ListedFile, Repository
from hf_haul.task import Digest

SHA = "a" * 40
SHA256 = "b" * 64
XET = "c" * 64
REDACTED = "*" * 64
ENDPOINT = "http://hub.test:8080"
http: Any = hub._http  # httpx or httpx2, whichever huggingface_hub speaks


def repository(**changes: Any) -> Repository:
    return Repository("org/name", **{"endpoint": ENDPOINT, "token": "hf_secret", **changes})


def response(
    status: int = 200, body: Any = None, url: str = ENDPOINT, method: str = "GET", **headers: str
) -> Any:
    return http.Response(
        status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        content=body if isinstance(body, bytes) else json.dumps(body).encode() if body else b"",
        request=http.Request(method, url),
    )


def error_of(status: int, url: str = ENDPOINT, **headers: str) -> Exception:
    with pytest.raises(HfHubHTTPError) as caught:
        hf_raise_for_status(response(status, url=url, **headers))
    return caught.value


def item(path: str, **more: Any) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": 7, "oid": SHA, **more}


class Pages:
    """Answers tree requests in order, and keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    def __call__(self, url: str, *, params: Any, headers: dict[str, str], **_: Any) -> Any:
        self.asked.append((url, params))
        self.headers.append(headers)
        return self.answers.pop(0)


def next_page(url: str) -> dict[str, str]:
    return {"Link": f'<{url}>; rel="next"'}


# ---- listings


def test_a_listing_holds_every_file_of_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Pages(
        response(
            body=[item("a"), {"type": "directory", "path": "d", "oid": SHA, "size": 0}],
            **next_page(f"{ENDPOINT}/api/models/org/name/tree/{SHA}?cursor=2"),
        ),
        response(body=[item("d/b", lfs={"oid": SHA256, "size": 9, "pointerSize": 1}, xetHash=XET)]),
    )
    monkeypatch.setattr(hub, "_get", pages)
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
    monkeypatch.setattr(hub, "_get", pages)
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
    monkeypatch.setattr(hub, "_get", mirror)
    assert sorted(repository().list_files(SHA)) == sorted(files)


def told_of(path: str) -> RepoFile:
    return RepoFile(path=path, size=9, oid=SHA, lfs={"size": 9, "oid": SHA256, "pointerSize": 1}, xetHash=XET)


@pytest.mark.parametrize("keeps", ["nothing", "an info without files", "a file"])
def test_a_folder_of_more_than_a_page_is_made_whole_from_the_repositorys_info(
    monkeypatch: pytest.MonkeyPatch, keeps: str
) -> None:
    files = [*(f"f{i:03d}" for i in range(250)), "z/1", "z/2"]
    monkeypatch.setattr(hub, "_get", FirstPageOnly(files, 7, circle=True))
    batches: list[int] = []

    def repo_info(self: HfApi, repo_id: str, **_: Any) -> Any:
        names = [] if keeps == "an info without files" else files
        return ModelInfo(id=repo_id, sha=SHA, siblings=[{"rfilename": name} for name in names])

    def get_paths_info(self: HfApi, repo_id: str, paths: list[str], **_: Any) -> list[RepoFile]:
        batches.append(len(paths))
        return [told_of(path) for path in paths if keeps != "a file" or path != "f100"]

    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    monkeypatch.setattr(hub.HubApi, "get_paths_info", get_paths_info)
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
    monkeypatch.setattr(hub, "_get", Pages(response(404, X_Error_Code="RepoNotFound")))
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
    monkeypatch.setattr(hub, "_get", Pages(response(body=page)))
    with pytest.raises(FileMetadataError, match=rf"tree/{SHA} cannot be read as a listing.*{complaint}"):
        repository().list_files(SHA)


def test_a_listing_nested_too_deeply_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_get", Pages(response(body=b"[" * 100_000)))
    with pytest.raises(FileMetadataError, match="nested too deeply"):
        repository().list_files(SHA)


def serve(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any], Any]) -> list[Any]:
    """Have all that is asked through huggingface_hub's client answered by ``answer``; returns the requests."""
    asked: list[Any] = []

    def respond(request: Any) -> Any:
        asked.append(request)
        return answer(request)

    client = http.Client(transport=http.MockTransport(respond))
    monkeypatch.setattr(hub, "get_session", lambda: client)
    return asked


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
    monkeypatch.setattr(hub, "_get", pages)
    with pytest.raises(FileMetadataError, match=rf"tree/{SHA} cannot be read.*its next page has no address"):
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
    monkeypatch.setattr(hub, "_get", pages)
    mirror = Repository("org/m", endpoint="https://user:pass@mirror.test/hf")
    assert mirror.list_files(SHA).keys() == {"a", "b", "c"}
    assert [url for url, _ in pages.asked[1:]] == [
        f"https://user:pass@mirror.test/hf/api/models/org/m/tree/x?cursor={page}" for page in (2, 3)
    ]


@pytest.fixture
def redirecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Has huggingface_hub's client led from one address to the next; yields what was asked."""
    asked: list[Any] = []

    def respond(request: Any) -> Any:
        asked.append(request)
        if request.url.path == "/end":
            return http.Response(
                200, json={"id": "org/m", "sha": SHA}, headers={"X-Repo-Commit": SHA, "ETag": SHA256}
            )
        return http.Response(
            307, headers={"Location": "http://hub.test:81/end"}
        )  # the same host, another origin

    set_client_factory(lambda: http.Client(transport=http.MockTransport(respond), follow_redirects=True))
    yield asked
    set_client_factory(importlib.import_module("huggingface_hub.utils._http").default_client_factory)


def test_huggingface_hubs_client_takes_nothing_secret_elsewhere_for_us(redirecting: list[Any]) -> None:
    home = Repository(
        "org/m", endpoint=ENDPOINT, token="hf_secret", headers={"X-Key": "secret", "Cookie": "secret"}
    )
    home.resolve("main", timeout=3)
    with suppress(Exception):
        home.metadata("a", "main", timeout=3)
    ports = [request.url.port for request in redirecting]
    assert {8080, 81} == set(ports)
    assert {request.url.port for request in redirecting if "secret" in repr(request.headers.raw)} == {8080}


def test_a_mirrors_http_may_lead_to_its_https(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = []
    monkeypatch.setattr(hub, "get_session", lambda: allowed.append(hub._origins_asked.get()))
    with hub.asking("http://mirror.test"):
        hub.get_session()
    assert {"http://mirror.test:80", "https://mirror.test:443"} <= allowed[-1]
    with hub.asking("http://mirror.test:8080"):
        hub.get_session()
    assert not {"https://mirror.test:443", "https://mirror.test:8080"} & allowed[-1]


def test_what_a_body_needs_stays_with_it_wherever_it_goes() -> None:
    headers = {
        "Content-Type": "application/json",
        "Content-Length": "2",
        "X-Key": "secret",
        "Authorization": "secret",
    }
    request = http.Request("POST", "http://thief.test/", headers=headers, content=b"{}")
    with hub.asking(ENDPOINT):
        hub._keep_at_home(request)
    assert {"content-type", "content-length"} <= set(request.headers)
    assert "secret" not in repr(request.headers.raw)


def test_huggingface_hubs_client_does_for_others_what_it_always_did(redirecting: list[Any]) -> None:
    Repository("org/m", endpoint=ENDPOINT).resolve("main", timeout=3)  # we have been there
    redirecting.clear()
    huggingface_hub.get_session().get(f"{ENDPOINT}/x", headers={"X-Key": "the application's"})
    assert {request.headers["X-Key"] for request in redirecting} == {"the application's"}
    hooks = huggingface_hub.get_session().event_hooks["request"]
    assert len(hooks) == len(set(hooks)), "hooked in once"


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
    monkeypatch.setattr(hub, "_PAGE_BYTES", 50_000)
    serve(monkeypatch, lambda _: answer())
    with pytest.raises(FileMetadataError, match=complaint):
        repository().list_files(SHA)


def test_a_bomb_is_not_inflated_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_PAGE_BYTES", 1_000_000)
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

    monkeypatch.setattr(hub, "monotonic", lambda: next(seconds))
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
    monkeypatch.setattr(hub, "_get", mirror)
    with pytest.raises(FileMetadataError, match=r"more than 4500 entries; HF_HAUL_MAX_LISTING"):
        repository().list_files(SHA)
    assert mirror.asked == 5
    with pytest.raises(FileMetadataError, match="more than 10 entries"):
        repository().list_files(SHA, most=10)


def test_pages_without_entries_do_not_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Endless(empty=True)
    monkeypatch.setattr(hub, "_get", mirror)
    with pytest.raises(FileMetadataError, match="101 pages in a row have no entry"):
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

    monkeypatch.setattr(hub, "_get", deeper)
    with pytest.raises(FileMetadataError, match="is in more than 255 folders"):
        repository().list_files(SHA)


@pytest.mark.parametrize(
    ("entry", "digest", "size", "xet"),
    [
        pytest.param(ListedFile(7, SHA), Digest("git-sha1", SHA), 7, None, id="git"),
        pytest.param(
            ListedFile(1, SHA, SHA256, 9, XET), Digest("sha256", SHA256), 9, XET, id="xet"
        ),
        pytest.param(ListedFile(9, SHA, SHA256, 9), Digest("sha256", SHA256), 9, None, id="lfs"),
        pytest.param(
            ListedFile(9, SHA, SHA256, 9, REDACTED), Digest("sha256", SHA256), 9, None,
            id="only the xet hash redacted",
        ),
        pytest.param(ListedFile(9, SHA, REDACTED, 9), None, 9, None, id="digest redacted"),
        pytest.param(ListedFile(9, SHA, None, None, REDACTED), None, 9, None, id="xet without lfs"),
        pytest.param(ListedFile(9, SHA256), None, 9, None, id="another kind of object id"),
        pytest.param(ListedFile(9, "W/x"), None, 9, None, id="no object id"),
    ],
)  # fmt: skip
def test_a_listing_is_trusted_only_where_it_names_a_digest(
    entry: ListedFile, digest: Digest | None, size: int, xet: str | None
) -> None:
    assert entry.digest == digest
    assert entry.bytes == size
    assert entry.valid_xet_hash == xet
    known = hub.metadata_from_listing(SHA, entry)
    assert known == (None if digest is None else FileMetadata(SHA, digest.value, size, xet))


def test_only_files_without_a_digest_cost_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def metadata(self: Repository, path: str, revision: str, **_: Any) -> FileMetadata:
        asked.append(path)
        if path == "refused":
            raise FileMetadataError("no")
        return FileMetadata(revision, SHA256, 5)

    monkeypatch.setattr(Repository, "metadata", metadata)
    listing = {"plain": ListedFile(7, SHA), "odd": ListedFile(7, "?"), "refused": ListedFile(7, "?")}
    known, failed = repository().complete(listing, SHA, timeout=1)
    assert sorted(asked) == ["odd", "refused"]
    assert known == {"plain": FileMetadata(SHA, SHA, 7), "odd": FileMetadata(SHA, SHA256, 5)}
    assert [(path, str(error)) for path, error in failed.items()] == [("refused", "no")]


@pytest.mark.parametrize(
    ("size", "etag", "known"),
    [
        pytest.param(5, SHA, 5, id="a size"),
        pytest.param(0, SHA, None, id="0, of a file that is not empty"),
        pytest.param(0, SHA256, None, id="the same by sha256"),
        pytest.param(0, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", 0, id="an empty file"),
        pytest.param(0, "any", 0, id="0, of who knows what"),
        pytest.param(1 << 63, "any", None, id="more than any file has"),
        pytest.param(-1, "any", None, id="less"),
    ],
)
def test_a_size_that_cannot_be_the_files_is_unknown(
    monkeypatch: pytest.MonkeyPatch, size: int, etag: str, known: int | None
) -> None:
    answer_with(monkeypatch, head(etag=etag, size=size))
    found = repository().metadata("a", SHA, timeout=1)
    assert found.size == known
    assert repository().remote_file("a", found).size == known
    if etag == SHA and size >= 0:
        listed = hub.metadata_from_listing(SHA, ListedFile(size, SHA))
        assert listed is not None
        assert listed.size == known


# ---- what is no answer of a Hub


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"x"', id="a string"),
        pytest.param(b"5", id="a number"),
        pytest.param(b"{}", id="no id"),
        pytest.param(b'{"id": "a/b"}', id="no commit"),
        pytest.param(b'{"id": "a/b", "sha": {}}', id="an object for a commit"),
        pytest.param(b'{"id": "a/b", "sha": "\\ud800"}', id="half a surrogate for a commit"),
        pytest.param(b'{"id": "a/b", "sha": "x", "createdAt": "tomorrow"}', id="no date"),
        pytest.param(b'{"id": "a/b", "sha": "x", "siblings": 5}', id="a number for files"),
        pytest.param(b'{"id": "a/b", "sha": "x", "siblings": [5]}', id="a number for a file"),
        pytest.param(b"[" * 100_000, id="nested"),
        pytest.param(b'{"id": ' + b"1" * 5000 + b"}", id="5000 digits"),
        pytest.param(b'{"id": "\xff"}', id="no encoding"),
    ],
)
def test_an_answer_about_a_revision_that_cannot_be_read_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, waits: Waits, answer: bytes
) -> None:
    serve_all(monkeypatch, lambda _: http.Response(200, content=answer))
    with pytest.raises((FileMetadataError, UnsafePathError), match=r"org/name|not a safe|commit"):
        repository().resolve("main", timeout=1)


def serve_all(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any], Any]) -> list[Any]:
    """As :func:`serve`, for huggingface_hub's own requests, too."""
    asked = serve(monkeypatch, answer)
    monkeypatch.setattr(hf_api, "get_session", hub.get_session)
    return asked


def test_somebodys_web_page_is_an_error_that_names_it_after_some_patience(
    monkeypatch: pytest.MonkeyPatch, waits: Waits
) -> None:
    asked = serve_all(monkeypatch, lambda _: http.Response(200, content=b"<html>"))
    with pytest.raises(
        FileMetadataError, match=r"hub\.test:8080/org/name cannot be understood: JSONDecodeError"
    ):
        repository().resolve("main", timeout=1)
    with pytest.raises(FileMetadataError, match=f"tree/{SHA} cannot be understood: JSONDecodeError"):
        repository().list_files(SHA)
    assert len(asked) == 12


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"{}", id="an object"),
        pytest.param(b"[5]", id="a number"),
        pytest.param(b'[{"path": "a"}]', id="nothing but a name"),
        pytest.param(
            json.dumps([item("a", lfs={"oid": SHA256, "size": 5})]).encode(), id="no size of a pointer"
        ),
        pytest.param(json.dumps([item("a", lastCommit={"id": 1})]).encode(), id="half a commit"),
        pytest.param(json.dumps([item("a", securityFileStatus={})]).encode(), id="half a scan"),
    ],
)
def test_what_is_said_of_single_files_and_cannot_be_read_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    serve_all(monkeypatch, lambda _: http.Response(200, content=answer))
    with pytest.raises(FileMetadataError, match=f"paths-info/{SHA}.*cannot be"):
        hub.HubApi(ENDPOINT, token=False).get_paths_info("org/name", ["a"], revision=SHA)


def test_single_files_are_asked_about_as_huggingface_hub_does_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = serve_all(monkeypatch, lambda _: http.Response(200, content=json.dumps([item("a b")])))
    for api in (HfApi(ENDPOINT, token=False), hub.HubApi(ENDPOINT, token=False)):
        (found,) = api.get_paths_info(
            "org/name", "a b", revision="refs/pr/1", expand=True, repo_type="dataset"
        )
        assert isinstance(found, RepoFile)
        assert (found.path, found.size, found.blob_id) == ("a b", 7, SHA)
    theirs, ours = asked
    assert (ours.method, ours.url, ours.content) == (theirs.method, theirs.url, theirs.content)
    assert set(ours.extensions["timeout"].values()) == {hub.PATIENT_TIMEOUT}


def test_a_revision_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    info = json.dumps({"id": "org/name", "sha": SHA}).encode()
    asked = serve_all(monkeypatch, lambda _: http.Response(200, content=info))
    assert hub.HubApi(ENDPOINT, token=False).repo_info("org/name").sha == SHA
    assert set(asked[0].extensions["timeout"].values()) == {hub.PATIENT_TIMEOUT}


@pytest.mark.parametrize(("seconds", "expected"), [(10, 75.0), (5, 5.0), (300, 300.0)])
def test_the_time_out_of_questions_about_metadata_is_huggingface_hubs_where_it_is_set(
    monkeypatch: pytest.MonkeyPatch, seconds: int, expected: float
) -> None:
    monkeypatch.setattr(hub.constants, "HF_HUB_ETAG_TIMEOUT", seconds)
    assert hub.patient_timeout() == expected
    asked = serve_all(monkeypatch, lambda _: http.Response(200, content=b"[]"))
    repository().list_files(SHA)
    assert asked[0].extensions["timeout"]["read"] == expected


@pytest.mark.parametrize(
    "body",
    [b"[1]", b'{"errors": 5}', b"[" * 100_000, b'{"error": {"a": 1}}', b"\xff"],
    ids=lambda b: repr(b[:10]),
)
def test_a_refusal_whose_words_cannot_be_read_is_a_refusal_all_the_same(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    refused = HttpStatusError("no", status=403, url=f"{ENDPOINT}/x", body=body)
    assert isinstance(repository().explain("a", SHA, refused), HfHubHTTPError)
    serve_all(monkeypatch, lambda _: http.Response(403, content=body))
    with pytest.raises(HfHubHTTPError):
        repository().list_files(SHA)


# ---- headers, origins, requests


def test_every_request_names_the_caller_and_counts_as_a_download() -> None:
    headers = repository(library_name="lib", library_version="1", headers={"x-mine": "1"})
    sent = headers.request_headers
    assert sent["authorization"] == "Bearer hf_secret"
    assert sent["user-agent"].startswith("lib/1; ")
    assert sent["x-mine"] == "1"
    if hub.constants.__dict__.get("X_HF_DOWNLOAD_COUNTER"):
        assert sent["X-HF-Download-Counter"] == "1"


def test_without_a_token_none_is_sent() -> None:
    assert "authorization" not in repository(token=False).request_headers


def test_a_remote_file_is_pinned_to_its_commit_and_carries_its_digest() -> None:
    file = repository(repo_type="dataset").remote_file("a b/c?.bin", FileMetadata(SHA, SHA256, 5, XET))
    assert file.url == f"{ENDPOINT}/datasets/org/name/resolve/{SHA}/a%20b/c%3F.bin"
    assert file.digest == Digest("sha256", SHA256)
    assert (file.size, file.etag, file.xet_hash) == (5, SHA256, XET)
    assert file.headers["authorization"] == "Bearer hf_secret"
    assert "hf_secret" not in repr(file)
    assert {ENDPOINT, "https://huggingface.co:443"} <= file.trusted_origins
    assert "http://huggingface.co:80" not in file.trusted_origins


def test_a_repository_never_prints_its_token() -> None:
    assert "secret" not in repr(repository(headers={"authorization": "Bearer hf_secret"}))


# ---- metadata of one file


def answer_with(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []

    def fake(**arguments: Any) -> Any:
        asked.append(arguments)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(file_download, "get_hf_file_metadata", fake)
    return asked


def head(commit: str | None = SHA, etag: str | None = SHA256, size: int | None = 5) -> HfFileMetadata:
    return HfFileMetadata(commit_hash=commit, etag=etag, location="http://x", size=size, xet_file_data=None)


def test_metadata_come_from_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, head(size=None))
    found = repository().metadata("a", "refs/pr/1", timeout=3, patient=True)
    assert found == FileMetadata(SHA, SHA256, None, location="http://x")
    assert asked[0]["url"] == f"{ENDPOINT}/org/name/resolve/refs%2Fpr%2F1/a"
    assert (asked[0]["timeout"], asked[0]["retry_on_errors"]) == (3, False)


class Listed:
    """Stands for the API of a mirror."""

    def __init__(self, found: list[Any] | Exception) -> None:
        self.found = found

    def get_paths_info(self, repo_id: str, paths: list[str], **_: Any) -> list[Any]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def repo_file(path: str) -> Any:
    return hub.RepoFile(path=path, size=7, oid=SHA)


@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param(head(commit=None), id="no commit"),
        pytest.param(head(etag=None), id="no etag"),
        pytest.param("elsewhere", id="refused by a file server behind a redirect"),
    ],
)
def test_a_mirror_that_answers_no_hub_metadata_is_asked_for_its_listing(
    monkeypatch: pytest.MonkeyPatch, outcome: Any
) -> None:
    if outcome == "elsewhere":
        outcome = error_of(405, url=f"{ENDPOINT}/storage/a")
    answer_with(monkeypatch, outcome)
    repo = repository()
    repo.__dict__["_api"] = Listed([repo_file("other"), repo_file("a")])
    assert repo.metadata("a", SHA, timeout=1) == FileMetadata(SHA, SHA, 7)


@pytest.mark.parametrize(
    "listed",
    [
        pytest.param([], id="not listed"),
        pytest.param([repo_file("other")], id="another file"),
        pytest.param(KeyError("size"), id="no proper listing"),
        pytest.param("refused", id="listing refused"),
    ],
)
def test_the_first_error_stands_where_the_listing_does_not_help(
    monkeypatch: pytest.MonkeyPatch, listed: Any
) -> None:
    answer_with(monkeypatch, head(commit=None))
    repo = repository()
    repo.__dict__["_api"] = Listed(error_of(500) if listed == "refused" else listed)
    with pytest.raises(FileMetadataError, match="X-Repo-Commit"):
        repo.metadata("a", SHA, timeout=1)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(404, "EntryNotFound", RemoteEntryNotFoundError), (403, "GatedRepo", GatedRepoError)],
)
def test_what_the_hub_itself_refuses_is_not_looked_up_elsewhere(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[Exception]
) -> None:
    answer_with(monkeypatch, error_of(status, url=f"{ENDPOINT}/elsewhere", X_Error_Code=code))
    repo = repository()
    repo.__dict__["_api"] = Listed([repo_file("a")])
    with pytest.raises(kind):
        repo.metadata("a", SHA, timeout=1)


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "text"),
    [
        pytest.param(
            403, {"X-Error-Code": "GatedRepo", "Content-Encoding": "gzip", "Content-Length": "9"}, b"Ask first",
            GatedRepoError, "Ask first", id="gated",
        ),
        pytest.param(404, {"x-error-code": "EntryNotFound"}, b"", RemoteEntryNotFoundError, "Entry Not Found", id="no file"),
        pytest.param(410, {}, b'{"error": "Moved out"}', HfHubHTTPError, "Moved out", id="another status"),
    ],
)  # fmt: skip
def test_a_refused_download_is_explained_in_the_hubs_words(
    status: int, headers: dict[str, str], body: bytes, kind: type[Exception], text: str
) -> None:
    refused = HttpStatusError("no", status=status, url=f"{ENDPOINT}/x", headers=headers, body=body)
    explained = repository().explain("a", SHA, refused)
    assert type(explained) is kind
    assert text in str(explained)
    assert explained.response.status_code == status  # type: ignore[attr-defined]  # kind says so


def test_other_failures_keep_their_own_error() -> None:
    lost = ConnectionFailedError("lost")
    assert repository().explain("a", SHA, lost) is lost
    odd = HttpStatusError("odd", status=200, url=ENDPOINT)
    assert repository().explain("a", SHA, odd) is odd


# ---- patience


class Waits:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    waits = Waits()
    monkeypatch.setattr(hub, "time", SimpleNamespace(sleep=waits))  # not the sleep of other threads
    return waits


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def ask() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return ask


@pytest.mark.parametrize(
    ("error", "waited"),
    [
        pytest.param(lambda: error_of(503), 1.0, id="503"),
        pytest.param(lambda: error_of(429, Retry_After="7"), 7.0, id="429 with Retry-After"),
        pytest.param(lambda: error_of(503, Retry_After="9" * 400), 120.0, id="503 that asks for ages"),
        pytest.param(lambda: error_of(429, Retry_After="9" * 400), 3600.0, id="429 that asks for ages"),
        pytest.param(
            lambda: HfHubHTTPError("busy", response=response(429, RateLimit='"api";r=0;t=' + "9" * 5000)),
            3600.0, id="a window without end",
        ),
        pytest.param(lambda: error_of(429, Retry_After="0"), 1.0, id="429 that says at once"),
        pytest.param(lambda: error_of(429, RateLimit='"api";r=0;t=3'), 4.0, id="429 with RateLimit"),
        pytest.param(lambda: error_of(429, RateLimit='"api";r=9;t=3'), 1.0, id="429 with quota left"),
        pytest.param(lambda: http.ReadTimeout("slow"), 1.0, id="timeout"),
    ],
)  # fmt: skip
def test_an_error_that_may_pass_is_waited_out(
    waits: Waits, error: Callable[[], Exception], waited: float
) -> None:
    assert hub.ask_patiently(failing(error())) == "answer"
    assert waits.seconds == [waited]


def test_patience_ends_after_five_waits_with_the_last_error(waits: Waits) -> None:
    with pytest.raises(HfHubHTTPError, match="/5"):
        hub.ask_patiently(failing(*(error_of(503, url=f"{ENDPOINT}/{i}") for i in range(6))))
    assert waits.seconds == [1.0, 2.0, 4.0, 8.0, 8.0]


def test_a_hub_that_never_answers_is_asked_twice(waits: Waits) -> None:
    with pytest.raises(http.ReadTimeout, match="1"):
        hub.ask_patiently(failing(*(http.ReadTimeout(str(i)) for i in range(6))))
    assert waits.seconds == [1.0]


@pytest.mark.parametrize(
    ("status", "asked", "waited"),
    [
        pytest.param(503, 50, [50.0, 50.0, 20.0], id="two minutes of a server that is busy"),
        pytest.param(503, 10**9, [120.0], id="a server that is busy for ages"),
        pytest.param(429, 1500, [1500.0, 1500.0, 600.0], id="an hour of one that counts requests"),
    ],
)
def test_patience_with_a_server_that_names_a_time_is_bounded_in_all(
    waits: Waits, status: int, asked: int, waited: list[float]
) -> None:
    busy = [error_of(status, Retry_After=str(asked)) for _ in range(6)]
    with pytest.raises(HfHubHTTPError, match=str(status)):
        hub.ask_patiently(failing(*busy))
    assert waits.seconds == waited


def test_a_page_and_the_metadata_of_a_file_are_waited_for_as_everything_is(
    monkeypatch: pytest.MonkeyPatch, waits: Waits
) -> None:
    monkeypatch.setattr(
        hub, "_get", Pages(response(503, Retry_After="10000000000"), response(body=[item("a")]))
    )
    assert list(repository().list_files(SHA)) == ["a"]
    answers = iter([error_of(429, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"), head()])

    def asked(**_: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(file_download, "get_hf_file_metadata", asked)
    assert repository().metadata("a", SHA, timeout=3, patient=True).etag == SHA256
    assert waits.seconds == [120.0, 3600.0]


def test_the_error_of_a_question_that_nobody_answered_in_time_names_the_setting(waits: Waits) -> None:
    with pytest.raises(http.ReadTimeout, match=r"^slow \(HF_HUB_ETAG_TIMEOUT sets how long is waited\)$"):
        hub.ask_patiently(failing(*(http.ReadTimeout("slow") for _ in range(6))))


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(lambda: error_of(403), id="refused"),
        pytest.param(lambda: http.ConnectError("refused"), id="nobody there"),
        pytest.param(lambda: http.ConnectTimeout("silence"), id="no way there"),
    ],
)
def test_an_error_that_will_not_pass_is_raised_at_once(waits: Waits, error: Callable[[], Exception]) -> None:
    with pytest.raises((HfHubHTTPError, http.ConnectError, http.ConnectTimeout)):
        hub.ask_patiently(failing(error()))
    assert waits.seconds == []


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (lambda: error_of(500), True),
        (lambda: error_of(408), True),
        (lambda: error_of(404), False),
        (lambda: http.ReadError("reset"), True),
        (lambda: http.RemoteProtocolError("cut"), True),
        (lambda: FileMetadataError("no"), False),
        (lambda: hub.OfflineModeIsEnabled("off"), False),
    ],
)
def test_transient_errors_are_told_from_lasting_ones(error: Callable[[], Exception], transient: bool) -> None:
    assert hub.is_transient(error()) is transient


def test_a_kept_error_holds_no_frames() -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner

    with pytest.raises(ValueError, match="outer") as caught:
        fail()
    error = caught.value
    hub.detach_tracebacks(error)
    assert error.__traceback__ is None
    assert error.__cause__ is not None
    assert error.__cause__.__traceback__ is None


@pytest.mark.parametrize(
    ("etag", "algorithm"),
    [
        (SHA, "git-sha1"),
        (SHA256, "sha256"),
        ("d41d8cd98f00b204e9800998ecf8427e", None),
        ("A" * 40, None),
        ("5d41-2", None),
        ("", None),
    ],
)
def test_an_etag_is_a_digest_only_in_the_hubs_own_forms(etag: str, algorithm: str | None) -> None:
    digest = hub.digest_from_etag(etag)
    assert (None if digest is None else digest.algorithm) == algorithm


@pytest.mark.parametrize(
    ("revision", "commit"),
    [("main", False), (SHA, True), (SHA + "\n", False), (SHA[:12], False), (SHA256, False)],
)
def test_only_forty_hex_digits_are_a_commit(revision: str, commit: bool) -> None:
    assert hub.is_commit(revision) is commit


# ---- kept listings


def test_a_kept_listing_is_the_one_huggingface_hub_keeps(tmp_path: Path) -> None:
    listing = {"a": ListedFile(7, SHA), "b": ListedFile(9, SHA, SHA256, 9, XET)}
    hub.write_tree(str(tmp_path), SHA, listing)
    kept = json.loads((tmp_path / "trees" / f"{SHA}.json").read_text())
    assert kept == {
        "format_version": 1,
        "files": {
            "a": {"size": 7, "blob_id": SHA},
            "b": {
                "size": 9,
                "blob_id": SHA,
                "lfs_sha256": SHA256,
                "lfs_size": 9,
                "xet_hash": XET,
            },
        },
    }
    assert hub.read_tree(str(tmp_path), SHA) == listing
    assert hub.read_tree(str(tmp_path), "d" * 40) is None


def test_huggingface_hub_keeps_few_listings_in_memory_however_many_are_written_and_read(
    tmp_path: Path,
) -> None:
    folders = [str(tmp_path / str(number)) for number in range(50)]
    memory = importlib.import_module("huggingface_hub._tree_cache")._IN_MEMORY_TREE_CACHE
    memory.clear()
    for folder in folders:
        hub.write_tree(folder, SHA, {"a": ListedFile(7, SHA)})
    assert 0 < len(memory) <= 10
    for folder in folders:
        assert hub.read_tree(folder, SHA) == {"a": ListedFile(7, SHA)}
    assert 0 < len(memory) <= 10
    assert any(name.startswith(folders[-1]) for name in memory), "the latest are those that are kept"


def test_a_redacted_listing_is_not_kept(tmp_path: Path) -> None:
    hub.write_tree(str(tmp_path), SHA, {"a": ListedFile(7, SHA, SHA256, 7, REDACTED)})
    assert not (tmp_path / "trees").exists()


def test_without_upstreams_cache_of_listings_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_tree_cache", lambda: None)
    hub.write_tree(str(tmp_path), SHA, {"a": ListedFile(7, SHA)})
    assert hub.read_tree(str(tmp_path), SHA) is None
    assert not (tmp_path / "trees").exists()


def test_a_damaged_listing_is_no_listing(tmp_path: Path) -> None:
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees" / f"{SHA}.json").write_text("{")
    assert hub.read_tree(str(tmp_path), SHA) is None


def test_a_cache_folder_answers_symlinks_as_huggingface_hub_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda folder: False)
    folder = hub.cache_folder(repository(), str(tmp_path))
    assert folder.root == str(tmp_path / "models--org--name")
    assert not folder.symlinks
    assert folder.share is None


def test_metadata_are_asked_for_by_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4, timeout=10)

    def metadata(self: Repository, path: str, revision: str, **_: Any) -> FileMetadata:
        together.wait()
        return FileMetadata(revision, SHA256, 5)

    monkeypatch.setattr(Repository, "metadata", metadata)
    known, failed = repository().complete({str(i): ListedFile(1, "?") for i in range(4)}, SHA, timeout=1)
    assert len(known) == 4
    assert failed == {}


def test_what_a_file_is_confirmed_by_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []

    def single_files(self: Repository, paths: list[str], commit: str) -> dict[str, ListedFile]:
        asked.append(paths)
        if len(asked) == 1:
            raise error_of(503)
        return {"a": ListedFile(7, SHA)}

    monkeypatch.setattr(Repository, "single_files", single_files)
    file = repository().remote_file("a", FileMetadata(SHA, "d" * 40, 7))
    assert file.digest_is_etag
    confirm = file.confirm
    assert confirm is not None
    with pytest.raises(HfHubHTTPError):
        confirm()
    assert [confirm(), confirm()] == [Digest("git-sha1", SHA)] * 2
    assert asked == [["a"], ["a"]]


def test_no_message_about_an_answer_shows_a_password(monkeypatch: pytest.MonkeyPatch, waits: Waits) -> None:
    serve_all(monkeypatch, lambda _: http.Response(200, content=b"[]"))
    secret = repository(endpoint="http://user:secret@hub.test:8080")
    with pytest.raises(FileMetadataError) as caught:
        secret.resolve("main", timeout=1)
    assert "secret" not in str(caught.value)
    assert "secret" not in secret.remote_file("a", FileMetadata(SHA, SHA256, 5)).announced_by
