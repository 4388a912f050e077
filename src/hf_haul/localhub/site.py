"""What whoever runs a hub adds to it: pages of their own, a look at its requests, and other hubs to ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hf_haul.localhub.access import Account
from hf_haul.localhub.replies import Reply
from hf_haul.localhub.repository import Repo
from hf_haul.localhub.requestlog import RequestRecord
from hf_haul.localhub.routing import Route

__all__ = ["Observer", "Page", "PageRequest", "Site", "Upstream"]


@dataclass(frozen=True)
class PageRequest:
    """A request for a page.

    Attributes:
        method: The HTTP method.
        path: The URL's path as it was sent.
        query: The decoded query.
        headers: The request's headers, case-insensitive.
        body: The request's body.
        account: Who asks, or ``None``: it is up to the page what that means.
        asks_token: Whether the hub has accounts at all.
    """

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes
    account: Account | None
    asks_token: bool


#: Answers a request for a page; called on a thread that may wait.
Page = Callable[[PageRequest], Reply]


class Observer(Protocol):
    """Sees every request; called on the hub's thread, and must not keep it."""

    def begun(self, record: RequestRecord) -> None:
        """Note that a request has come."""

    def ended(self, record: RequestRecord) -> None:
        """Note that it was answered, or that its client has gone."""


class Upstream(Protocol):
    """Finds repositories that the hub does not have."""

    @property
    def name(self) -> str:
        """What requests carry that it makes: one that comes back here would go round in circles."""

    def find(self, route: Route) -> Repo | None:
        """Return the repository that a request is about, if there is one elsewhere.

        Raises:
            Refusal: Nobody can tell, or it may not be given out.
        """

    def close(self) -> None:
        """Answer all who wait, as the hub ends."""


@dataclass(frozen=True)
class Site:
    """What is added to a hub.

    Attributes:
        pages: Pages by their path.
        observer: Who sees the requests.
        upstream: Where to find repositories that are not here.
    """

    pages: Mapping[str, Page] = field(default_factory=dict)
    observer: Observer | None = None
    upstream: Upstream | None = None
