"""Bytes of a file in order."""

from __future__ import annotations

from tests.support.repos import random_bytes
from tests.support.sources import FakeTransport, make_reads

DATA = random_bytes(4_000_000, "reader")
MiB = 1 << 20


def test_a_stream_is_in_order_and_stops_when_let_go() -> None:
    transport = FakeTransport(DATA)
    reads, (source,) = make_reads(transport)
    assert b"".join(reads.stream(source, 0, len(DATA))) == DATA
    assert b"".join(reads.stream(source, 100, 100)) == b""
    blocks = reads.stream(source, 10, len(DATA))
    assert next(blocks) == DATA[10 : 10 + MiB]
    blocks.close()
