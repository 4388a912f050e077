"""Who may have a connection."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.wire import BOUND, until

from hf_haul.cancellation import CancelToken
from hf_haul.transports import slots
from hf_haul.transports.request import InterruptibleRequest
from hf_haul.transports.slots import ConnectionSlots, NoSlotError


class Host:
    """Stands in for urllib3's pool of one host."""

    def __init__(self, authority: str) -> None:
        self.authority = authority


class Conn:
    """A connection that only knows whether it was closed."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def __repr__(self) -> str:
        return self.name


A, B, C = Host("a:443"), Host("b:443"), Host("c:443")


class Rig:
    def __init__(self, total: int = 2, per_host: int = 2) -> None:
        self.clock = FakeClock()
        self.slots = ConnectionSlots(total, per_host, self.clock)

    def take(self, host: Host, call: InterruptibleRequest | None = None) -> Any:
        return self.slots.acquire(host, call)

    def idle(self, host: Host, name: str = "") -> Conn:
        """A connection that was used and came back."""
        connection = Conn(name)
        assert self.take(host) is None, "there was an idle one"
        self.clock.advance(1)
        self.slots.release(host, connection)
        return connection

    def later(self, host: Host, call: InterruptibleRequest | None = None) -> Later:
        """Wait for a slot in a thread."""
        before = self.slots.counts()["waiting"]
        later = Later(lambda: self.take(host, call))
        until(lambda: self.slots.counts()["waiting"] == before + 1, "the thread to wait")
        return later

    def counts(self, *names: str) -> list[int]:
        return [self.slots.counts()[f"{name}_connections"] for name in names]


class Later:
    def __init__(self, work: Callable[[], Any]) -> None:
        self.got: Any = "nothing yet"

        def run() -> None:
            try:
                self.got = work()
            except NoSlotError as error:
                self.got = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def result(self) -> Any:
        self.thread.join(BOUND)
        assert not self.thread.is_alive()
        return self.got


def test_a_place_is_for_a_new_connection_where_none_is_idle() -> None:
    rig = Rig()
    assert rig.take(A) is None
    assert rig.counts("open", "busy", "idle") == [1, 1, 0]
    rig.slots.release(A, None)
    assert rig.counts("open", "busy", "idle") == [0, 0, 0]


def test_the_idle_connection_used_last_serves_first() -> None:
    rig = Rig(3, 3)
    for _ in range(2):
        rig.take(A)
    older, younger = Conn("older"), Conn("younger")
    rig.slots.release(A, older)
    rig.slots.release(A, younger)
    assert rig.take(A) is younger
    assert rig.take(A) is older
    assert rig.take(A) is None
    assert rig.slots.counts()["connections_reused"] == 2


def test_a_connection_that_came_back_closed_frees_its_place() -> None:
    rig = Rig()
    rig.take(A)
    closed = Conn()
    closed.close()
    rig.slots.release(A, closed)
    assert rig.counts("open", "idle") == [0, 0]


def test_an_idle_connection_serves_its_own_kind_only() -> None:
    rig = Rig(4, 4)
    rig.idle(A)
    assert rig.take(B) is None
    twin = Host(A.authority)  # the same host by another proxy, or verified another way
    assert rig.take(twin) is None
    assert rig.counts("idle") == [1]


def test_the_connection_unused_for_longest_makes_room() -> None:
    rig = Rig(2, 2)
    first, second = rig.idle(A), rig.idle(B)
    assert rig.take(A) is first
    rig.slots.release(A, first)
    assert rig.take(C) is None
    assert second.is_closed
    assert not first.is_closed
    assert rig.counts("open", "idle", "busy") == [2, 1, 1]
    assert rig.slots.counts()["open_by_host"] == {"a:443": 1, "c:443": 1}


def test_a_full_host_makes_room_of_its_own_connections_only() -> None:
    rig = Rig(5, 1)
    other = rig.idle(B)
    mine = rig.idle(A)
    assert rig.take(Host(A.authority)) is None
    assert mine.is_closed
    assert not other.is_closed


def test_a_new_connection_can_be_asked_for_though_one_is_idle() -> None:
    rig = Rig(1, 1)
    idle = rig.idle(A)
    call = InterruptibleRequest(CancelToken(), "a")
    call.new = True
    assert rig.take(A, call) is None
    assert idle.is_closed


def test_those_who_wait_are_served_in_their_order() -> None:
    rig = Rig(1, 1)
    rig.take(A)
    waiting = [rig.later(A) for _ in range(3)]
    connection = Conn()
    for number, later in enumerate(waiting):
        rig.slots.release(A, connection)
        assert later.result() is connection
        assert [w.got for w in waiting[number + 1 :]] == ["nothing yet"] * (2 - number)
    assert rig.counts("open", "busy") == [1, 1]


def test_who_waits_for_one_host_does_not_hold_up_who_waits_for_another() -> None:
    rig = Rig(2, 1)
    rig.take(A)
    rig.take(B)
    for_a, for_b = rig.later(A), rig.later(B)
    rig.slots.release(B, None)
    assert for_b.result() is None
    assert for_a.got == "nothing yet"
    rig.slots.release(A, None)
    assert for_a.result() is None


def test_a_place_that_comes_free_with_an_idle_connection_of_another_host_is_given_all_the_same() -> None:
    rig = Rig(1, 1)
    rig.take(A)
    for_b = rig.later(B)
    connection = Conn()
    rig.slots.release(A, connection)
    assert for_b.result() is None
    assert connection.is_closed
    assert rig.slots.counts()["open_by_host"] == {"b:443": 1}


@pytest.mark.parametrize("wake", ["set", "wake"])
def test_a_waiting_call_can_be_woken_and_leaves_the_line(wake: str) -> None:
    rig = Rig(1, 1)
    rig.take(A)
    cancel_token = CancelToken()
    woken, behind = rig.later(A, InterruptibleRequest(cancel_token, "a")), rig.later(A)
    getattr(cancel_token, wake)()
    assert isinstance(woken.result(), NoSlotError)
    assert rig.slots.counts()["waiting"] == 1
    rig.slots.release(A, None)
    assert behind.result() is None


def test_a_place_granted_in_the_moment_of_a_wake_is_passed_on() -> None:
    rig = Rig(1, 1)
    rig.take(A)
    call = InterruptibleRequest(CancelToken(), "a")
    woken = rig.later(A, call)
    with call._lock:  # the wake comes first, and is seen only after the grant
        call.woken = True
        rig.slots.release(A, None)
    assert isinstance(woken.result(), NoSlotError)
    assert rig.counts("open") == [0]


def test_idle_connections_are_closed_by_the_time_of_their_last_use() -> None:
    rig = Rig(5, 5)
    old, young = rig.idle(A), rig.idle(B)
    rig.clock.advance(9.5)
    assert rig.slots.close_idle(10.0) == 1
    assert old.is_closed
    assert not young.is_closed
    assert rig.counts("open") == [1]


def test_a_busy_connection_is_never_stale() -> None:
    rig = Rig()
    rig.take(A)
    rig.clock.advance(1e6)
    assert rig.slots.close_idle(0.0) == 0
    assert rig.counts("busy") == [1]


def test_closing_ends_every_wait_and_every_idle_connection_and_the_busy_ones_as_they_come_back() -> None:
    rig = Rig(2, 2)
    rig.take(A)
    idle = rig.idle(B)
    rig.take(B)
    waiting = [rig.later(A), rig.later(C)]
    rig.slots.release(B, idle)
    assert waiting[0].result() is None, "an idle connection made room"
    rig.slots.close()
    assert isinstance(waiting[1].result(), NoSlotError)
    busy = Conn()
    rig.slots.release(A, busy)
    rig.slots.release(A, None)
    assert busy.is_closed
    assert rig.counts("open") == [0]
    with pytest.raises(NoSlotError):
        rig.take(A)


def test_an_abandoned_pool_lets_go_of_everything_and_counts_nothing() -> None:
    rig = Rig(2, 2)
    idle = rig.idle(A)
    rig.take(B)
    rig.slots._lock.acquire()  # by a thread that the forked child does not have
    rig.slots.abandon()
    assert idle.is_closed
    inherited = Conn()
    rig.slots.release(B, inherited)
    assert inherited.is_closed
    with pytest.raises(NoSlotError):
        rig.take(A)


@pytest.mark.parametrize(("total", "per_host"), [(1, 1), (3, 1), (4, 2), (5, 5)])
def test_no_limit_is_ever_exceeded_and_nobody_starves(total: int, per_host: int) -> None:
    rig = Rig(total, per_host)
    hosts, lock, busy, seen, errors = [A, B, C], threading.Lock(), dict.fromkeys((A, B, C), 0), [0], []

    def work(seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(200):
            host = pick.choice(hosts)
            connection = rig.take(host) or Conn()
            with lock:
                busy[host] += 1
                seen[0] += 1
                if busy[host] > per_host or sum(busy.values()) > total:
                    errors.append(dict(busy))
                if connection.is_closed:
                    errors.append("a closed connection was handed out")
            with lock:
                busy[host] -= 1
            rig.slots.release(host, connection if pick.random() < 0.8 else None)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert seen == [1600]
    counts = rig.slots.counts()
    assert counts["busy_connections"] == counts["waiting"] == 0
    assert (
        counts["open_connections"]
        == counts["idle_connections"]
        == sum(counts["open_by_host"].values())
        <= total
    )


class Files:
    """A process that may open some files."""

    def __init__(self) -> None:
        self.most = 1000
        self.looks = 0
        self.held: Callable[[ConnectionSlots], int] | None = None

    def measure(self) -> None:
        self.looks += 1

    def downloads(self) -> int:
        return self.most

    def register(self, holder: ConnectionSlots, held: Callable[[ConnectionSlots], int]) -> None:
        self.held = held


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    files = Files()
    monkeypatch.setattr(slots, "descriptors", files)
    return files


def test_there_are_no_more_connections_than_files_can_be_opened(files: Files) -> None:
    rig = Rig(5, 5)
    files.most = 2
    rig.take(A)
    rig.take(A)
    later = rig.later(A)
    rig.slots.release(A, Conn())
    assert later.result() is not None
    assert files.looks == 3
    assert rig.counts("open") == [2]


def test_connections_that_became_too_many_are_not_kept_idle(files: Files) -> None:
    rig = Rig(5, 5)
    for _ in range(4):
        rig.take(A)
    files.most = 2
    back = [Conn(str(number)) for number in range(4)]
    for connection in back:
        rig.slots.release(A, connection)
    assert [connection.is_closed for connection in back] == [True, True, False, False]


def test_who_waits_goes_on_where_more_files_can_be_opened(files: Files) -> None:
    rig = Rig(5, 5)
    files.most = 1
    rig.take(A)
    waiting = [rig.later(A), rig.later(A)]
    files.most = 5
    rig.slots.release(A, None)
    assert [each.result() for each in waiting] == [None, None]


def test_idle_connections_and_attempts_are_held_by_nobody(files: Files) -> None:
    rig = Rig(5, 5)
    assert files.held is not None
    rig.idle(A)
    rig.take(B)
    rig.take(C)
    assert files.held(rig.slots) == 2
    with rig.slots.attempting():
        assert files.held(rig.slots) == 1
    assert files.held(rig.slots) == 2
