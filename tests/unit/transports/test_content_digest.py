from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from hf_haul.cancellation import CancelToken
from hf_haul.errors import WrongBytesError
from hf_haul.ranges import ByteRange
from hf_haul.transports.content_digest import DigestedTransport, announced_sha256

DATA = b"0123456789"


def header(data: bytes = DATA) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


class FakeBody:
    total: int | None = 100
    whole = False

    def __init__(self, data: bytes, headers: dict[str, str]) -> None:
        self.range: ByteRange | None = ByteRange(20, 20 + len(DATA))
        self.headers = headers
        self.closed = False
        self._data = data

    def readinto(self, buffer: memoryview) -> int:
        got = self._data[: len(buffer)]
        self._data = self._data[len(got) :]
        buffer[: len(got)] = got
        return len(got)

    def close(self) -> None:
        self.closed = True


class FakeTransport:
    version: str | None = "v1"

    def __init__(self, data: bytes, **headers: str) -> None:
        self.body = FakeBody(data, {name.replace("_", "-"): value for name, value in headers.items()})
        self.asked: list[Any] = []

    def open(self, want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool = False) -> FakeBody:
        self.asked.append((want, cancel_token, fresh))
        return self.body


def read(transport: FakeTransport, at_once: int = 4) -> bytes:
    body = DigestedTransport(transport, "http://node:1").open(ByteRange(20, 30), CancelToken())
    assert (body.range, body.total, body.whole) == (ByteRange(20, 30), 100, False)
    found, buffer = b"", memoryview(bytearray(at_once))
    try:
        while got := body.readinto(buffer):
            found += buffer[:got]
    finally:
        body.close()
        assert transport.body.closed
    return found


@pytest.mark.parametrize("at_once", [1, 4, 10, 99])
def test_what_is_as_announced_comes_through(at_once: int) -> None:
    assert read(FakeTransport(DATA, Content_Digest=header()), at_once) == DATA


@pytest.mark.parametrize("at_once", [1, 4, 10, 99])
def test_what_is_not_is_refused_with_its_last_byte_and_names_who_sent_it(at_once: int) -> None:
    with pytest.raises(WrongBytesError, match="http://node:1 sent other bytes"):
        read(FakeTransport(b"012345678x", Content_Digest=header()), at_once)


def test_what_comes_without_a_digest_is_not_compared() -> None:
    transport = FakeTransport(b"anything..")
    assert read(transport) == b"anything.."
    assert DigestedTransport(transport, "x").version == "v1"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(header(), hashlib.sha256(DATA).digest(), id="one"),
        pytest.param("md5=:AAAA:, " + header(), hashlib.sha256(DATA).digest(), id="beside another"),
        pytest.param(header() + ";q=1", hashlib.sha256(DATA).digest(), id="with a parameter"),
        pytest.param(header().upper()[:7] + header()[7:], hashlib.sha256(DATA).digest(), id="upper case"),
        pytest.param(None, None, id="none"),
        pytest.param("", None, id="empty"),
        pytest.param("sha-512=:AAAA:", None, id="another algorithm"),
        pytest.param("sha-256=:AAAA:", None, id="too short"),
        pytest.param("sha-256=:A:", None, id="not base64"),
        pytest.param("sha-256=AAAA", None, id="no bytes"),
    ],
)
def test_the_header_is_read(value: str | None, expected: bytes | None) -> None:
    assert announced_sha256(value) == expected
