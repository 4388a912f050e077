"""What is done when the Hub does not answer: what the cache has instead, and which error goes up."""

from __future__ import annotations

from huggingface_hub.errors import (
    HfHubHTTPError,
    RepositoryNotFoundError,
)

__all__ = ["HubUnreachable", "detach_tracebacks", "is_refusal"]


def detach_tracebacks(error: BaseException) -> None:
    """Drop the frames that an error and its causes keep alive, and with them what callers hold there."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        current.__traceback__ = None
        pending += [current.__cause__, current.__context__]


class HubUnreachable(Exception):  # noqa: N818  not an error of its own: it carries one
    """The Hub did not answer; ``commit`` is what was known by then."""

    def __init__(self, error: Exception, commit: str | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.commit = commit


def is_refusal(error: Exception) -> bool:
    """Whether the Hub answered and its answer is what the caller has to see."""
    return isinstance(error, RepositoryNotFoundError) or (
        isinstance(error, HfHubHTTPError) and error.response.status_code == 401
    )
