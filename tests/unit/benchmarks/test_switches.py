"""Mechanisms that can be taken out: that each is really out, and that one which is no longer there says so."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks.switches import SWITCHES, switch_off

from hf_haul.storage.ownership import current_owner, read_owner_xattr, try_lock, write_owner_xattr
from hf_haul.transports.concurrency import ConcurrencyController
from hf_haul.transports.dialing import WakeableConnection, WakeableTLSConnection
from hf_haul.transports.load import LoadSample

both = pytest.mark.parametrize("off", [False, True], ids=["with it", "without it"])
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="it does nothing elsewhere")


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Takes a mechanism out until the test's end."""

    def act(name: str, off: bool = True) -> None:
        if off:
            switch_off(name, monkeypatch.setattr)

    return act


def test_all_can_be_taken_out_together(switch: Any) -> None:
    for name in SWITCHES:
        switch(name)


def _limits(cpu_busy: float, per_connection: float = 200e6) -> set[int]:
    """The limits that a controller tries on a link that one connection fills."""
    controller, total = ConcurrencyController(8, 32), 0.0
    controller.begin(0.0, 0.0)
    controller.first_byte(0.0)
    limits = set()
    for number in range(1, 50):
        total += 0.1 * per_connection * 8
        controller.sample(number * 0.1, LoadSample(total, total, controller.limit, cpu_busy=cpu_busy))
        limits.add(controller.limit)
    return limits


@both
def test_without_thrift_a_busy_processor_is_no_reason_for_fewer_connections(off: bool, switch: Any) -> None:
    switch("thrift", off)
    assert (min(_limits(cpu_busy=0.7)) < 8) is not off


@both
def test_without_locks_two_may_hold_the_same(off: bool, switch: Any, tmp_path: Path) -> None:
    path = tmp_path / "locked"
    with path.open("w") as first, path.open("w") as second:
        switch("locks", off)
        assert try_lock(first.fileno())
        assert try_lock(second.fileno()) is off


@both
def test_without_adaptation_the_number_of_connections_stays(off: bool, switch: Any) -> None:
    switch("adaptation", off)
    assert (_limits(cpu_busy=0.0) == {8}) is off
    assert ConcurrencyController(8, 32).settled is off


@both
@pytest.mark.parametrize("workload", [WakeableConnection, WakeableTLSConnection])
def test_without_eyeballs_urllib3_connects(
    off: bool, workload: Any, switch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch("eyeballs", off)
    dialed = []

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        dialed.append(address)
        raise TimeoutError

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [])
    with pytest.raises(Exception, match="example"):
        workload("example.test", 80)._new_conn()
    assert dialed == ([("example.test", 80)] if off else [])


@both
@linux_only
def test_without_attributes_nobody_signs(off: bool, switch: Any, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        write_owner_xattr(file.fileno())
        if read_owner_xattr(file.fileno()) is None:
            pytest.skip("this file system keeps no extended attributes")
        switch("attributes", off)
        assert read_owner_xattr(file.fileno()) == (None if off else current_owner())
    with (tmp_path / "another").open("wb") as file:
        write_owner_xattr(file.fileno())
        assert bool(os.listxattr(file.fileno())) is not off


def test_a_mechanism_that_is_unknown_or_was_changed_says_so(
    switch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LookupError, match="no mechanism 'speed'"):
        switch("speed")
    monkeypatch.delattr(ConcurrencyController, "_can_be_thrifty")
    with pytest.raises(LookupError, match="_can_be_thrifty"):
        switch("thrift")
