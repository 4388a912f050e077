"""One repository onto many machines: each part fetched once, and the rest exchanged among them.

``results`` is what became of each node, and how it crosses from one machine to another.

May import everything below, and ``localhub``. What a scheduler or a server needs (dask, ray, aiohttp) is
imported by the modules that use it, when they are used: importing this package needs none of it.

Invariants kept here:

3. A node's files appear in its cache only verified, whoever sent their bytes.
6. The Hub's token goes to the Hub only; nodes know each other by a token of the job's own.
"""

from __future__ import annotations

__all__: list[str] = []
