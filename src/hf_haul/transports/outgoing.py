"""A GET as it is to be sent: where to, with which headers, and by which way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import requests
from requests.structures import CaseInsensitiveDict

from hf_haul.task import NetworkPath, NetworkPaths
from hf_haul.transports.network import Adapter
from hf_haul.transports.request import InterruptibleRequest
from hf_haul.transports.sessions import obey
from hf_haul.urls import HttpUrl

__all__ = ["Outgoing", "merge_headers"]


def merge_headers(url: HttpUrl, usual: Mapping[str, str], own: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers of a request: its own, those that all have besides, and what its URL stands for.

    Args:
        url: What is asked for; its user and password go before any other ``Authorization``.
        usual: Headers of all requests.
        own: Headers of this one.
    """
    headers = dict(own or {})
    authorization = url.authorization
    if authorization is not None:
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        headers["Authorization"] = authorization
    names = {name.lower() for name in headers}
    return {**{name: value for name, value in usual.items() if name.lower() not in names}, **headers}


@dataclass(eq=False, slots=True)
class Outgoing:
    """A GET as it is to be sent.

    Attributes:
        url: What is asked for.
        headers: All of them but ``Host``.
        adapter: Of the thread that sends it.
        call: The same as its cancel token sees it.
        paths: How hosts are reached, where the pool was not told itself.
        session: Whose settings have it go the way of requests; ``None`` if none do.
        first: Whether nothing redirected to it.
        secrets: Whether it gets those of the session.
    """

    url: HttpUrl
    headers: dict[str, str] = field(repr=False)  # they may hold tokens
    adapter: Adapter
    call: InterruptibleRequest
    paths: NetworkPaths | None
    session: requests.Session | None = None
    first: bool = True
    secrets: bool = True

    @property
    def path(self) -> NetworkPath | None:
        """How the caller would have its origin reached."""
        return None if self.paths is None else self.paths.path_to(str(self.url))

    def prepared(self) -> requests.PreparedRequest:
        """Return the same as requests would have it."""
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = "GET", str(self.url)
        prepared.headers = CaseInsensitiveDict(self.headers)
        if self.session is not None:
            obey(self.session, prepared, first=self.first, secrets=self.secrets)
        return prepared
