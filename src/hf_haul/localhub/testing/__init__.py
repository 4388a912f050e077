"""Makes the local hub fail on purpose: faults by rule, and quotas.

For tests and demos. ``faults`` has what can go wrong, ``rules`` which requests it hits, and ``limits``
enforces quotas as the Hub does. The hub's ``app`` asks rules and limits about every request. Knows the values
of the local hub (answers, contents, its log), never its routes, and nothing of the client: a test hub must
not share the client's mistakes.
"""

from __future__ import annotations

__all__: list[str] = []
