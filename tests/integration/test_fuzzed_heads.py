"""Requests and answers over a connection that stands: they are written and read as in the ordinary way.

The ordinary way is requests, urllib3 and ``http.client``, over a connection of its own.
"""

from __future__ import annotations

import gzip
import random
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from tests.support.wire import BOUND, Connection, Wire, answer

from hf_haul.cancellation import CancelToken
from hf_haul.errors import HaulError
from hf_haul.transports import plain
from hf_haul.transports.pool import ConnectionPool

#: Headers that somebody looks at.
LOOKED_AT = (
    "Connection", "Content-Encoding", "Content-Length", "Content-Range", "ETag", "Location", "RateLimit", "Retry-After",
    "Transfer-Encoding", "X-Linked-Etag", "X-Linked-Size",
)  # fmt: skip
SEEDS = 20
CASES = 30  # each
SECONDS = 5.0  # without a byte; no case should need them
UNASKED = answer(b"a secret of somebody else")


@dataclass
class Case:
    """What a server sends for one request.

    Attributes:
        data: The bytes.
        ends: Whether it closes behind them.
        receive: Bytes that the client takes at once while it looks for the head.
    """

    data: bytes
    ends: bool
    receive: int


class Maker:
    """Makes heads and bodies: such that everybody reads alike, and such that nobody should send."""

    def __init__(self, seed: object, *, strict: bool) -> None:
        self.chance = random.Random(f"{seed} {strict}")
        self.strict = strict

    def one_of(self, *usual: bytes, odd: Sequence[bytes] = ()) -> bytes:
        """One of the usual, and seldom one of the odd."""
        if odd and not self.strict and self.chance.random() < 0.1:
            return self.chance.choice(odd)
        return self.chance.choice(usual)

    def line(self, name: bytes, value: bytes) -> bytes:
        """A header as somebody might write it."""
        name = self.chance.choice([name, name, name.lower(), name.upper(), name.swapcase()])
        name += self.one_of(b"", odd=[b" ", b"\t", b"\0", b"\xe9"])
        before = self.one_of(b" ", b" ", b"", b"\t", b"   ", b" \t", odd=[b"\r\n ", b"\r\n\t", b"\n "])
        after = self.one_of(b"", b"", b" ", b"\t ", odd=[b"\r\n ", b"\r", b"\0"])
        return name + b":" + before + value + after + self.one_of(b"\r\n", odd=[b"\n", b"\r\r\n", b"\n\r\n"])

    def framed(self, body: bytes) -> tuple[list[bytes], bytes]:
        """Headers that tell where a body ends, and the body as it is sent."""
        size, draw = len(body), self.chance.random()
        if draw < 0.15:
            middle = self.chance.randrange(size + 1)
            pieces = [piece for piece in (body[:middle], body[middle:]) if piece]
            sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            # http.client does not know it with a blank behind it, and would wait for the end of the connection.
            coded = self.line(b"Transfer-Encoding", self.one_of(b"chunked", b"Chunked"))
            named = [coded.rstrip() + b"\r\n" if self.strict else coded]
            if draw < 0.05:
                named.append(self.line(b"Content-Length", b"%d" % size))
            return named, sent + b"0\r\n" + self.one_of(b"", b"X-T: 1\r\n") + b"\r\n"
        right = b"%d" % size
        if self.strict or draw < 0.6:
            return [self.line(b"Content-Length", right)] * self.chance.choice([1, 1, 1, 2]), body
        wrong = [
            [], [right, b"%d" % (size + 1)], [b"%d" % (size + 3)], [b"%d" % max(0, size - 3)], [b"+" + right], [b"-1"],
            [right + b", " + right], [b"0x4"], [b""], [b"1_0"], [b"9" * 25], [b"00" + right], [b"\xb2"],
        ]  # fmt: skip
        named = [self.line(b"Content-Length", value) for value in self.chance.choice(wrong)]
        if draw < 0.7:
            named.append(self.line(b"Transfer-Encoding", self.one_of(b"identity", b"gzip, chunked", b"")))
        return named, body

    def others(self) -> list[bytes]:
        """Headers that have nothing to do with the body's length."""
        links = self.one_of(
            b"/a", b"https://h/\xc3\xa9?a=b", b"\xff\x85/\x1c", b"//\x00h", b"", b"/a, http://b/"
        )
        kept = [b"keep-alive", b"upgrade"] if self.strict else [b"keep-alive", b"close", b"Close, x"]
        named = [
            (b"Location", links),
            (b"ETag", self.one_of(b'"a"', b'W/"a"', b'"\xe9"', b"", b'"a\x0bb"')),
            (b"Content-Range", self.one_of(b"bytes 0-3/4", b"bytes */4", b"bytes 0-3", b"x", b"bytes 3-0/*")),
            (b"Connection", self.chance.choice(kept)),
            (b"Retry-After", self.one_of(b"0", b"1.5", b"Thu, 01 Jan 1970 00:00:00 GMT", b"\xa0")),
            (b"X-" + b"Long" * self.chance.randrange(1, 20), b"v" * self.chance.choice([1, 100, 9_000])),
            (b"X-Longer", b"v" * (100 if self.strict else 70_000)),
            (b"Set-Cookie", b"a=b; Path=/"),
        ]
        picked = self.chance.sample(named, self.chance.randrange(4)) * self.chance.choice([1, 1, 1, 2])
        lines = [self.line(name, value) for name, value in picked]
        if not self.strict and self.chance.random() < 0.05:
            lines.append(self.chance.choice([b"nonsense\r\n", b": x\r\n", b" folded\r\n", b"\r\n"]))
        if not self.strict and self.chance.random() < 0.05:
            lines += [b"X-Many-%d: 1\r\n" % number for number in range(self.chance.choice([80, 99, 120]))]
        return lines

    def case(self) -> Case:
        """What to send, the end of the connection included where only that ends what is read."""
        chance, strict = self.chance, self.strict
        body = chance.choice(
            [b"", b"abcd", chance.randbytes(chance.randrange(1, 3000)), chance.randbytes(90_000)]
        )
        encoding = b""
        if chance.random() < 0.1:
            encoding = chance.choice([b"identity", b"IDENTITY", b"br", b"gzip", b"identity, identity"])
            body = gzip.compress(body, mtime=0) if encoding == b"gzip" else body
        named, sent = self.framed(body)
        named += self.others() + ([self.line(b"Content-Encoding", encoding)] if encoding else [])
        chance.shuffle(named)
        status = chance.choice(
            [200] * 8
            + [206, 205, 302, 404, 416, 429, 503, 299]
            + ([] if strict else [204, 304, 600, 99, 101])
        )
        version = self.one_of(b"HTTP/1.1", odd=[b"HTTP/1.0", b"HTTP/1.2", b"http/1.1", b"HTTP/2", b"ICY"])
        reason = self.one_of(b" OK", b" OK", b"", b" ", b" O\tK", b" \xe9t\xe9", b"  two  blanks ")
        head = version + b" %d" % status + reason + b"\r\n" + b"".join(named) + b"\r\n"
        if chance.random() < 0.08:
            interim = b"HTTP/1.1 %d Wait\r\nLink: </a>\r\n\r\n" % chance.choice([100, 102, 103])
            head = interim * chance.choice([1, 2] if strict else [1, 120]) + head
        if not strict and chance.random() < 0.2:
            sent = sent[: chance.randrange(len(sent) + 1)]
        if chance.random() < 0.25:
            sent += chance.choice([b"\r\n", b"x" * 7, b"0\r\n\r\n", UNASKED, UNASKED * 400, UNASKED[:30]])
        receive = chance.choice([1 << 16] * 3 + [len(head), len(head) + 1, chance.randrange(1, 400), 1])
        return Case(head + sent, not strict, receive)


class Server:
    """Sends the case that is set for ``/case``; for any other path, the path."""

    def __init__(self) -> None:
        self.case = Case(b"", True, 1)
        self.sent = threading.Event()

    def __call__(self, connection: Connection) -> None:
        while head := connection.request():
            path = head.split(" ")[1]
            if path != "/case":
                connection.send(answer(path.encode()))
                continue
            case = self.case
            try:
                connection.send(case.data)
            finally:
                self.sent.set()
            if case.ends:
                return


@dataclass
class Outcome:
    """What a request comes to."""

    status: int
    headers: dict[str, str]
    error: type[Exception] | None
    data: bytes

    def is_like(self, other: Outcome) -> bool:
        """Whether both are the same; before an error, one may have got further than the other."""
        shared = min(len(self.data), len(other.data)) if self.error else None
        return (self.status, self.headers, self.error, self.data[:shared]) == (
            other.status, other.headers, other.error, other.data[:shared],
        )  # fmt: skip


def ask(pool: ConnectionPool, url: str) -> Outcome:
    got = Outcome(0, {}, None, b"")
    buffer = memoryview(bytearray(10_000))
    try:
        with pool.open(url, {"Authorization": "Bearer t"}, CancelToken(), decode=True) as response:
            got.status = response.status
            for name in LOOKED_AT:
                if name in response.headers:
                    got.headers[name] = re.sub("[ \t]*,[ \t]*", ",", response.headers[name]).strip(" \t")
            while count := response.readinto(buffer):
                got.data += buffer[:count]
    except HaulError as error:
        got.error = type(error)
    return got


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


@pytest.fixture(scope="module")
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server) as wire:
        yield wire


@pytest.mark.parametrize("strict", [True, False], ids=["as everybody reads it", "anything"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_an_answer_is_the_same_in_both_ways_and_the_next_is_that_of_its_request(
    wire: Wire, server: Server, seed: int, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker(seed, strict=strict)

    def asked_for_case(pool: ConnectionPool) -> Outcome:
        server.sent.clear()
        got = ask(pool, wire.url("/case"))
        assert server.sent.wait(BOUND)  # what nobody asked for, too
        return got

    with ConnectionPool(1, trust_env=False, read_timeout=SECONDS) as standing:
        for number in range(CASES):
            case = server.case = maker.case()
            monkeypatch.setattr(plain, "_RECEIVE", case.receive)
            with ConnectionPool(1, trust_env=False, read_timeout=SECONDS) as ordinary:
                expected = asked_for_case(ordinary)
            assert ask(standing, wire.url("/before")).data == b"/before"
            got = asked_for_case(standing)
            assert got.is_like(expected), (got, expected, case.data[:3000], case.receive)
            after = ask(standing, wire.url(f"/after-{number}"))
            assert (after.data, after.error) == (b"/after-%d" % number, None), (
                case.data[:3000],
                case.receive,
            )


PATHS = [
    "a", "B.bin", "%20", "%2F", "%2f", "%zz", "%", "..", ".", "", "~", "a b", "\u00e9", "\u4e2d", "@", ":", ";x=1", "+", "&", "=", "*",
    "'", '"', "<", ">", "|", "^", "`", "{x}", "[1]", "!", "$", ",", "(a)", "\u2028",
]  # fmt: skip
NAMES = [
    "Authorization",
    "authorization",
    "Range",
    "User-Agent",
    "X-A",
    "x-a",
    "Cookie",
    "Accept",
    "Accept-Encoding",
    "HOST",
    "Referer",
]
VALUES = [
    "",
    "a",
    " a",
    "a ",
    "\ta",
    "a\tb",
    "Bearer x=/+",
    "bytes=0-3",
    "\xe9",
    "a, b",
    '"q"',
    "a:b",
    "a;b=c",
    "\x7f",
]


def random_request(chance: random.Random) -> tuple[str, dict[str, str]]:
    """Path, query and fragment, with user and password before them, and headers."""
    path = "/".join(
        "".join(chance.choices(PATHS, k=chance.randrange(1, 3))) for _ in range(chance.randrange(1, 4))
    )
    query = chance.choice(["", "", "?", "?a=b&c=%2F%2f", "?a?b/../c", "?\u00e9 ", "?a#b", "#b?c"])
    user = chance.choice(["", "", "", "user:pa%20ss@", "user@", ":@", "\u00e9:%e9@"])
    names = chance.sample(NAMES, chance.randrange(4))
    return f"{user}|/{path}{query}", {name: chance.choice(VALUES) for name in names}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_request_is_the_same_in_both_ways(seed: int) -> None:
    chance = random.Random(f"requests {seed}")

    def lines_sent(pool: ConnectionPool, wire: Wire, url: str, headers: dict[str, str]) -> object:
        wire.heads.clear()
        try:
            with pool.open(url, headers, CancelToken()) as response:
                response.drain()
        except (HaulError, ValueError) as error:
            return type(error)
        line, *fields = wire.heads[0].split("\r\n")
        return line, sorted(
            field.partition(": ")[0].lower() + ": " + field.partition(": ")[2] for field in fields
        )

    with (
        Wire(lambda c: [c.send(answer(b"ok")) for _ in iter(c.request, "")]) as wire,
        ConnectionPool(1, trust_env=False, read_timeout=SECONDS) as standing,
    ):
        for _ in range(CASES):
            rest, headers = random_request(chance)
            user, _, target = rest.partition("|")
            url = wire.url(target).replace("//", f"//{user}", 1)
            with ConnectionPool(1, trust_env=False, read_timeout=SECONDS) as ordinary:
                expected = lines_sent(ordinary, wire, url, headers)
            assert ask(standing, wire.url("/before")).data == b"ok"
            assert lines_sent(standing, wire, url, headers) == expected, (url, headers)
