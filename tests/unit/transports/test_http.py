"""Who is asked for a file's bytes, and with which headers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import urllib3

from hf_haul.cancellation import CancelToken
from hf_haul.errors import ConnectionFailedError, InvalidUrlError, StalledError, TransferError
from hf_haul.ranges import ByteRange
from hf_haul.task import RemoteFile
from hf_haul.transports.http import HttpSource, link_lifetime
from hf_haul.transports.pacing import RateLimits

HUB = "https://hub.test/org/m/resolve/main/a.bin"
TOKEN = "Bearer hf_secret"
WANT = ByteRange(0, 10)


class Answer:
    """What a source of ten bytes says to one request."""

    def __init__(self, url: str, status: int, headers: Mapping[str, str]) -> None:
        self.url, self.status, self.headers = url, status, urllib3.HTTPHeaderDict(headers)

    def readinto(self, buffer: memoryview) -> int:
        return 0

    def head(self) -> bytes:
        return b""

    def drain(self) -> None:
        pass

    release = drain


class Pool:
    """Answers each request with the next of the redirects, and then with the bytes."""

    def __init__(self, *locations: str) -> None:
        self.locations = list(locations)
        self.asked: list[tuple[str, dict[str, str]]] = []

    def open(self, url: str, headers: Mapping[str, str], cancel_token: CancelToken, **_: Any) -> Answer:
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
    with pytest.raises(InvalidUrlError, match=r"hub\.test/org/m/resolve/main/a\.bin redirects to no address"):
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

    def open(self, url: str, headers: Mapping[str, str], cancel_token: CancelToken, **_: Any) -> Answer:
        self.locations = [self.storage] if url == HUB else []
        if url in self.down:
            self.asked.append((url, dict(headers)))
            raise self.error(f"{url}: Connection refused")
        return super().open(url, headers, cancel_token)

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


NOW = 1_800_000_000.0


@pytest.fixture
def _somewhere_else(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is not that of signatures."""
    if not hasattr(time, "tzset"):
        yield
        return
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        pytest.param("X-Amz-Date=20270115T080000Z&X-Amz-Expires=60", 60.0, id="aws"),
        pytest.param("x-goog-date=20270115T080000Z&x-goog-expires=60", 60.0, id="google"),
        pytest.param("Expires=1800000060", 60.0, id="cloudfront"),
        pytest.param("se=2027-01-15T08%3A01%3A00Z", 60.0, id="azure"),
        pytest.param("se=2027-01-15T08%3A01%3A00", 60.0, id="azure without a zone"),
        pytest.param("se=2027-01-16", 57_600.0, id="azure's day"),
        pytest.param("se=0001-01-01", -63_935_596_800.0, id="a day before all local times"),
        pytest.param("", None, id="none"),
        pytest.param("X-Amz-Date=00000101T000000Z&X-Amz-Expires=60", None, id="no year"),
        pytest.param("X-Amz-Date=20260230T000000Z&X-Amz-Expires=60", None, id="no day of that month"),
        pytest.param("X-Amz-Date=99999999T999999Z&X-Amz-Expires=60", None, id="no date"),
        pytest.param("X-Amz-Date=20270115T080000Z&X-Amz-Expires=" + "9" * 5000, None, id="5000 digits"),
        pytest.param("X-Amz-Date=20270115T080000Z&X-Amz-Expires=%D9%A3", None, id="digits of another script"),
        pytest.param("Expires=" + "9" * 5000, None, id="5000 digits of a moment"),
        pytest.param("se=tomorrow", None, id="no moment"),
        pytest.param("&".join("a=1" for _ in range(5000)), None, id="many words"),
    ],
)
@pytest.mark.usefixtures("_somewhere_else")
def test_a_link_lives_for_as_long_as_its_query_says_if_that_can_be_read(
    query: str, seconds: float | None
) -> None:
    assert link_lifetime(f"https://cdn.test/a?{query}", lambda: NOW) == seconds
