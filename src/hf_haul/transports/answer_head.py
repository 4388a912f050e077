"""The head of an answer: its status and headers, with the interim answers before it passed over."""

from __future__ import annotations

import http.client
from typing import Any, Final

__all__ = ["Answer"]

#: Interim answers before the one that counts.
_MAX_INTERIM: Final = 100
#: 100 is for the standard class; after 101 the connection would speak another protocol.
_NOT_INTERIM: Final = frozenset({100, 101})


class Answer(http.client.HTTPResponse):
    """An answer before which others may come (103 Early Hints, 102 Processing)."""

    def _read_status(self) -> tuple[Any, int, str]:
        """Read the status line; skip interim answers, where the standard class skips 100 only."""
        read: Any = super()._read_status  # type: ignore[misc]  # what begin calls
        for _ in range(_MAX_INTERIM):
            version, status, reason = read()
            if status // 100 != 1 or status in _NOT_INTERIM:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"more than {_MAX_INTERIM} interim answers")
