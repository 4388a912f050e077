"""A Hub for a lab: what ``localhub`` serves, and what another Hub has, fetched once for all who ask.

``lookups`` asks the other Hub which commit a revision is at and which files that has, every so many seconds.
``repos`` are the repositories of the Hub cache with all of these files; ``fetches`` has those fetched that
are not here, through the manager, and streams them meanwhile; ``silence`` remembers what the other Hub did
not give lately. ``kept`` remembers what was fetched, and removes what was not used for longest where space is
limited.

Who runs it looks at ``traffic`` (who asked for what, the access log), in the words of Prometheus
(``exposition``) or on a page (``pages``, ``status.html``). ``lab`` has all of this together, and ``wiring``
makes of it what a hub is given.

May import everything below, and ``localhub``.

Invariants kept here:

3. A file appears in the cache only verified; and of a wrong one no client gets the last byte.
6. A client's token goes nowhere; the server's own goes to the other Hub only, and only where that was asked
   for.
"""

from __future__ import annotations

__all__: list[str] = []
