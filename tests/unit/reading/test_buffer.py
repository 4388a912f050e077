"""Buffers that threads fill, and what is handed out of them."""

from __future__ import annotations

import gc
import threading

import pytest

from hf_haul.reading import buffer as module
from hf_haul.reading.buffer import Buffer

MiB = 1 << 20
SIZES = [0, 1, 1000, 4 * MiB - 1, 4 * MiB, 5 * MiB + 3]


def content(nbytes: int) -> bytes:
    return (bytes(range(251)) * (nbytes // 251 + 1))[:nbytes]


@pytest.mark.parametrize("nbytes", SIZES)
@pytest.mark.parametrize("in_place", [True, False])
def test_what_threads_wrote_is_handed_out(
    monkeypatch: pytest.MonkeyPatch, nbytes: int, *, in_place: bool
) -> None:
    monkeypatch.setattr(module._unfilled, "is_possible", in_place)
    buffer, expected = Buffer(nbytes), content(nbytes)
    assert (len(buffer.view), buffer.view.format, buffer.view.readonly) == (nbytes, "B", False)

    def write(start: int, stop: int) -> None:
        with buffer.view[start:stop] as part:
            part[:] = expected[start:stop]

    half = nbytes // 2
    threads = [threading.Thread(target=write, args=each) for each in ((half, nbytes), (0, half))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = buffer.take()
    assert type(taken) is bytes
    assert taken == expected
    assert buffer.take() == b""


def test_a_large_buffer_is_not_copied() -> None:
    assert module._unfilled.is_possible, "this is CPython"
    buffer = Buffer(4 * MiB)
    buffer.view[:] = bytes(4 * MiB)
    assert buffer.take_array() is not buffer._bytes
    buffer = Buffer(4 * MiB)
    inner = buffer._bytes
    assert buffer.take() is inner


def test_a_view_keeps_what_it_writes_into() -> None:
    view = Buffer(8 * MiB).view
    gc.collect()
    others = [bytearray(b"x") * (8 * MiB) for _ in range(4)]
    view[:] = b"y" * (8 * MiB)
    assert [each.count(b"x") for each in others] == [8 * MiB] * 4
    assert view[-1] == ord("y")
