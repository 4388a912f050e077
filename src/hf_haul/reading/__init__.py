"""Ranges of remote files in memory, and what to fetch before it is asked for.

- ``range_source``: one remote file, read by ranges, every answer checked.
- ``reader``: many such reads at once. ``batches`` joins neighbours and cuts large reads into parts, as large
  as ``link`` says, and ``read_threads`` fetches them, the most urgent first, into a ``buffer``.
- ``extents``: what was read, or is on its way, in bounded memory, which ``shares`` divides.
- ``file_reader``: one open file, which reads ahead as ``readahead`` and ``parquet`` suggest, which finds
  the columns of a file by its ``footer``.
- ``disk_copy``: what the Hub's cache on disk has of a file, and what reads add to it.
- ``lookahead``: the files that will be opened next, by what ``siblings`` has seen.

May import the shared modules at the top, ``storage`` and ``transports``; not ``engine``, which stands beside
it.

Invariants kept here:

5. Memory is bounded, whatever the size of files and the number of opens.
8. A forked child works, whatever locks the parent's threads held at the fork.
9. Every wait ends within a second of Ctrl+C, cancel or shutdown.
"""

from __future__ import annotations

__all__: list[str] = []
