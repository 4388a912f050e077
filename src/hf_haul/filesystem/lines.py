"""Lines and small reads of open files, most of them at the price of bytes in memory."""

from __future__ import annotations

import io
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final

from hf_haul.reading.file_reader import FileReader

__all__ = ["LineReader"]

#: Bytes fetched at once while looking for the end of a line: at first, and at the most, once lines follow
#: each other.
_FIRST_BLOCK: Final = 64 * 1024
_LARGEST_BLOCK: Final = 512 * 1024
#: Reads up to this many bytes that follow each other are taken from the block, too.
_SMALL: Final = 32 * 1024


class LineReader(ABC):
    """Reads lines of a file whose bytes can be had at any offset; a base of open files.

    A block of the file is kept, and its whole lines are handed out by :class:`io.BytesIO`, to the thread that
    asked for the first of them. Whatever moves the position in another way takes the rest of them away:
    :meth:`_end_lines`. 600,000 lines take 0.5 s of CPU time so, 2.9 s where the end of each was looked for
    here, and 49 s in files opened forward-only (bench_reads, lines).

    Attributes:
        size: Bytes of the file.
        loc: The position, unless lines are being handed out.
    """

    size: int
    loc: int

    def _start_lines(self) -> None:
        self._block: tuple[int, bytes] = (0, b"")  # an offset, and some bytes from there on
        self._block_size = _FIRST_BLOCK
        self._small_stop = 0  # where the last read ended
        self._noted = 0  # up to where of that the reader knows
        self._lines: io.BytesIO | None = None  # whole lines, the position in which is the file's
        self._lines_at = 0
        self._own = threading.local()  # its ``lines`` are those that this thread began

    # ---- what a file has to say

    @abstractmethod
    def tell(self) -> int:
        """Return the position."""

    @abstractmethod
    def pread(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` up to ``stop``, without moving the position."""

    @abstractmethod
    def _take(self, length: int) -> tuple[int, int]:
        """Move the position past ``length`` bytes, after :meth:`_end_lines`."""

    # ---- the position

    def _common_position(self) -> int:
        """Return the position, whether lines are being handed out or not."""
        lines = self._lines
        return self.loc if lines is None else self._lines_at + lines.tell()

    def _end_lines(self) -> None:
        """Set ``loc`` to the position; hand out no more of the lines that were found."""
        lines, self._lines = self._lines, None
        if lines is not None:
            nbytes = len(lines.getbuffer())
            self.loc = self._lines_at + nbytes - len(lines.read())  # whoever iterates over them ends

    def _begin_lines(self, at: int) -> None:
        """Hand out the whole lines that the block has from the position on."""
        offset, block = self._block
        whole = block[at - offset : block.rfind(b"\n") + 1]
        if whole:
            self._lines_at = at
            self._lines = self._own.lines = io.BytesIO(whole)

    # ---- small reads

    def _read_small(self, start: int, stop: int, reader: FileReader) -> bytes | None:
        """Return the bytes of a small read in order, or ``None`` if it is no such read.

        A block is taken at once of what is in memory; nothing is asked for or waited for that would not be,
        and the reader is told later how much of it was read. Text and what is compressed come in reads of
        8 KiB: 10,000 take 0.1 s of CPU time so, and else 0.3 s.
        """
        offset, block = self._block
        small = stop - start <= _SMALL
        if small and offset <= start and stop <= offset + len(block):
            self._small_stop = stop
            return block[start - offset : stop - offset]
        if self._small_stop > self._noted:
            reader.note(self._noted, self._small_stop)
        follows = small and start == self._small_stop and start > 0
        self._small_stop = self._noted = stop
        if not follows:
            return None
        # Half of it at the most: who tells of what comes after it must not be told too late.
        end = start + min((reader.held_to(start) - start) // 2, _LARGEST_BLOCK // 2)
        held = reader.read_held(start, end) if end >= start + 2 * (stop - start) else None
        if held is None:
            return None
        self._block, self._noted = (start, held), start
        return held[: stop - start]

    # ---- lines

    def readline(self, limit: int | None = -1) -> bytes:
        """Read a line, its end included; at most ``limit`` bytes of it, unless negative."""
        if limit is None or limit < 0:
            lines: io.BytesIO | None = getattr(self._own, "lines", None)
            line = b"" if lines is None else lines.readline()
            return line or self._read_until(b"\n", -1, None)
        return self._read_until(b"\n", limit, None)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the lines from the position on, wherever it is moved meanwhile."""
        while line := self.readline():
            yield line
            lines = getattr(self._own, "lines", None) or ()
            for each in lines:  # noqa: UP028  "yield from" would close the lines when the loop is left
                yield each

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """Return all lines that are left, or as many as hold ``hint`` bytes."""
        if hint is None or hint <= 0:
            return list(iter(self))
        found: list[bytes] = []
        total = 0
        while total < hint and (line := self.readline()):
            found.append(line)
            total += len(line)
        return found

    def readuntil(self, char: bytes = b"\n", blocks: int | None = None) -> bytes:
        """Read up to and including ``char``, or to the end of the file.

        Args:
            char: What to look for.
            blocks: Bytes fetched at once; some tens or hundreds of KiB if ``None``.
        """
        return self._read_until(char, -1, blocks)

    def _read_until(self, mark: bytes, limit: int, block: int | None) -> bytes:
        start = self.tell()
        end = self.size if limit < 0 else min(self.size, start + limit)
        found: list[bytes] = []
        at, tail = start, b""
        while at < end:
            data = self._data_at(at, block)[: end - at]
            # The mark may lie across two blocks.
            seen = tail + data
            i = seen.find(mark)
            if i >= 0:
                found.append(data[: max(0, i + len(mark) - len(tail))])
                at += len(found[-1])
                break
            found.append(data)
            at += len(data)
            tail = seen[len(seen) - len(mark) + 1 :] if len(mark) > 1 else b""
        self._take(at - start)
        if mark == b"\n" and limit < 0 and found:
            self._begin_lines(at)
        return b"".join(found)

    def _data_at(self, at: int, size: int | None) -> bytes:
        """Return some bytes from ``at`` on, kept for the next lines."""
        offset, data = self._block
        if not offset <= at < offset + len(data):
            follows = bool(data) and at == offset + len(data)
            self._block_size = min(2 * self._block_size, _LARGEST_BLOCK) if follows else _FIRST_BLOCK
            offset, data = at, self.pread(at, min(at + (size or self._block_size), self.size))
            self._block = (offset, data)
        return data[at - offset :]
