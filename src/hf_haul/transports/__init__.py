"""How the bytes of a range are fetched: connections and how many, HTTP, retries, rate limits.

- ``base``: what the engine and reads ask for; ``http`` is the one way to get it so far. It keeps what a
  file's URL redirects to (``signed_links`` says for how long) and refuses the bytes of another version
  (``validators``), and attaches a token only to requests of the file's own origin.
- ``pool``: the connections. ``request`` is one request that another thread can interrupt, ``outgoing`` what
  is sent for it and ``sending`` how, ``slots`` counts connections and shares idle ones, ``network`` knows
  proxies and certificates (``certificates`` reads those of a file), ``route`` is how one origin is reached
  with them, ``dialing`` connects, ``plain`` is a request and its answer over a connection that stands,
  ``answer_head`` and ``receiving`` read, ``response`` is an answer, ``translation`` makes errors of ours of
  those that libraries raise. ``sessions`` is what users set on the pool's sessions, ``mounted`` a request
  through an adapter of theirs.
- ``content_digest``: compares what comes with what its source announces of it, where it does.
- ``file_facts``: what a server says of a file before it sends it.
- ``retry``: the one owner of retries. ``pacing`` has all threads obey together what servers ask them to wait.
- ``source_limits``: how many connections a source is worth; ``concurrency`` decides, by the ``load``.

May import the shared modules at the top, and no other package: nothing here knows of files on disk or of
queues.

Invariants kept here:

6. A token is sent only to the Hub's own origin, never to the place a redirect points to.
9. Every wait (network, retry, rate limit) ends within a second of Ctrl+C, cancel or shutdown.
"""

from __future__ import annotations

__all__: list[str] = []
