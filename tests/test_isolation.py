"""The walls around the tests stand."""

from __future__ import annotations

import os
import socket

import pytest


@pytest.mark.refused_network
@pytest.mark.parametrize(
    "address",
    [
        pytest.param(("192.0.2.1", 80), id="an address outside"),
        pytest.param(("huggingface.co", 443), id="a name outside"),
    ],
)
def test_a_connection_to_the_outside_is_refused(address: tuple[str, int]) -> None:
    with socket.socket() as sock, pytest.raises(RuntimeError, match="tests stay on the loopback interface"):
        sock.connect(address)


@pytest.mark.refused_network
def test_no_name_server_is_asked() -> None:
    with pytest.raises(RuntimeError, match="tests stay on the loopback interface"):
        socket.getaddrinfo("huggingface.co", 443)


def test_a_name_that_cannot_exist_does_not_resolve() -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("nobody.invalid", 80)


def test_the_loopback_interface_is_open() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        client.sendall(b"x")
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(1) == b"x"


def test_huggingface_hub_sees_no_token_and_no_cache_of_the_users() -> None:
    from huggingface_hub import constants, get_token

    assert get_token() is None
    assert constants.HF_HUB_CACHE.startswith(os.environ["HF_HOME"])
    assert "hf-haul-tests-" in constants.HF_HUB_CACHE
