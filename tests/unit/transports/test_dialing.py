"""Addresses and connections of a dialer, on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from hf_haul.cancellation import CancelToken
from hf_haul.transports import dialing
from hf_haul.transports.request import InterruptibleRequest, WokenError

SIX, FOUR = socket.AF_INET6, socket.AF_INET


def addresses(*families: int) -> list[dialing.Address]:
    return [(family, socket.SOCK_STREAM, 0, "", (str(number), 1)) for number, family in enumerate(families)]


@pytest.mark.parametrize(
    ("families", "order"),
    [
        pytest.param([], [], id="none"),
        pytest.param([FOUR], [0], id="one"),
        pytest.param([SIX, SIX, FOUR, FOUR], [0, 2, 1, 3], id="as many of both"),
        pytest.param([FOUR, SIX, SIX, SIX], [0, 1, 2, 3], id="one of the first family"),
        pytest.param([SIX, SIX, SIX, FOUR], [0, 3, 1, 2], id="one of the second"),
        pytest.param([FOUR, FOUR], [0, 1], id="one family"),
    ],
)
def test_families_alternate_and_the_resolvers_first_choice_is_first(
    families: list[int], order: list[int]
) -> None:
    # Where there is no address, nothing is looked up in it.
    mixed = dialing._interleaved(addresses(*families)) if families else []
    assert [int(address[4][0]) for address in mixed] == order


@pytest.fixture
def listening() -> Iterator[dialing.Address]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield (FOUR, socket.SOCK_STREAM, 0, "", server.getsockname())


@pytest.fixture
def refusing() -> dialing.Address:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    return (FOUR, socket.SOCK_STREAM, 0, "", address)


def dialer(*addresses: dialing.Address) -> dialing._Dialer:
    return dialing._Dialer(list(addresses), None, None)


def test_an_address_that_refuses_leaves_it_to_the_next(
    refusing: dialing.Address, listening: dialing.Address
) -> None:
    dials = dialer(refusing, listening)
    try:
        with dials.dial(10.0) as sock:
            assert sock.getpeername() == listening[4]
    finally:
        dials.close()


def test_where_all_refuse_the_last_refusal_is_raised(refusing: dialing.Address) -> None:
    dials = dialer(refusing, refusing)
    try:
        with pytest.raises(ConnectionRefusedError):
            dials.dial(10.0)
    finally:
        dials.close()


def test_an_interrupt_before_the_dialing_ends_it_at_once(listening: dialing.Address) -> None:
    dials = dialer()
    dials._trying.add(socket.socket())  # an attempt that never ends
    dials.interrupt()
    try:
        with pytest.raises(WokenError):
            dials.dial(10.0)
    finally:
        dials.close()


def test_no_time_left_is_a_timeout_and_asks_nobody(listening: dialing.Address) -> None:
    dials = dialer(listening)
    try:
        with pytest.raises(TimeoutError, match="timed out"):
            dials.dial(0.0)
        assert len(dials._waiting) == 1
    finally:
        dials.close()


def test_an_address_is_no_name_and_needs_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "start_daemon", lambda *_: pytest.fail("a resolver was started"))
    call = InterruptibleRequest(CancelToken(), "127.0.0.1")
    (found,) = dialing._look_up("127.0.0.1", 80, 1.0, call)
    assert found[4] == ("127.0.0.1", 80)
    assert call.phase == "starting"


def test_a_name_with_a_label_that_is_too_long_is_a_failed_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> list[object]:
        raise UnicodeError("label empty or too long")  # from Python itself, which asks nobody then

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    call = InterruptibleRequest(CancelToken(), "hub")
    with pytest.raises(socket.gaierror, match="label"):
        dialing._look_up("a" * 70, 80, 10.0, call)


def test_a_look_up_is_done_here_where_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "start_daemon", lambda *_: None)
    call = InterruptibleRequest(CancelToken(), "localhost")
    assert dialing._look_up("localhost", 80, 10.0, call)
