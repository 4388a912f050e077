"""How the bytes of a range are had: connections and how many, HTTP, retries, pace.

``base`` is what the engine and reads ask for; ``http`` is the one way to get it so far, over the connections of ``pool``.
``retry`` is the one owner of retries, ``pacing`` has all threads obey a server's limits together, ``source_limits`` says
how many connections a source is worth (``concurrency`` decides), ``stallguard`` ends reads that wait too long.

May import the shared modules at the top, and no other package: nothing here knows of files on disk or of queues.

Invariants kept here:

6. A token is sent only to the Hub's own origin, never to the place a redirect points to.
9. Every wait (network, retry, rate limit) ends within a second of Ctrl+C, cancel or shutdown.
"""

from __future__ import annotations

__all__: list[str] = []
