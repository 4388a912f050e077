from __future__ import annotations

import base64
import random
import time
import zlib

import pytest

from hf_haul.cluster.bitmaps import (
    Bitmap,
    LazyBitmap,
    bits_of,
    decode_bits,
    encode_bits,
    highest,
    lowest,
    numbers_in,
)


def test_a_window_shows_what_is_in_the_set_at_any_place() -> None:
    chosen = random.Random(7)
    numbers = {chosen.randrange(100) for _ in range(40)}
    bitmap = Bitmap(100, bits_of(numbers))
    for base in range(100):
        for length in (0, 1, 5, 8, 17, 100):
            seen = {base + bit for bit in numbers_in(bitmap.window(base, length))}
            assert seen == {each for each in numbers if base <= each < base + length}


def test_what_is_added_is_there_until_it_is_discarded() -> None:
    bitmap = Bitmap(20)
    bitmap.add(0)
    bitmap.add(19)
    assert (0 in bitmap, 1 in bitmap, 19 in bitmap, bitmap.bits) == (True, False, True, 1 | 1 << 19)
    bitmap.discard(19)
    bitmap.discard(3)
    assert (bitmap.bits, 19 in bitmap) == (1, False)


def test_what_holds_is_looked_at_once_for_each_number_until_it_is_forgotten() -> None:
    multiples_of, looked_at = 3, []

    def holds(number: int) -> bool:
        looked_at.append(number)
        return number % multiples_of == 0

    bitmap = LazyBitmap(100, holds)
    assert bitmap.among(0b1111, 20, 8) == 0b10
    assert looked_at == [20, 21, 22, 23]
    assert bitmap.among(0b1111_1000, 18, 8) == 0b0100_1000
    assert looked_at == [20, 21, 22, 23, 24, 25]
    multiples_of = 2
    assert bitmap.among(0b1111, 20, 8) == 0b10
    bitmap.forget()
    assert bitmap.among(0b1111, 20, 8) == 0b101
    assert len(looked_at) == 10


def test_bits_beyond_the_size_do_not_count() -> None:
    assert Bitmap(3, 0b11111).bits == 0b111


def test_the_ends_of_a_set_are_found() -> None:
    bits = bits_of([4, 9, 70])
    assert (lowest(bits), highest(bits), list(numbers_in(bits))) == (4, 70, [4, 9, 70])
    assert (bits_of([]), list(numbers_in(0))) == (0, [])


@pytest.mark.parametrize("bits", [0, 1, 1 << 999, (1 << 1000) - 1, 0b1011])
def test_a_bitmap_comes_back_from_its_text(bits: int) -> None:
    assert decode_bits(encode_bits(bits), 1000) == bits


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("?", id="not base64"),
        pytest.param(base64.b64encode(b"nothing").decode(), id="not compressed"),
        pytest.param(encode_bits(1 << 8), id="a bit too many"),
        pytest.param(encode_bits(1 << 8_000_000), id="much too long"),
        pytest.param(base64.b64encode(zlib.compress(b"\1")[:-2]).decode(), id="cut"),
    ],
)
def test_what_is_no_bitmap_of_the_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a bitmap"):
        decode_bits(text, 8)


def test_a_look_takes_no_longer_where_the_set_is_large() -> None:
    small, large = Bitmap(64, 1), Bitmap(8_000_000, 1)

    def seconds(bitmap: Bitmap) -> float:
        best = 1.0
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(2000):
                bitmap.window(3, 40)
            best = min(best, time.perf_counter() - begun)
        return best

    assert seconds(large) < 5 * seconds(small)
