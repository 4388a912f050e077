"""Sets of stripes as bitmaps: small numbers of bits are looked at, however many there are."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Iterable, Iterator

__all__ = ["Bitmap", "LazyBitmap", "bits_of", "decode_bits", "encode_bits", "highest", "lowest", "numbers_in"]


class Bitmap:
    """A set of numbers below ``size``.

    To look at some of it takes time by how much that is, and not by the size.
    """

    __slots__ = ("_bytes", "size")

    def __init__(self, size: int, bits: int = 0) -> None:
        self.size = size
        self._bytes = bytearray()
        self.replace(bits)

    def __contains__(self, number: int) -> bool:
        return bool(self._bytes[number >> 3] >> (number & 7) & 1)

    def add(self, number: int) -> None:
        """Add a number."""
        self._bytes[number >> 3] |= 1 << (number & 7)

    def discard(self, number: int) -> None:
        """Remove a number, whether there or not."""
        self._bytes[number >> 3] &= ~(1 << (number & 7)) & 0xFF

    def replace(self, bits: int) -> None:
        """Make it the set of an int's bits; those beyond the size do not count."""
        bits &= (1 << self.size) - 1
        self._bytes[:] = bits.to_bytes((self.size + 7) >> 3, "little")

    def window(self, base: int, length: int) -> int:
        """Return ``length`` bits from ``base`` on, which becomes bit 0."""
        piece = self._bytes[base >> 3 : (base + length + 7) >> 3]
        return int.from_bytes(piece, "little") >> (base & 7) & ((1 << length) - 1)

    @property
    def bits(self) -> int:
        """All of it as an int."""
        return int.from_bytes(self._bytes, "little")


class LazyBitmap:
    """The numbers below a size for which something holds: each is looked at once, when it is asked for.

    Args:
        size: The size.
        holds: Looks at a number.
    """

    __slots__ = ("_found", "_holds", "_looked_at")

    def __init__(self, size: int, holds: Callable[[int], bool]) -> None:
        self._holds = holds
        self._looked_at, self._found = Bitmap(size), Bitmap(size)

    def among(self, bits: int, base: int, length: int) -> int:
        """Return those of some numbers for which it holds, as a bitmap, too.

        Args:
            bits: Bitmap of the numbers to look at.
            base: The number that is bit 0.
            length: How many bits there are.
        """
        if not bits:  # as it is nearly always where all is well
            return 0
        for bit in numbers_in(bits & ~self._looked_at.window(base, length)):
            self._looked_at.add(base + bit)
            if self._holds(base + bit):
                self._found.add(base + bit)
        return bits & self._found.window(base, length)

    def forget(self) -> None:
        """Look at all of them anew, as it may hold for others now."""
        self._looked_at.replace(0)
        self._found.replace(0)


def bits_of(numbers: Iterable[int]) -> int:
    """Return an int with the bits of ``numbers``."""
    known = sorted(set(numbers))
    if not known:
        return 0
    found = Bitmap(known[-1] + 1)
    for number in known:
        found.add(number)
    return found.bits


def lowest(bits: int) -> int:
    """Return the number of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1


def highest(bits: int) -> int:
    """Return the number of the highest bit that is set."""
    return bits.bit_length() - 1


def numbers_in(bits: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set, in order."""
    base = 0
    # One word at a time: to clear a bit of an int takes time by the length of the int.
    for word in bits.to_bytes((bits.bit_length() + 7) >> 3, "little"):
        left = word
        while left:
            yield base + lowest(left)
            left &= left - 1
        base += 8


def encode_bits(bits: int) -> str:
    """Return a bitmap as text: base64 of the compressed bytes, the lowest bits first."""
    packed = zlib.compress(bits.to_bytes((bits.bit_length() + 7) >> 3, "little"), 1)
    return base64.b64encode(packed).decode("ascii")


def decode_bits(text: str, size: int) -> int:
    """Return the bitmap that a text holds.

    Args:
        text: As :func:`encode_bits` makes it.
        size: Bits that it may have.

    Raises:
        ValueError: It holds none, or a longer one.
    """
    most = (size + 7) >> 3
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(base64.b64decode(text, validate=True), most + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"not a bitmap: {error}") from error
    bits = int.from_bytes(raw, "little")
    if not inflater.eof or bits.bit_length() > size:
        raise ValueError(f"not a bitmap of {size} bits")
    return bits
