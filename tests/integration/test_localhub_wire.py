"""What the local hub answers on the wire, seen with plain requests."""

from __future__ import annotations

import base64
import gzip
import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests
from tests.support.repos import make_sparse_file, random_bytes

from hf_haul.localhub import Account, LocalHub, Repo, pace, sending
from hf_haul.localhub.objects import lfs_pointer
from hf_haul.localhub.replies import Reply

TOKEN = "hf_ann"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
ODD = "odd names/hash%20? & #1.txt"
WEIGHTS = random_bytes(300_000, "weights")
FILES = {"config.json": b'{"a": 1}' * 100, "w.bin": WEIGHTS, ODD: b"odd", "empty.txt": b"", "x.bin": b"xet"}
XET_HASH = "cd" * 32


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    public, private = Repo("org/pub"), Repo("org/priv", private=True)
    for repo in (public, private):
        repo.commit(FILES, xet_hashes={"x.bin": XET_HASH})
    with LocalHub(public, private, accounts=[Account("ann", TOKEN, repos=("*",))]) as made:
        yield made


def commit_of(hub: LocalHub, repo_id: str = "org/pub") -> str:
    repo = hub.catalog.get("model", repo_id)
    assert repo is not None
    return repo.head.id


def signed_url(session: requests.Session, hub: LocalHub, path: str = "w.bin") -> str:
    answer = session.get(f"{hub.url}/org/pub/resolve/main/{path}", allow_redirects=False)
    return answer.headers["Location"]


# -- resolve, shapes A, B and C


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_shape_a_a_public_git_file_is_a_relative_redirect(
    hub: LocalHub, session: requests.Session, method: str
) -> None:
    url = f"{hub.url}/org/pub/resolve/main/{quote(ODD)}"
    answer = session.request(method, url, allow_redirects=False)
    oid = hashlib.sha1(b"blob 3\0odd").hexdigest()
    assert answer.status_code == 307
    location = answer.headers["Location"]
    assert location.startswith(
        f"/api/resolve-cache/models/org/pub/{commit_of(hub)}/{quote(ODD)}?%2Forg%2Fpub%2Fresolve%2Fmain%2F"
    )
    assert location.endswith(f"=&etag=%22{oid}%22")
    assert answer.headers["X-Repo-Commit"] == commit_of(hub)
    assert answer.headers["X-Linked-Etag"] == f'"{oid}"'
    assert answer.headers["X-Linked-Size"] == "3"
    assert "ETag" not in answer.headers
    final = session.request(method, hub.url + location)
    assert final.status_code == 200
    assert final.headers["ETag"] == f'"{oid}"'
    assert final.headers["Content-Length"] == "3"
    assert final.headers["X-Repo-Commit"] == commit_of(hub)
    assert final.content == (b"odd" if method == "GET" else b"")


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_shape_b_an_lfs_file_is_a_redirect_to_the_other_origin(
    hub: LocalHub, session: requests.Session, method: str
) -> None:
    url = f"{hub.url}/org/pub/resolve/main/w.bin?download=true"
    answer = session.request(method, url, allow_redirects=False)
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(f"{hub.cdn_url}/")
    assert answer.headers["X-Repo-Commit"] == commit_of(hub)
    assert answer.headers["X-Linked-Etag"] == f'"{sha256}"'
    assert answer.headers["X-Linked-Size"] == str(len(WEIGHTS))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "ETag" not in answer.headers
    assert "X-Xet-Hash" not in answer.headers
    final = session.get(answer.headers["Location"])
    assert final.content == WEIGHTS
    assert sha256 not in final.headers["ETag"]
    assert "X-Repo-Commit" not in final.headers  # it is not a Hub
    assert f"filename*=UTF-8''{'w.bin'}" in final.headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("header", "status", "body"),
    [
        pytest.param(None, 200, FILES["config.json"], id="whole"),
        pytest.param("bytes=1-3", 206, b'"a"', id="range"),
        pytest.param("bytes=800-", 416, b"", id="past the end"),
    ],
)
def test_shape_c_a_private_git_file_is_the_answer_itself(
    hub: LocalHub, session: requests.Session, header: str | None, status: int, body: bytes
) -> None:
    headers = {**AUTH, "Accept-Encoding": "identity"} | ({"Range": header} if header else {})
    url = f"{hub.url}/org/priv/resolve/main/config.json"
    answer = session.get(url, headers=headers, allow_redirects=False)
    assert answer.status_code == status
    if status == 416:
        assert answer.headers["Content-Range"] == "bytes */800"
        return
    assert answer.content == body
    data = FILES["config.json"]
    assert answer.headers["ETag"] == f'"{hashlib.sha1(b"blob 800" + bytes(1) + data).hexdigest()}"'
    assert answer.headers["X-Repo-Commit"] == commit_of(hub, "org/priv")
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["Content-Disposition"].startswith("inline; filename*=UTF-8''config.json")


def test_an_empty_file_has_a_length_of_zero(hub: LocalHub, session: requests.Session) -> None:
    for method in ("HEAD", "GET"):
        answer = session.request(method, f"{hub.url}/org/pub/resolve/main/empty.txt")
        assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"", "0")


def test_a_known_etag_costs_no_body(hub: LocalHub, session: requests.Session) -> None:
    url = f"{hub.url}/org/priv/resolve/main/config.json"
    etag = session.get(url, headers=AUTH).headers["ETag"]
    answer = session.get(url, headers={**AUTH, "If-None-Match": etag})
    assert (answer.status_code, answer.content) == (304, b"")
    # The connection is still in step: a body after a 304 would be read as the next answer.
    assert session.get(url, headers=AUTH).content == FILES["config.json"]


def test_raw_gives_the_pointer_of_an_lfs_file(hub: LocalHub, session: requests.Session) -> None:
    answer = session.get(f"{hub.url}/org/pub/raw/main/w.bin")
    assert answer.content == lfs_pointer(hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))
    assert session.get(f"{hub.url}/org/pub/raw/main/config.json").content == FILES["config.json"]


def test_gzip_has_no_length_and_ignores_ranges(hub: LocalHub, session: requests.Session) -> None:
    hub.options.gzip_git_files = True
    url = f"{hub.url}/org/priv/resolve/main/config.json"
    headers = {**AUTH, "Accept-Encoding": "gzip", "Range": "bytes=1-3"}
    answer = session.get(url, headers=headers, stream=True)
    assert answer.status_code == 200
    assert gzip.decompress(answer.raw.read(decode_content=False)) == FILES["config.json"]
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["ETag"].startswith('W/"')
    assert "Content-Length" not in answer.headers
    identity = session.get(url, headers={**headers, "Accept-Encoding": "identity"})
    assert (identity.status_code, identity.content) == (206, b'"a"')


def test_lfs_on_the_same_origin_looks_like_a_hub(hub: LocalHub, session: requests.Session) -> None:
    hub.options.lfs = "same_origin"
    location = signed_url(session, hub)
    assert location.startswith(hub.url)
    head = session.head(location)
    assert head.status_code == 200
    assert head.headers["ETag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert head.headers["X-Repo-Commit"] == commit_of(hub)
    assert session.get(location, headers=AUTH).content == WEIGHTS


def test_lfs_direct_is_ranged_too(hub: LocalHub, session: requests.Session) -> None:
    hub.options.lfs = "direct"
    url = f"{hub.url}/org/pub/resolve/main/w.bin"
    answer = session.get(url, headers={"Range": "bytes=-5"}, allow_redirects=False)
    assert (answer.status_code, answer.content) == (206, WEIGHTS[-5:])
    assert answer.headers["ETag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'


@pytest.mark.parametrize(("names", "length"), [("sha1", 40), ("sha256", 64), ("asked", 4)])
def test_commits_can_have_odd_names(
    hub: LocalHub, session: requests.Session, names: str, length: int
) -> None:
    hub.options.commit_names = names  # type: ignore[assignment]  from a table
    head = session.head(f"{hub.url}/org/pub/resolve/main/config.json", allow_redirects=True)
    commit = head.headers["X-Repo-Commit"]
    assert len(commit) == length
    assert session.get(f"{hub.url}/api/models/org/pub/revision/{commit}").json()["sha"] == commit


def test_etags_can_be_without_quotes(hub: LocalHub, session: requests.Session) -> None:
    hub.options.quoted_etags = False
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    head = session.head(f"{hub.url}/org/pub/resolve/main/w.bin")
    assert head.headers["X-Linked-Etag"] == sha256
    assert '"' not in session.get(head.headers["Location"]).headers["ETag"]


# -- the other origin


@pytest.mark.parametrize(
    ("header", "status", "body", "content_range"),
    [
        ("bytes=0-9", 206, WEIGHTS[:10], "bytes 0-9/300000"),
        ("bytes=299990-", 206, WEIGHTS[-10:], "bytes 299990-299999/300000"),
        ("bytes=-10", 206, WEIGHTS[-10:], "bytes 299990-299999/300000"),
        ("bytes=299990-999999", 206, WEIGHTS[-10:], "bytes 299990-299999/300000"),
        ("bytes=0-1,5-6", 200, WEIGHTS, None),
        ("bytes=x", 200, WEIGHTS, None),
        ("bytes=300000-", 416, None, "bytes */300000"),
    ],
)
def test_the_other_origin_serves_ranges(
    hub: LocalHub,
    session: requests.Session,
    header: str,
    status: int,
    body: bytes | None,
    content_range: str | None,
) -> None:
    answer = session.get(signed_url(session, hub), headers={"Range": header})
    assert answer.status_code == status
    assert answer.headers.get("Content-Range") == content_range
    if body is None:
        assert b"<Code>InvalidRange</Code>" in answer.content
    else:
        assert answer.content == body
        assert answer.headers["Content-Length"] == str(len(body))


def test_if_range_with_another_etag_gives_the_whole_file(hub: LocalHub, session: requests.Session) -> None:
    url = signed_url(session, hub)
    etag = session.get(url).headers["ETag"]
    for given, status in ((etag, 206), ('"other"', 200)):
        answer = session.get(url, headers={"Range": "bytes=0-9", "If-Range": given})
        assert answer.status_code == status


def test_the_other_origin_refuses_what_s3_refuses(hub: LocalHub, session: requests.Session) -> None:
    url = signed_url(session, hub)
    parts = urlsplit(url)
    other = signed_url(session, hub, "x.bin")
    refused = {
        "head": session.head(url),
        "token": session.get(url, headers=AUTH),
        "no signature": session.get(f"{hub.cdn_url}{parts.path}"),
        "another file": session.get(f"{hub.cdn_url}{urlsplit(other).path}?{parts.query}"),
        "root": session.get(hub.cdn_url),
    }
    assert {name: answer.status_code for name, answer in refused.items()} == {
        "head": 403,
        "token": 400,
        "no signature": 403,
        "another file": 403,
        "root": 403,
    }
    assert b"<Code>AccessDenied</Code>" in refused["no signature"].content
    assert all("X-Error-Code" not in answer.headers for answer in refused.values())


def test_signed_urls_expire_and_a_new_one_is_good(hub: LocalHub, session: requests.Session) -> None:
    old = signed_url(session, hub)
    assert session.get(old).status_code == 200
    hub.expire_urls()
    expired = session.get(old)
    assert expired.status_code == 403
    assert b"<Message>Request has expired</Message>" in expired.content
    assert session.get(signed_url(session, hub)).content == WEIGHTS
    hub.signer.lifetime = 0
    assert session.get(signed_url(session, hub)).status_code == 403


# -- listings


def test_the_next_page_is_at_the_address_the_client_used(hub: LocalHub, session: requests.Session) -> None:
    hub.options.page_size = 2
    port = urlsplit(hub.url).port
    url = f"http://localhost:{port}/api/models/org/pub/tree/main?recursive=true&expand=false"
    names: list[str] = []
    while url:
        answer = session.get(url)
        rows = answer.json()
        assert len(rows) <= 2
        names += [row["path"] for row in rows]
        url = answer.links.get("next", {}).get("url", "")
        if url:
            assert url.startswith(f"http://localhost:{port}/api/models/org/pub/tree/main?")
            query = parse_qs(urlsplit(url).query)
            assert query["recursive"] == ["true"]
            assert query["limit"] == ["2"]
    assert names == ["odd names", "config.json", "empty.txt", ODD, "w.bin", "x.bin"]


def test_a_page_can_point_elsewhere_to_test_clients(hub: LocalHub, session: requests.Session) -> None:
    hub.options.page_size = 2
    hub.options.link_origin = "http://evil.example"
    answer = session.get(f"{hub.url}/api/models/org/pub/tree/main")
    assert answer.links["next"]["url"].startswith("http://evil.example/api/models/")


def test_a_client_may_ask_for_smaller_pages_but_not_larger_ones(
    hub: LocalHub, session: requests.Session
) -> None:
    hub.options.page_size = 3
    url = f"{hub.url}/api/models/org/pub/tree/main"
    assert [len(session.get(url, params={"limit": n}).json()) for n in (1, 2, 100)] == [1, 2, 3]
    assert session.get(url, params={"limit": "x"}).status_code == 400
    assert session.get(url, params={"cursor": "x"}).status_code == 400
    broken = base64.urlsafe_b64encode(b"[1]").decode()
    assert session.get(url, params={"cursor": broken}).status_code == 400


def test_paths_info_takes_a_form_and_json(hub: LocalHub, session: requests.Session) -> None:
    url = f"{hub.url}/api/models/org/pub/paths-info/main"
    form = session.post(url, data={"paths": ["w.bin", "nope", ODD], "expand": "true"})
    as_json = session.post(url, json={"paths": ["w.bin", "nope", ODD], "expand": True})
    assert form.json() == as_json.json()
    assert [row["path"] for row in form.json()] == ["w.bin", ODD]
    assert "lastCommit" in form.json()[0]
    assert session.post(url, json={"paths": ["x"] * 1001}).status_code == 400
    assert session.post(url, json=["x"]).status_code == 400
    assert session.get(url).status_code == 404


def test_xet_files_say_so_unless_told_otherwise(hub: LocalHub, session: requests.Session) -> None:
    hub.options.cas_url = "local:///store"
    head = session.head(f"{hub.url}/org/pub/resolve/main/x.bin")
    assert head.headers["X-Xet-Hash"] == XET_HASH
    token_url = head.links["xet-auth"]["url"]
    assert token_url == f"{hub.url}/api/models/org/pub/xet-read-token/{commit_of(hub)}"
    answer = session.get(token_url)
    value = answer.json()
    assert value["casUrl"] == answer.headers["X-Xet-Cas-Url"] == "local:///store"
    assert value["accessToken"] == answer.headers["X-Xet-Access-Token"]
    assert value["exp"] == int(answer.headers["X-Xet-Token-Expiration"])
    assert 800 < value["exp"] - time.time() <= 900
    tree = f"{hub.url}/api/models/org/pub/tree/main"
    assert {row.get("xetHash") for row in session.get(tree).json()} == {None, XET_HASH}
    info = session.get(
        f"{hub.url}/org/pub/resolve/main/x.bin",
        headers={"Accept": "application/vnd.xet-fileinfo+json"},
        allow_redirects=False,
    )
    assert (info.status_code, info.headers["X-Xet-Hash"]) == (200, XET_HASH)
    hub.options.xet = False
    assert {row.get("xetHash") for row in session.get(tree).json()} == {None}
    assert "X-Xet-Hash" not in session.head(f"{hub.url}/org/pub/resolve/main/x.bin").headers


# -- errors


@pytest.mark.parametrize(
    ("path", "token", "status", "code", "message"),
    [
        ("/api/models/org/nope", None, 401, "RepoNotFound", "Invalid username or password."),
        ("/api/models/org/nope", TOKEN, 404, "RepoNotFound", "Repository not found"),
        ("/api/models/org/pub", "hf_x", 401, "RepoNotFound", "Invalid username or password."),
        ("/api/models/org/pub/revision/nope", None, 404, "RevisionNotFound", "Invalid rev id: nope"),
        ("/api/models/org/pub/tree/main/nope", None, 404, "EntryNotFound", 'nope does not exist on "main"'),
        ("/org/pub/resolve/main/nope", None, 404, "EntryNotFound", "Entry not found"),
        ("/nowhere", None, 404, None, "Sorry, we can't find the page you are looking for."),
        (
            "/api/models/org/pub/revision/a%0D%0AX:%20y%FF",
            None,
            404,
            "RevisionNotFound",
            "Invalid rev id: a%0D%0AX: y%FF",
        ),
    ],
)
def test_errors_are_told_as_the_hub_tells_them(
    hub: LocalHub,
    session: requests.Session,
    path: str,
    token: str | None,
    status: int,
    code: str | None,
    message: str,
) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    answer = session.get(hub.url + path, headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("X-Error-Code") == code
    assert answer.headers["X-Error-Message"] == message
    assert answer.headers["ETag"].startswith('W/"')
    assert answer.headers["RateLimit"].startswith('"')
    assert ("WWW-Authenticate" in answer.headers) is (status == 401)
    if path.endswith("resolve/main/nope"):
        assert answer.headers["X-Repo-Commit"] == commit_of(hub)
    elif path.startswith("/api"):
        assert "error" in answer.json()


def test_a_quota_is_enforced_and_told(hub: LocalHub, session: requests.Session) -> None:
    hub.limits.set("resolvers", 2)
    url = f"{hub.url}/org/pub/resolve/main/w.bin"
    answers = [session.head(url) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [302, 302, 429]
    assert answers[-1].headers["RateLimit"] in ('"resolvers";r=0;t=300', '"resolvers";r=0;t=299')
    assert answers[-1].headers["RateLimit-Policy"] == '"fixed window";"resolvers";q=2;w=300'
    assert session.get(f"{hub.url}/api/models/org/pub").status_code == 200  # another bucket


def test_the_hub_writes_nothing(hub: LocalHub, session: requests.Session) -> None:
    url = f"{hub.url}/api/models/org/pub/xet-write-token/main"
    assert session.get(url).status_code == 403
    for method in ("PUT", "DELETE", "PATCH"):
        assert session.request(method, url).status_code == 405


# -- requests as such


def raw(hub: LocalHub, text: str) -> bytes:
    with socket.create_connection(("127.0.0.1", urlsplit(hub.url).port or 0), timeout=5) as sock:
        sock.sendall(text.replace("\n", "\r\n").encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/org/priv/../pub/raw/main/config.json", id="dots are not resolved"),
        pytest.param("/org/pub/raw/main/../../../../etc/passwd", id="dots lead nowhere"),
        pytest.param("/org/pub/raw/main/%2e%2e/%2e%2e/etc/passwd", id="encoded dots lead nowhere"),
        pytest.param("/org/pub/raw/main//etc/passwd", id="an absolute path leads nowhere"),
    ],
)
def test_no_path_leads_out_of_a_repository(hub: LocalHub, target: str) -> None:
    answer = raw(hub, f"GET {target} HTTP/1.1\nHost: x\nConnection: close\n\n")
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 401"))
    assert b"root:" not in answer


def test_a_proxy_may_send_the_whole_url(hub: LocalHub) -> None:
    text = f"GET {hub.url}/org/pub/raw/main/config.json HTTP/1.1\nHost: x\nConnection: close\n\n"
    answer = raw(hub, text)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(FILES["config.json"])


def test_the_log_tells_what_was_asked_and_sent(hub: LocalHub, session: requests.Session) -> None:
    url = signed_url(session, hub)
    hub.requests.clear()
    before = hub.body_bytes
    session.get(url, headers={"Range": "bytes=0-99999", "X-Extra": "1"})
    assert hub.requests.settle()
    record = hub.requests[-1]
    assert (record.method, record.kind, record.repo_id, record.path) == ("GET", "cdn", "org/pub", "w.bin")
    assert (record.range, record.status, record.body_bytes) == ("bytes=0-99999", 206, 100_000)
    assert record.headers["x-extra"] == "1"
    assert record.token is None
    assert record.complete
    assert record.first_byte is not None
    assert record.end is not None
    assert record.start <= record.first_byte <= record.end
    assert hub.body_bytes - before == 100_000
    session.get(url)
    assert hub.requests[-1].connection == record.connection  # kept alive


def test_open_connections_are_counted(hub: LocalHub) -> None:
    with requests.Session() as one, requests.Session() as two:
        for session in (one, two):
            session.get(f"{hub.url}/api/models/org/pub")
        assert hub.open_connections >= 2
    assert hub.requests.wait_for(lambda _: hub.open_connections == 0)


def test_two_hubs_can_run_at_once_and_a_port_only_once() -> None:
    with LocalHub(Repo("a/b")) as one, LocalHub(Repo("a/b")) as two:
        assert one.url != two.url != one.cdn_url
        with pytest.raises(OSError, match="address"):
            LocalHub(port=urlsplit(one.url).port or 0).start()


def test_a_hub_without_a_second_port_gives_lfs_files_directly() -> None:
    with pytest.raises(ValueError, match="second port"):
        LocalHub(cdn_port=None)
    with pytest.raises(TypeError, match="no such option: nope"):
        LocalHub(nope=1)


def test_a_file_that_changed_on_disk_is_an_error_and_not_wrong_bytes(
    tmp_path: Path, session: requests.Session
) -> None:
    path = tmp_path / "org" / "x" / "a.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"one")
    with LocalHub(Repo.from_folder(path.parent)) as hub:
        path.write_bytes(b"longer")
        answer = session.get(f"{hub.url}/org/x/resolve/main/a.txt")
        assert answer.status_code == 500
        assert "changed" in answer.text


# -- size and speed


def test_a_sparse_file_of_any_size_is_served_at_once(tmp_path: Path, session: requests.Session) -> None:
    size = 60 << 30
    path = make_sparse_file(tmp_path / "big.bin", size, marks=3)
    repo = Repo("org/big")
    repo.commit({"big.bin": path}, sha256={"big.bin": "ab" * 32})
    with LocalHub(repo) as hub:
        location = session.head(f"{hub.url}/org/big/resolve/main/big.bin").headers["Location"]
        middle = (size - 64) // 2
        answer = session.get(location, headers={"Range": f"bytes={middle}-{middle + 63}"})
        assert answer.content.decode().strip() == f"<offset {middle}>"
        assert answer.headers["Content-Range"] == f"bytes {middle}-{middle + 63}/{size}"
        with session.get(location, stream=True) as whole:
            assert whole.headers["Content-Length"] == str(size)
        assert hub.requests.wait_for(lambda log: log[-1].end is not None)
        assert not hub.requests[-1].complete


def test_of_a_body_that_is_not_sent_by_the_kernel_little_is_in_memory_at_once(
    session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    read = sending._read

    def noting(reply: Reply, file: BinaryIO | None, offset: int, count: int) -> bytes:
        counts.append(count)
        return read(reply, file, offset, count)

    monkeypatch.setattr(sending, "_read", noting)
    monkeypatch.setattr(pace, "_AT_ONCE", 60.0)  # whoever takes its time counts as quick, too
    repo = Repo("org/large")
    repo.commit({"large.bin": bytes(40 << 20)})
    with (
        LocalHub(repo) as hub,
        session.get(f"{hub.url}/org/large/resolve/main/large.bin", stream=True) as got,
    ):
        assert sum(map(len, got.iter_content(1 << 20))) == 40 << 20
    assert max(counts) == pace.SLICE


@pytest.mark.parametrize("limits", [{"bytes_per_s": 1e6}, {"bytes_per_s": None, "total": 1e6}])
def test_the_pace_is_kept_and_can_be_lifted_while_a_body_goes_out(
    tmp_path: Path, session: requests.Session, limits: dict[str, float | None]
) -> None:
    path = make_sparse_file(tmp_path / "big.bin", 64 << 20)
    repo = Repo("org/big")
    repo.commit({"big.bin": path}, sha256={"big.bin": "ab" * 32})
    with LocalHub(repo) as hub:
        location = session.head(f"{hub.url}/org/big/resolve/main/big.bin").headers["Location"]
        hub.set_pace(**limits)
        started = time.monotonic()
        with session.get(location, stream=True) as answer:
            answer.raw.read(1_000_000)
            assert time.monotonic() - started > 0.4
            assert hub.body_bytes < 2_500_000
            hub.set_pace(None)
            # At the old pace the rest would take more than a minute.
            assert sum(map(len, answer.iter_content(1 << 20))) == (64 << 20) - 1_000_000
            assert time.monotonic() - started < 30


def test_latency_is_waited_before_every_answer(hub: LocalHub, session: requests.Session) -> None:
    hub.set_latency(0.2)
    session.get(f"{hub.url}/api/models/org/pub")
    record = hub.requests[-1]
    assert record.first_byte is not None
    assert record.first_byte - record.start >= 0.2


def test_closing_a_hub_ends_bodies_that_are_under_way_without_a_word_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_sparse_file(tmp_path / "big.bin", 1 << 30)
    repo = Repo("org/big")
    repo.commit({"big.bin": path}, sha256={"big.bin": "ab" * 32})
    with requests.Session() as session:
        with LocalHub(repo) as hub:
            answer = session.get(f"{hub.url}/org/big/resolve/main/big.bin", stream=True)
            answer.raw.read(1000)
        with pytest.raises((requests.RequestException, OSError)):
            sum(map(len, answer.iter_content(1 << 20)))
        answer.close()
    hub.close()  # once more does nothing
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
