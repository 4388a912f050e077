"""Names and addresses of this machine."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from hf_haul.localhub import hosts
from hf_haul.localhub.hosts import HostRule, is_loopback, own_addresses, urls_for_others

OWN = "192.0.2.7"


@pytest.fixture(autouse=True)
def this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_linux_addresses", lambda: iter(["127.0.0.1", OWN, "::1", "fd00::7"]))
    monkeypatch.setattr(hosts, "_routed_addresses", lambda: iter(["127.0.0.1", OWN, "::1", "fd00::7"]))
    monkeypatch.setattr(socket, "gethostname", lambda: "Lab7.example.org")


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        pytest.param(["localhost"], True, id="localhost"),
        pytest.param(["LOCALHOST:8000"], True, id="in capitals, with a port"),
        pytest.param(["localhost."], True, id="with the root's dot"),
        pytest.param(["127.0.0.1:8000"], True, id="loopback"),
        pytest.param(["[::1]:8000"], True, id="loopback of IPv6"),
        pytest.param([OWN], True, id="own address"),
        pytest.param(["[fd00:0::7]:1"], True, id="own address, written otherwise"),
        pytest.param([f"[::ffff:{OWN}]"], True, id="own address, as IPv6"),
        pytest.param(["192.0.2.8"], True, id="the address at which it arrived"),
        pytest.param(["lab7.example.org"], True, id="own name"),
        pytest.param(["lab7"], True, id="own name, in short"),
        pytest.param(["lab7.local:80"], True, id="own name, by multicast"),
        pytest.param(["models.lab"], True, id="an allowed name"),
        pytest.param(["xn--grsse-lva.lab"], True, id="an allowed name that is not ASCII"),
        pytest.param(["192.0.2.3:80"], True, id="an allowed address"),
        pytest.param(["[fd00:0::8]"], True, id="an allowed address, written otherwise"),
        pytest.param(["192.0.2.9"], False, id="another address"),
        pytest.param(["rebind.example"], False, id="another name"),
        pytest.param(["localhost.rebind.example"], False, id="a name that begins alike"),
        pytest.param(["localhost@rebind.example"], False, id="with a user"),
        pytest.param(["localhost rebind.example"], False, id="two names"),
        pytest.param(["[::1"], False, id="broken"),
        pytest.param([""], False, id="empty"),
        pytest.param([], False, id="none"),
        pytest.param(["localhost", "rebind.example"], False, id="two headers"),
    ],
)
def test_a_request_names_this_machine_or_what_is_allowed(given: list[str], allowed: bool) -> None:
    rule = HostRule(["Models.Lab.:8000", "grüsse.lab", "192.0.2.3", "fd00::0:8"])
    assert rule.allows(given, "192.0.2.8") is allowed


@pytest.mark.parametrize("host", ["http://models.lab:80", "models.lab/", "*.lab", "a b", "", "a@b", "ü" * 80])
def test_what_can_be_the_name_of_no_host_is_not_allowed(host: str) -> None:
    with pytest.raises(ValueError, match="not the name or address"):
        HostRule([host])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        (OWN, False),
    ],
)
def test_what_only_this_machine_can_reach(host: str, loopback: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, *_: object, **__: object) -> list[object]:
        return [(0, 0, 0, "", (str(ipaddress.ip_address(host)), 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert is_loopback(host) is loopback


def test_a_name_with_one_address_elsewhere_can_be_reached_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(0, 0, 0, "", ("127.0.0.1", 0)), (0, 0, 0, "", (OWN, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert not is_loopback("lab7")


def test_a_name_that_nobody_has_is_an_error_that_names_it() -> None:
    with pytest.raises(OSError, match=r"nobody\.invalid"):
        is_loopback("nobody.invalid")


def test_addresses_that_others_can_use_come_first() -> None:
    assert own_addresses() == [OWN, "fd00::7", "127.0.0.1", "::1"]
    assert urls_for_others("http://127.0.0.1:80", "0.0.0.0") == [f"http://{OWN}:80"]
    assert urls_for_others("http://127.0.0.1:80", "0") == [f"http://{OWN}:80"]
    assert urls_for_others("https://[::1]:80", "::") == ["https://[fd00::7]:80"]
    assert urls_for_others("http://127.0.0.1:80", "") == [f"http://{OWN}:80", "http://[fd00::7]:80"]
    assert urls_for_others(f"http://{OWN}:80", OWN) == []


def test_this_machine_has_a_loopback_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert "127.0.0.1" in own_addresses()
