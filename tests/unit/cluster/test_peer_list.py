"""Which nodes there are, and which of them this is."""

from __future__ import annotations

import pytest

from hf_haul.cluster import peer_list
from hf_haul.cluster.peer_list import read_peers

HOSTS = {
    "a": {"10.0.0.1"},
    "a.lan": {"10.0.0.1"},
    "b": {"10.0.0.2"},
    "10.0.0.1": {"10.0.0.1"},
    "self": {"127.0.1.1"},
    "localhost": {"127.0.0.1"},
}


def addresses_of(host: str) -> set[str]:
    return HOSTS.get(host, set())


@pytest.mark.parametrize(
    "listen",
    [
        pytest.param("b:8001", id="as listed"),
        pytest.param("B:8001", id="in another case"),
        pytest.param("http://b:8001", id="with a scheme"),
        pytest.param("10.0.0.2:8001", id="by its address"),
    ],
)
def test_the_one_at_this_address_is_me(listen: str) -> None:
    hosts = {**HOSTS, "10.0.0.2": {"10.0.0.2"}}
    found = read_peers(
        ["http://a:8001,http://b:8001", "c:9000"], listen, addresses_of=lambda host: hosts.get(host, set())
    )
    assert (found.me, found.url, found.port) == ("b:8001", "http://b:8001", 8001)
    assert list(found.urls) == ["a:8001", "b:8001", "c:9000"]
    assert not found.is_first
    assert not found.joins_late


def test_who_listens_everywhere_is_found_by_the_machines_own_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_list, "own_addresses", lambda: ["10.0.0.1"])
    for listen in ("0.0.0.0:8001", "[::]:8001"):
        for first in ("a:8001", "self:8001"):
            found = read_peers([f"{first},b:8001"], listen, addresses_of=addresses_of)
            assert (found.me, found.is_first) == (first, True)
            assert not found.is_local
    with pytest.raises(ValueError, match="does not say where others reach it"):
        read_peers(["a:8001,b:8001"], "0.0.0.0:8002", addresses_of=addresses_of)
    with pytest.raises(ValueError, match="does not say where others reach it"):
        read_peers(["a:8001,a.lan:8001"], "0.0.0.0:8001", addresses_of=addresses_of)


def test_who_is_not_listed_joins_late_under_its_own_address() -> None:
    found = read_peers(["a:8001,b:8001"], "c:8001", addresses_of=addresses_of)
    assert (found.me, found.url, found.joins_late) == ("c:8001", "http://c:8001", True)


def test_an_address_of_ipv6_is_read_with_its_brackets() -> None:
    found = read_peers(["http://[::1]:8001,http://[::1]:8002"], "[::1]:8002", addresses_of=addresses_of)
    assert (found.me, found.host, found.port, found.url) == ("[::1]:8002", "::1", 8002, "http://[::1]:8002")
    assert found.is_local


@pytest.mark.parametrize(
    ("peers", "listen", "said"),
    [
        ([""], "a:1", "names nobody"),
        (["a:1,a:1"], "a:1", "names a:1 twice"),
        (["https://a:1"], "a:1", "http://host:port and no more"),
        (["http://a:1/path"], "a:1", "http://host:port and no more"),
        (["http://user:s3cret@a:1"], "a:1", "--peers: not the address"),
        (["a:99999"], "a:1", "--peers: not the address"),
        (
            ["a:1", f"b.{'c' * 64}:1"],
            "a:1",
            "--peers: b.c{64}:1 is not the address of a node: a part of its name",
        ),
        (["a:1"], "a b:1", "--listen: not the address"),
        (["a:1"], "a", "--listen: a does not say at which port"),
        (["a:1"], "1", "--listen: 1 does not say at which port"),
    ],
)
def test_what_is_no_list_of_nodes_is_refused(peers: list[str], listen: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        read_peers(peers, listen, addresses_of=addresses_of)
    assert "s3cret" not in str(refused.value)
