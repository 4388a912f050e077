"""Bytes of a body, from a pair of sockets."""

from __future__ import annotations

import http.client
import io
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from hf_haul.transports import receiving
from hf_haul.transports.receiving import DirectReader

MIB = 1 << 20


def reader_of(below: io.BufferedReader) -> DirectReader:
    return DirectReader(below.readinto1, getattr(below.raw, "_sock", None))


class Pair:
    """The server's end and ours, over TCP, for the errors that it has."""

    def __init__(self, stack: ExitStack) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.ours = stack.enter_context(socket.create_connection(listener.getsockname(), timeout=10))
            self.theirs = stack.enter_context(listener.accept()[0])
        self._stack = stack

    def reader(self, headers: int = 0) -> DirectReader:
        """A reader of what comes after ``headers`` bytes."""
        below = self._stack.enter_context(self.ours.makefile("rb"))
        below.read(headers)
        return reader_of(below)

    def changed(self) -> DirectReader:
        """A reader that asks the socket itself, and has read all that was sent."""
        reader = self.reader()
        self.pass_on(reader)
        return reader

    def pass_on(self, reader: DirectReader) -> None:
        """Send as much as the reader below keeps nothing of, and read it."""
        sent = random.randbytes(io.DEFAULT_BUFFER_SIZE + receiving._KEEPS_NOTHING)
        self.theirs.sendall(sent)
        view = memoryview(bytearray(len(sent)))
        assert bytes(view[: reader.readinto(view)]) == sent


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack)


def read_all(reader: DirectReader, sizes: Iterator[int]) -> bytes:
    body = bytearray()
    while True:
        view = memoryview(bytearray(next(sizes)))
        if not (got := reader.readinto(view)):
            return bytes(body)
        body += view[:got]


@pytest.mark.parametrize("seed", range(8))
def test_every_byte_comes_once_and_in_order(pair: Pair, seed: int) -> None:
    chance = random.Random(seed)
    body, headers = chance.randbytes(2 * MIB), b"headers\r\n\r\n"

    def send() -> None:
        left = memoryview(headers + body)
        while left:
            piece = chance.choice([1, 700, 9_000, 70_000])
            pair.theirs.sendall(left[:piece])
            left = left[piece:]
        pair.theirs.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    ways = random.Random(-seed)
    sizes = iter(lambda: ways.choice([1, 5_000, 8_192, 8_193, 20_000, 300_000]), None)
    assert read_all(pair.reader(len(headers)), sizes) == body
    sender.join()


def test_layers_that_keep_nothing_are_passed_by(pair: Pair) -> None:
    class Counting(socket.SocketIO):
        asked = 0

        def readinto(self, buffer: Any) -> int | None:
            self.asked += 1
            return super().readinto(buffer)

    with Counting(pair.ours, "rb") as raw, io.BufferedReader(raw) as below:
        reader = reader_of(below)
        view = memoryview(bytearray(receiving._KEEPS_NOTHING))
        pair.theirs.sendall(b"little")
        reader.readinto(view[:3])
        assert reader.readinto(view[:3]) == 3, "of what the reader below has kept"
        pair.pass_on(reader)
        asked = raw.asked
        pair.pass_on(reader)
        assert raw.asked == asked


def test_what_came_is_returned_before_the_buffer_is_full(pair: Pair) -> None:
    reader = pair.changed()
    pair.ours.settimeout(0.5)
    pair.theirs.sendall(b"ten bytes!")
    view = memoryview(bytearray(MIB))
    assert reader.readinto(view) == 10
    assert bytes(view[:10]) == b"ten bytes!"


@pytest.mark.parametrize("headers", [0, 11])
def test_what_came_is_not_kept_back_while_nothing_more_comes(pair: Pair, headers: int) -> None:
    pair.ours.settimeout(None)  # the next receive would wait for ever
    pair.theirs.sendall(b"headers\r\n\r\n"[:headers] + b"x" * 5_000)
    reader, view = pair.reader(headers), memoryview(bytearray(MIB))
    assert reader.readinto(view) == 5_000
    pair.theirs.sendall(b"y" * 300_000)
    got = 0
    while got < 300_000:
        got += reader.readinto(view)
    pair.theirs.sendall(b"z" * 10)
    assert reader.readinto(view) == 10


def test_nothing_for_the_sockets_timeout_is_an_error(pair: Pair) -> None:
    reader = pair.changed()
    pair.ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        reader.readinto(memoryview(bytearray(MIB)))


@pytest.mark.parametrize("room", [5_000, 8_192, 8_193, MIB])
def test_what_came_with_the_headers_is_returned_before_the_error(pair: Pair, room: int) -> None:
    pair.ours.settimeout(0.05)
    pair.theirs.sendall(b"headers\r\n\r\n" + b"x" * 5_000)
    reader, view = pair.reader(headers=11), memoryview(bytearray(room))
    assert reader.readinto(view) == 5_000
    with pytest.raises(TimeoutError):
        reader.readinto(view)


def test_a_reset_is_an_error(pair: Pair) -> None:
    reader = pair.changed()
    pair.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.theirs.close()
    with pytest.raises(ConnectionResetError):
        reader.readinto(memoryview(bytearray(MIB)))


def test_an_error_in_the_middle_of_a_buffer_comes_after_the_bytes_before_it() -> None:
    class Breaking(io.RawIOBase):
        pieces = iter([b"a" * 8_000, b"b" * 10_000])

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            piece = next(self.pieces, None)
            if piece is None:
                raise ConnectionResetError("reset")
            buffer[: len(piece)] = piece
            return len(piece)

    reader = reader_of(io.BufferedReader(Breaking()))
    view = memoryview(bytearray(MIB))
    assert reader.readinto(view) == 18_000
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            reader.readinto(view)


def test_a_shutdown_from_another_thread_ends_a_wait(pair: Pair) -> None:
    reader = pair.changed()
    breaker = threading.Thread(target=pair.ours.shutdown, args=(socket.SHUT_RDWR,))
    breaker.start()
    assert reader.readinto(memoryview(bytearray(MIB))) == 0
    breaker.join()


def test_only_a_body_as_it_is_can_be_read_so() -> None:
    def raw(answer: object) -> Any:
        return SimpleNamespace(_fp=answer)

    answer = http.client.HTTPResponse.__new__(http.client.HTTPResponse)
    answer.chunked, answer.fp = False, io.BufferedReader(io.BytesIO(b"body"))  # type: ignore[arg-type]
    assert DirectReader.of(raw(answer)) is not None
    answer.chunked = True
    assert DirectReader.of(raw(answer)) is None
    answer.chunked, answer.fp = False, None  # type: ignore[assignment]
    assert DirectReader.of(raw(answer)) is None
    assert DirectReader.of(raw(io.BytesIO(b"body"))) is None
    assert DirectReader.of(SimpleNamespace()) is None  # type: ignore[arg-type]
