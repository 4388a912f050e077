"""Who is asked for a file's bytes, and with which headers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
import urllib3
from tests.support.clock import FakeClock

from hf_haul.cancellation import CancelToken
from hf_haul.errors import (
    ConnectionFailedError,
    HttpStatusError,
    InvalidUrlError,
    LinkExpiredError,
    RangeRefusedError,
    ServerBusyError,
    SourceChangedError,
    StalledError,
    StopRequestedError,
    TransferError,
)
from hf_haul.ranges import ByteRange
from hf_haul.task import Digest, OtherSource, RemoteFile
from hf_haul.transports.http import HttpSource
from hf_haul.transports.pacing import RateLimits
from hf_haul.urls import HttpUrl, parse_url

HUB = "https://hub.test/org/m/resolve/main/a.bin"
TOKEN = "Bearer hf_secret"
WANT = ByteRange(0, 10)


class Answer:
    """What a source of ten bytes says to one request."""

    def __init__(self, url: str, status: int, headers: Mapping[str, str]) -> None:
        self.url, self.status, self.headers = url, status, urllib3.HTTPHeaderDict(headers)

    @property
    def asked(self) -> HttpUrl:
        return parse_url(self.url)

    def readinto(self, buffer: memoryview) -> int:
        return 0

    def head(self) -> bytes:
        return b""

    def drain(self) -> None:
        pass

    release = drain


class Pool:
    """Answers each request with the next of the redirects, and then with the bytes."""

    max_redirects = 20

    def __init__(self, *locations: str) -> None:
        self.locations = list(locations)
        self.asked: list[tuple[str, dict[str, str]]] = []

    def open(self, asked: HttpUrl, headers: Mapping[str, str], cancel_token: CancelToken, **_: Any) -> Answer:
        url = str(asked)
        self.asked.append((url, dict(headers)))
        if self.locations:
            return Answer(url, 302, {"Location": self.locations.pop(0)})
        return Answer(url, 206, {"Content-Range": "bytes 0-9/10"})

    @property
    def with_secrets(self) -> list[str]:
        """The hosts, as urllib3 reads them, that were sent what only the hub may see."""
        return [
            urllib3.util.parse_url(url).netloc or ""
            for url, headers in self.asked
            if {"authorization", "cookie", "x-key"} & {name.lower() for name in headers}
        ]


def follow(*locations: str, url: str = HUB, **more: Any) -> Pool:
    pool = Pool(*locations)
    headers = {"Authorization": TOKEN, "Cookie": "c", "X-Key": "k", "User-Agent": "us"}
    remote = RemoteFile("a.bin", url, size=10, headers=headers, **more)
    source = HttpSource(remote, pool, RateLimits())  # type: ignore[arg-type]  # of what it needs
    source.open(WANT, CancelToken()).close()
    assert all(headers["User-Agent"] == "us" for _, headers in pool.asked)
    return pool


@pytest.mark.parametrize(
    "location",
    [
        "https://hub.test/b", "HTTPS://HUB.Test/b", "https://hub.test:443/b", "https://hub.test:0443/b", "https://hub.test:/b",
        "//hub.test/b", "/b", "b", "?b", "https://hub.test?b", "/b/@thief.test/", "https://hub.test/%5C@thief.test",
    ],
)  # fmt: skip
def test_a_redirect_on_the_hubs_own_origin_keeps_the_headers(location: str) -> None:
    assert follow(location).with_secrets == ["hub.test", "hub.test"]


@pytest.mark.parametrize(
    "location",
    [
        "http://hub.test/b", "http://hub.test:443/b", "https://hub.test:8443/b", "https://hub.test:80/b", "https://hub.test./b",
        "https://thief.test/b", "//thief.test/b", "https://hub.test.thief/b", "https://xhub.test/b", "https://hub_test/b",
        "https://sub.hub.test/b", "https://test/b", "https://[::1]/b", "https://1.2.3.4/b", "https://xn--hub-0na.test/b",
        "https://thief.test/?@hub.test", "https://thief.test#@hub.test", "https://thief.test/@hub.test/",
        "https://thief.test/https://hub.test/",
    ],
)  # fmt: skip
def test_a_redirect_to_another_origin_takes_nothing_secret_along(location: str) -> None:
    pool = follow(location)
    assert pool.with_secrets == ["hub.test"]
    assert len(pool.asked) == 2


@pytest.mark.parametrize(
    "location",
    [
        "https://thief.test\\@hub.test/b", "https://thief.test\\.hub.test/b", "\\\\thief.test/b", "/\\thief.test/b",
        "https://user:pass@hub.test/b", "https://hub.test@thief.test/b", "https://hub.test:443@thief.test/b", "//u@hub.test/b",
        "https:///thief.test/b", "///thief.test/b", "https:/hub.test/b", "https:b", "https://hub.test:443:80/b",
        "https://hub.test:99999/b", "https://hub.test:x/b", "https://hub.test%2f@thief.test/b", "https://hub%2etest/b",
        "https://hub.test\tthief/b", "https://hub.test\x0b/b", "https://hub.test /b", "https://[::1/b", "https://[hub.test]/b",
        "https://hub。test/b", "https://h\xfcb.test/b", "ftp://hub.test/b", "file:///etc/passwd", "data:,b", "https://",
    ],
)  # fmt: skip
def test_a_redirect_that_could_be_read_in_two_ways_is_refused(location: str) -> None:
    pool = Pool(location)
    source = HttpSource(RemoteFile("a.bin", HUB, size=10), pool, RateLimits())  # type: ignore[arg-type]  # of what it needs
    with pytest.raises(InvalidUrlError, match=r"resolve/main/a\.bin redirects to an invalid URL"):
        source.open(WANT, CancelToken())
    assert len(pool.asked) == 1
    assert issubclass(InvalidUrlError, TransferError)


@pytest.mark.parametrize(
    ("url", "location", "kept"),
    [
        ("http://[::1]:8080/a", "http://[::1]:8080/b", True),
        ("http://[::a]:8080/a", "http://[::A]:8080/b", True),
        ("http://[::1]:8080/a", "http://[0:0:0:0:0:0:0:1]:8080/b", False),
        ("http://[::1]:8080/a", "http://[::ffff:127.0.0.1]:8080/b", False),
        ("http://[::1]:8080/a", "http://localhost:8080/b", False),
        ("http://127.0.0.1/a", "http://127.0.0.1:80/b", True),
        ("http://127.0.0.1/a", "http://127.1/b", False),
        ("http://127.0.0.1/a", "http://2130706433/b", False),
        ("http://127.0.0.1/a", "http://0x7f000001/b", False),
        ("https://bücher.test/a", "https://xn--bcher-kva.test/b", True),
        ("https://bücher.test/a", "https://bucher.test/b", False),
        ("https://straße.test/a", "https://strasse.test/b", False),
        ("http://hub.test/a", "https://hub.test/b", False),
    ],
)
def test_other_spellings_of_an_address_are_other_origins(url: str, location: str, kept: bool) -> None:
    assert len(follow(location, url=url).with_secrets) == 1 + kept


@pytest.mark.parametrize(
    "hops", [["https://cdn.test/x"], ["/x", "https://cdn.test/x"], ["https://cdn.test/x", "/y"]]
)
def test_what_comes_after_another_origin_is_judged_anew(hops: list[str]) -> None:
    pool = follow(*hops, "https://thief.test/x", "https://cdn.test/y", "http://hub.test/y")
    assert set(pool.with_secrets) == {"hub.test"}
    assert [url for url, headers in pool.asked if "Authorization" in headers] == [
        HUB,
        *["https://hub.test/x"] * (hops[0] == "/x"),
    ]


def test_the_hub_gets_its_headers_again_after_a_way_around() -> None:
    assert follow("https://cdn.test/x", "https://hub.test/y").with_secrets == ["hub.test", "hub.test"]


def test_trusted_origins_get_the_headers() -> None:
    trusted = frozenset({"https://mirror.test:443"})
    pool = follow(
        "https://mirror.test/b",
        "https://MIRROR.test:443/c",
        "https://mirror.test:444/d",
        trusted_origins=trusted,
    )
    assert pool.with_secrets == ["hub.test", "mirror.test", "mirror.test"]


def test_a_password_in_the_url_is_for_its_own_origin() -> None:
    trusted = frozenset({"https://mirror.test:443"})
    pool = follow("/b", "https://mirror.test/c", "https://thief.test/d", "https://hub.test/e",
                  url=HUB.replace("//", "//user:pass@"), trusted_origins=trusted)  # fmt: skip
    assert [(url, headers.get("Authorization")) for url, headers in pool.asked] == [
        (HUB, "Basic dXNlcjpwYXNz"),
        ("https://hub.test/b", "Basic dXNlcjpwYXNz"),
        ("https://mirror.test/c", TOKEN),
        ("https://thief.test/d", None),
        ("https://hub.test/e", "Basic dXNlcjpwYXNz"),
    ]


def test_who_may_not_lead_elsewhere_is_not_followed() -> None:
    pool = Pool("http://169.254.169.254/latest/")
    remote = RemoteFile("a.bin", HUB, size=10, digest=Digest("sha256", "0" * 64))
    node = OtherSource("http://node:8001/blob", joins_path=False, redirects=False).stand_in(remote)
    with pytest.raises(HttpStatusError, match="answered 302 and may not lead elsewhere"):
        HttpSource(node, pool, RateLimits()).open(WANT, CancelToken())  # type: ignore[arg-type]  # a stand-in
    assert [url for url, _ in pool.asked] == ["http://node:8001/blob"]


def test_a_redirect_in_raw_utf_8_is_asked_for_as_it_is_meant() -> None:
    location = "/files/modèle-模.bin?a=é".encode().decode("latin-1")  # as http.client reads it
    assert follow(location).asked[1][0] == "https://hub.test/files/mod%C3%A8le-%E6%A8%A1.bin?a=%C3%A9"


def test_a_location_known_before_is_judged_as_a_redirect() -> None:
    pool = follow(location="https://cdn.test/x?Signature=s")
    assert [url for url, _ in pool.asked] == ["https://cdn.test/x?Signature=s"]
    assert pool.with_secrets == []
    assert follow(location="/b").asked[0][0] == "https://hub.test/b"


@pytest.mark.parametrize(
    "location", ["https://thief.test\\@hub.test/b", "https://u:p@hub.test/b", "ftp://hub.test/b"]
)
def test_a_location_that_could_be_read_in_two_ways_is_asked_for_again(location: str) -> None:
    assert [url for url, _ in follow(location=location).asked] == [HUB]


class Storages(Pool):
    """A hub that leads to the storage of the moment; those that are down refuse connections."""

    def __init__(self, storage: str) -> None:
        super().__init__()
        self.storage = storage
        self.down: set[str] = set()
        self.error: type[ConnectionFailedError] = ConnectionFailedError

    def open(self, asked: HttpUrl, headers: Mapping[str, str], cancel_token: CancelToken, **_: Any) -> Answer:
        url = str(asked)
        self.locations = [self.storage] if url == HUB else []
        if url in self.down:
            self.asked.append((url, dict(headers)))
            raise self.error(f"{url}: Connection refused")
        return super().open(asked, headers, cancel_token)

    def ask(self, source: HttpSource) -> list[str]:
        """Ask once; returns what was asked for."""
        before = len(self.asked)
        with contextlib.suppress(ConnectionFailedError):
            source.open(WANT, CancelToken()).close()
        return [url for url, _ in self.asked[before:]]


@pytest.mark.parametrize("known", [False, True], ids=["redirected", "known before"])
def test_a_storage_that_is_not_there_is_asked_once(known: bool) -> None:
    old, new = "https://old.test/x", "https://new.test/x"
    pool = Storages(old)
    pool.down = {old}
    source = HttpSource(
        RemoteFile("a.bin", HUB, size=10, location=old if known else None), pool, RateLimits()  # type: ignore[arg-type]  # of what it needs
    )  # fmt: skip
    assert pool.ask(source) == ([old] if known else [HUB, old])
    pool.storage = new
    assert pool.ask(source) == [HUB, new]


def test_a_storage_that_answered_may_miss_one_answer_and_no_second() -> None:
    old, new = "https://old.test/x", "https://new.test/x"
    pool = Storages(old)
    source = HttpSource(RemoteFile("a.bin", HUB, size=10), pool, RateLimits())  # type: ignore[arg-type]  # of what it needs
    assert pool.ask(source) == [HUB, old]
    for _ in range(3):
        pool.down = {old}
        assert pool.ask(source) == [old]
        pool.down = set()
        assert pool.ask(source) == [old]
    pool.down, pool.storage = {old}, new
    assert [pool.ask(source) for _ in range(3)] == [[old], [old], [HUB, new]]


def test_a_storage_that_takes_its_time_is_not_looked_for_again() -> None:
    storage = "https://slow.test/x"
    pool = Storages(storage)
    pool.down, pool.error = {storage}, StalledError
    source = HttpSource(RemoteFile("a.bin", HUB, size=10), pool, RateLimits())  # type: ignore[arg-type]  # of what it needs
    assert [pool.ask(source) for _ in range(3)] == [[HUB, storage], [storage], [storage]]


# ---- answers


class Reply(Answer):
    """An answer as scripted, which says what became of it."""

    def __init__(self, status: int, headers: Mapping[str, str] | None = None, *, body: bytes = b"") -> None:
        super().__init__(HUB, status, headers or {})
        self.body = body
        self.ended: list[str] = []

    def head(self) -> bytes:
        return self.body

    def drain(self) -> None:
        self.ended.append("drained")

    def release(self) -> None:
        self.ended.append("released")

    def leave_encoded(self) -> None:
        self.ended.append("left encoded")


class Script(Pool):
    """Gives the replies one after the other."""

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self.replies = list(replies)

    def open(self, asked: HttpUrl, headers: Mapping[str, str], cancel_token: CancelToken, **_: Any) -> Answer:
        url = str(asked)
        self.asked.append((url, dict(headers)))
        reply = self.replies.pop(0)
        reply.url = url
        return reply


SHA256 = Digest("sha256", "a" * 64)


def source_of(*replies: Reply, size: int | None = 10, compress: bool = False, **more: Any) -> HttpSource:
    remote = RemoteFile("a.bin", HUB, size=size, **more)
    return HttpSource(remote, Script(*replies), RateLimits(jitter=lambda: 0.0), compress=compress)  # type: ignore[arg-type]


def part(start: int, stop: int, total: int | str = 10, **headers: str) -> Reply:
    return Reply(206, {"Content-Range": f"bytes {start}-{stop - 1}/{total}", **headers})


MIDDLE = ByteRange(2, 6)


@pytest.mark.parametrize(
    ("reply", "want", "got", "total"),
    [
        pytest.param(part(2, 6), MIDDLE, MIDDLE, 10, id="206"),
        pytest.param(part(2, 6, "*"), MIDDLE, MIDDLE, None, id="206 of who knows how many"),
        pytest.param(
            Reply(200, {"Content-Length": "10"}), WANT, WANT, 10, id="200 to a range from the start"
        ),
        pytest.param(Reply(200, {"Content-Length": "10"}), None, WANT, 10, id="200"),
        pytest.param(Reply(200), None, WANT, None, id="200 that does not say how long it is"),
    ],
)
def test_an_answer_with_the_bytes_asked_for_is_taken(
    reply: Reply, want: ByteRange | None, got: ByteRange, total: int | None
) -> None:
    body = source_of(reply).open(want, CancelToken())
    assert (body.range, body.total) == (got, total)
    assert reply.ended == []
    body.close()
    assert reply.ended == ["released"]


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        pytest.param(Reply(200, {"Content-Length": "10"}), RangeRefusedError, "sent the whole file", id="200"),
        pytest.param(Reply(206), RangeRefusedError, "without saying which bytes", id="206 without a range"),
        pytest.param(
            Reply(206, {"Content-Range": "bytes */10"}), RangeRefusedError, "without saying which", id="206 of no range"
        ),
        pytest.param(part(3, 7), RangeRefusedError, "instead of bytes=2-5", id="206 of another range"),
        pytest.param(part(2, 5), RangeRefusedError, "instead of bytes=2-5", id="206 that is too short"),
        pytest.param(part(2, 7), RangeRefusedError, "instead of bytes=2-5", id="206 that is too long"),
        pytest.param(
            part(2, 6, **{"Content-Length": "3"}), RangeRefusedError, "but as 3 bytes", id="206 that contradicts itself"
        ),
        pytest.param(
            part(2, 6, **{"Content-Encoding": "gzip"}), RangeRefusedError, "encoded a range", id="206 that is encoded"
        ),
        pytest.param(part(2, 6, 11), SourceChangedError, "says it has 11 bytes, expected 10", id="206 of another file"),
        pytest.param(Reply(416), RangeRefusedError, "416", id="416"),
        pytest.param(
            Reply(416, {"Content-Range": "bytes */4"}), SourceChangedError, "says it has 4 bytes", id="416 of another file"
        ),
        pytest.param(Reply(404), HttpStatusError, "answered 404", id="404"),
        pytest.param(Reply(403), HttpStatusError, "answered 403", id="403"),
        pytest.param(Reply(204), HttpStatusError, "answered 204", id="204"),
        pytest.param(Reply(302), HttpStatusError, "302 without a Location", id="302 to nowhere"),
    ],
)  # fmt: skip
def test_an_answer_without_the_bytes_asked_for_is_refused(
    reply: Reply, error: type[TransferError], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        source_of(reply).open(MIDDLE, CancelToken())
    assert type(caught.value) is error
    assert "a.bin" in str(caught.value)
    assert set(reply.ended) & {"released", "drained"}, "its connection would be lost"


def test_a_status_says_what_the_server_said_of_it() -> None:
    with pytest.raises(HttpStatusError) as caught:
        source_of(Reply(403, {"X-Error-Message": "gated"}, body=b"ask first")).open(WANT, CancelToken())
    assert caught.value.status == 403
    for name in ("X-Error-Message", "x-error-message"):
        assert caught.value.headers[name] == caught.value.headers.get(name) == "gated"
    assert caught.value.body == b"ask first"


@pytest.mark.parametrize("name", ["authorization", "X-Other"])
def test_a_status_says_whether_a_token_was_sent(name: str) -> None:
    with pytest.raises(HttpStatusError) as caught:
        source_of(Reply(401), headers={name: TOKEN}).open(WANT, CancelToken())
    assert caught.value.sent_token == (name == "authorization")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 509, 520, 524, 529])
def test_a_server_that_is_busy_says_how_long_to_wait(status: int) -> None:
    reply = Reply(status, {"Retry-After": "7"})
    with pytest.raises(ServerBusyError) as caught:
        source_of(reply).open(WANT, CancelToken())
    assert caught.value.counts_requests is (status == 429)
    assert caught.value.retry_after == (7.0 if status in {408, 425, 429} or status >= 500 else None)
    assert reply.ended == ["drained"]


@pytest.mark.parametrize(
    ("size", "asked", "got", "total"), [(None, 10, 4, 4), (None, 3, 3, 8)], ids=["beyond its end", "inside"]
)
def test_a_range_of_a_file_of_unknown_size_may_end_with_the_file(
    size: int | None, asked: int, got: int, total: int
) -> None:
    body = source_of(part(0, got, total), size=size).open(ByteRange(0, asked), CancelToken())
    assert body.range == ByteRange(0, got)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_once_for_all_parts(status: int) -> None:
    source = source_of(Reply(status, {"Location": "https://cdn.test/x"}), part(0, 10), part(2, 6))
    source.open(WANT, CancelToken()).close()
    source.open(MIDDLE, CancelToken()).close()
    pool: Any = source._pool
    assert [url for url, _ in pool.asked] == [HUB, "https://cdn.test/x", "https://cdn.test/x"]
    assert [headers["Range"] for _, headers in pool.asked] == ["bytes=0-9", "bytes=0-9", "bytes=2-5"]


def test_redirects_without_an_end_are_given_up() -> None:
    source = source_of(*(Reply(302, {"Location": f"/{hop}"}) for hop in range(50)))
    with pytest.raises(TransferError, match=r"more than \d+ redirects"):
        source.open(WANT, CancelToken())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_link_that_is_refused_later_has_expired_and_is_asked_for_anew(status: int) -> None:
    link = {"Location": "https://cdn.test/x"}
    refused = Reply(status)
    source = source_of(Reply(302, link), part(0, 10), refused, Reply(302, link), part(0, 10))
    source.open(WANT, CancelToken()).close()
    with pytest.raises(LinkExpiredError, match="expired"):
        source.open(WANT, CancelToken())
    assert refused.ended == ["released"]
    source.open(WANT, CancelToken()).close()
    pool: Any = source._pool
    assert [url for url, _ in pool.asked].count(HUB) == 2


def test_a_fresh_link_that_is_refused_is_believed_after_a_while() -> None:
    clock = FakeClock()
    replies = [
        each for _ in range(4) for each in (Reply(302, {"Location": "https://cdn.test/x"}), Reply(403))
    ]
    pool: Any = Script(*replies)
    source = HttpSource(RemoteFile("a.bin", HUB, size=10), pool, RateLimits(), clock=clock)
    for _ in range(3):
        with pytest.raises(LinkExpiredError, match="fresh link"):
            source.open(WANT, CancelToken())
    clock.advance(5.0)
    with pytest.raises(HttpStatusError, match="4 times"):
        source.open(WANT, CancelToken())


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X-Linked-Size": "11"}, "says it has 11 bytes, expected 10"),
        ({"X-Linked-Etag": '"' + "b" * 64 + '"'}, "etag is b+, expected a+"),
    ],
    ids=["size", "etag"],
)
def test_a_redirect_to_another_file_is_refused(headers: dict[str, str], said: str) -> None:
    source = source_of(
        Reply(302, {"Location": "https://cdn.test/x", **headers}), etag="a" * 64, digest=SHA256
    )
    with pytest.raises(SourceChangedError, match=said):
        source.open(WANT, CancelToken())


@pytest.mark.parametrize(
    ("first", "second", "changed"),
    [
        ({"ETag": '"a"'}, {"ETag": 'W/"a"'}, False),
        ({"ETag": '"a"'}, {"ETag": '"b"'}, True),
        ({"ETag": '"a"'}, {}, False),
        ({"Last-Modified": "then"}, {"Last-Modified": "now"}, True),
        ({"ETag": '"a"', "Last-Modified": "then"}, {"ETag": '"a"', "Last-Modified": "now"}, False),
        ({"Last-Modified": "then"}, {"ETag": '"a"', "Last-Modified": "then"}, False),
    ],
)
@pytest.mark.parametrize("digest", [None, SHA256], ids=["without a digest", "with a digest"])
def test_a_file_that_changes_while_it_is_fetched_is_noticed_where_no_digest_tells(
    first: dict[str, str], second: dict[str, str], changed: bool, digest: Digest | None
) -> None:
    source = source_of(part(0, 10, **first), part(2, 6, **second), digest=digest)
    source.open(WANT, CancelToken()).close()
    if changed and digest is None:
        with pytest.raises(SourceChangedError, match="changed at its source"):
            source.open(MIDDLE, CancelToken())
    else:
        source.open(MIDDLE, CancelToken()).close()


@pytest.mark.parametrize(
    ("compress", "want", "asked"), [(False, None, "identity"), (True, None, "gzip"), (True, WANT, "identity")]
)
def test_only_a_whole_body_may_come_compressed(compress: bool, want: ByteRange | None, asked: str) -> None:
    source = source_of(Reply(200, {"Content-Length": "10"}), compress=compress)
    source.open(want, CancelToken()).close()
    pool: Any = source._pool
    assert pool.asked[0][1]["Accept-Encoding"] == asked
    assert ("Range" in pool.asked[0][1]) == (want is not None)


@pytest.mark.parametrize(
    ("encoding", "length", "digest", "size", "outcome"),
    [
        pytest.param("gzip", "6", SHA256, 10, "decoded", id="can be undone and checked"),
        pytest.param("gzip", "10", SHA256, 10, "left encoded", id="stored so"),
        pytest.param("gzip", "6", None, None, "refused", id="nothing to check it by"),
        pytest.param("aws-chunked", "6", None, 10, "refused", id="cannot be undone"),
        pytest.param("aws-chunked", "6", SHA256, None, "left encoded", id="perhaps no encoding, and the digest tells"),
    ],
)  # fmt: skip
def test_an_encoding_that_was_not_asked_for_is_undone_only_if_that_can_be_checked(
    encoding: str, length: str, digest: Digest | None, size: int | None, outcome: str
) -> None:
    reply = Reply(200, {"Content-Length": length, "Content-Encoding": encoding})
    source = source_of(reply, size=size, digest=digest)
    if outcome == "refused":
        with pytest.raises(RangeRefusedError, match="encoded as"):
            source.open(None, CancelToken())
        return
    source.open(None, CancelToken())
    assert reply.ended == (["left encoded"] if outcome == "left encoded" else [])


def test_nobody_is_asked_for_one_who_was_cancelled() -> None:
    source, cancelled = source_of(), CancelToken()
    cancelled.set()
    with pytest.raises(StopRequestedError):
        source.open(WANT, cancelled)
    pool: Any = source._pool
    assert pool.asked == []
