"""The nodes of a job that no scheduler started: a list that is the same everywhere, and which one this is."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hf_haul.errors import InvalidUrlError
from hf_haul.localhub.hosts import ANY_ADDRESS, is_loopback, own_addresses
from hf_haul.urls import HttpUrl, parse_url

__all__ = ["PeerList", "read_peers"]

_PORT: Final = re.compile(r":[0-9]+/?$")


@dataclass(frozen=True)
class PeerList:
    """The nodes of a job.

    Attributes:
        me: This node's name.
        host: The address that it listens on.
        port: The port.
        url: Where others reach it.
        urls: The URLs of all nodes that are listed, by name, in order.
    """

    me: str
    host: str
    port: int
    url: str
    urls: Mapping[str, str]

    @property
    def joins_late(self) -> bool:
        """Whether this node is not listed: the others do not count on it."""
        return self.me not in self.urls

    @property
    def is_first(self) -> bool:
        """Whether the others wait for this one's plan."""
        return next(iter(self.urls)) == self.me

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it.

        Raises:
            OSError: There is no such host.
        """
        return is_loopback(self.host)


def read_peers(
    peers: Sequence[str], listen: str, *, addresses_of: Callable[[str], set[str]] | None = None
) -> PeerList:
    """Read the list of nodes, and find this one in it: by its address, or else by what it listens on.

    Args:
        peers: Their URLs, each text one or several with commas between them; without a scheme it is http.
        listen: ``host:port`` that this node listens on.
        addresses_of: Looks a host's addresses up; by the system's own means if ``None``.

    Raises:
        ValueError: One is no address of a node, or it is unclear which one this is.
    """
    urls: dict[str, HttpUrl] = {}
    for text in (each.strip() for given in peers for each in given.split(",")):
        if not text:
            continue
        url = _read(text, "--peers")
        if _name(url) in urls:
            raise ValueError(f"--peers names {_name(url)} twice")
        urls[_name(url)] = url
    if not urls:
        raise ValueError(
            "--peers names nobody: give the URLs of all nodes, this one too, such as http://a:8001"
        )
    if _PORT.search(listen) is None:
        raise ValueError(f"--listen: {listen} does not say at which port: give HOST:PORT, such as a:8001")
    at = _read(listen, "--listen")
    host = at.host.strip("[]")
    me = _find(at, urls, addresses_of or _addresses_of)
    if me is None and host in ANY_ADDRESS:
        raise ValueError(
            f"none of --peers is this machine at port {at.port}, and --listen {listen} does not say where others "
            "reach it: give the address that is in the list, such as --listen a:8001"
        )
    return PeerList(
        me or _name(at),
        host,
        at.port,
        str(urls[me] if me is not None else at).rstrip("/"),
        {name: str(url).rstrip("/") for name, url in urls.items()},
    )


def _read(text: str, option: str) -> HttpUrl:
    try:
        url = parse_url(text if "://" in text else f"http://{text}")
    except InvalidUrlError as error:
        raise ValueError(f"{option}: not the address of a node, such as http://a:8001: {error}") from error
    if url.scheme != "http" or url.target != "/":
        raise ValueError(
            f"{option}: {text} is not the address of a node, which is http://host:port and no more"
        )
    try:
        url.host.encode("idna")  # as it is for whoever looks it up
    except UnicodeError as error:
        raise ValueError(
            f"{option}: {text} is not the address of a node: a part of its name has more than 63 characters"
        ) from error
    return url


def _name(url: HttpUrl) -> str:
    return f"{url.host}:{url.port}"


def _find(at: HttpUrl, urls: Mapping[str, HttpUrl], addresses_of: Callable[[str], set[str]]) -> str | None:
    """Return which of the nodes this is; ``None`` if it is none of them, or may be several."""
    if _name(at) in urls:
        return _name(at)
    host = at.host.strip("[]")
    everywhere = host in ANY_ADDRESS
    own = set(own_addresses()) if everywhere else addresses_of(host)

    def is_own(address: str) -> bool:
        # Many a machine knows itself by an address of its own, such as 127.0.1.1.
        return address in own or (everywhere and ipaddress.ip_address(address).is_loopback)

    found = [
        name
        for name, url in urls.items()
        if url.port == at.port and any(map(is_own, addresses_of(url.host.strip("[]"))))
    ]
    return found[0] if len(found) == 1 else None


def _addresses_of(host: str) -> set[str]:
    with contextlib.suppress(ValueError):
        return {str(ipaddress.ip_address(host))}
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {str(entry[4][0]).partition("%")[0] for entry in found}
