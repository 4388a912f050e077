"""Names and addresses of this machine: which of them others can use, and which a request may name.

A web page can have its own name lead to an address in the reader's network (DNS rebinding), and so read from
there what it likes. What it cannot do is to have the browser name another host than its own in the request.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

__all__ = ["ANY_ADDRESS", "HostRule", "host_name", "is_loopback", "own_addresses", "urls_for_others"]

#: What to listen on for every address of this machine.
ANY_ADDRESS: Final = frozenset({"0.0.0.0", "0", "::", ""})  # noqa: S104  only looked up, not bound

_HOST: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)(?:%[^\]]*)?\]|([A-Za-z0-9._-]+))(?::\d{1,5})?")
_IF_INET6: Final = Path("/proc/net/if_inet6")
_SIOCGIFCONF: Final = 0x8912
_IFREQ: Final = 40 if sys.maxsize > 1 << 32 else 32  # bytes of one struct ifreq
_IFREQS: Final = 256
_LINK_SCOPE: Final = "20"
#: Reserved for documentation: nobody is there, and asking for the way there sends nothing.
_ELSEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach what listens on a host.

    Args:
        host: An address, or a name, which is looked up.

    Raises:
        OSError: There is no such name.
    """
    if host in ANY_ADDRESS:
        return False
    if host.lower() == "localhost":
        return True
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(error.errno, f"cannot look up {host}: {error.strerror}") from error
    return all(_address(str(entry[4][0])).is_loopback for entry in found)


def own_addresses() -> list[str]:
    """Return the addresses of this machine, those first that others can use, without link-local ones."""
    found = dict.fromkeys(_linux_addresses() if sys.platform == "linux" else _routed_addresses())
    return sorted(found, key=lambda address: (_address(address).is_loopback, ":" in address))


def urls_for_others(url: str, host: str) -> list[str]:
    """Return URLs that other machines can use, of a hub that listens on every address.

    Args:
        url: Its address on this machine.
        host: What it listens on.
    """
    if host not in ANY_ADDRESS:
        return []
    parts = urlsplit(url)
    kind = {"0.0.0.0": ".", "0": ".", "::": ":"}.get(host, "")  # noqa: S104  only looked up, not bound
    return [
        f"{parts.scheme}://{f'[{address}]' if ':' in address else address}:{parts.port}"
        for address in own_addresses()
        if kind in address and not _address(address).is_loopback
    ]


def _linux_addresses() -> Iterator[str]:
    with suppress(OSError), closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        yield from _ipv4_addresses(sock)
    with suppress(OSError):
        for line in _IF_INET6.read_text("ascii").splitlines():
            digits, _, _, scope, *_ = line.split()
            if scope != _LINK_SCOPE:
                yield str(ipaddress.IPv6Address(int(digits, 16)))


def _ipv4_addresses(sock: socket.socket) -> Iterator[str]:
    import array
    import fcntl  # not on Windows

    buffer = array.array("B", bytes(_IFREQ * _IFREQS))
    place, size = buffer.buffer_info()
    answer = fcntl.ioctl(sock.fileno(), _SIOCGIFCONF, struct.pack("iL", size, place))
    for start in range(0, struct.unpack("iL", answer)[0], _IFREQ):
        yield socket.inet_ntoa(buffer[start + 20 : start + 24].tobytes())


def _routed_addresses() -> Iterator[str]:
    """Return the addresses from which this machine would reach others."""
    yield from ("127.0.0.1", "::1")
    for family, elsewhere in _ELSEWHERE:
        with suppress(OSError), closing(socket.socket(family, socket.SOCK_DGRAM)) as sock:
            sock.connect((elsewhere, 9))
            yield str(sock.getsockname()[0])


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def host_name(text: str) -> str:
    """Return the name or address of a host, as a request names it.

    Args:
        text: A name or an address; a port may follow.

    Raises:
        ValueError: It is neither.
    """
    with suppress(ValueError):
        return str(_address(text.strip()))
    try:
        name = text.strip().encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    match = _HOST.fullmatch(name)
    if match is None:
        raise ValueError(f"not the name or address of a host: {text!r}")
    return _canonical(match[1] or match[2])


def _canonical(name: str) -> str:
    with suppress(ValueError):
        return str(_address(name))
    return name.rstrip(".").lower()


class HostRule:
    """The host names that a request may be addressed to.

    Args:
        allowed: Names and addresses besides this machine's own.

    Raises:
        ValueError: One of them is neither.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        name = socket.gethostname().lower()
        short = name.partition(".")[0]
        own = {"localhost", name, short, f"{short}.local"} - {""}
        self._names = own | {host_name(host) for host in allowed}
        self._addresses = {_address(address) for address in own_addresses()}

    def allows(self, headers: Iterable[str], local_address: str | None) -> bool:
        """Return whether a request names this machine.

        Args:
            headers: The values of all its ``Host`` headers.
            local_address: The address at which it arrived.
        """
        given = list(headers)
        match = _HOST.fullmatch(given[0].strip()) if len(given) == 1 else None
        if match is None:
            return False
        name = _canonical(match[1] or match[2])
        if name in self._names:
            return True
        with suppress(ValueError):
            address = _address(name)
            arrived = set() if local_address is None else {_address(local_address)}
            return address.is_loopback or address in self._addresses | arrived
        return False
