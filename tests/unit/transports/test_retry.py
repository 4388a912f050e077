"""When to try again, after how long, and when to give up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.clock import FakeCancelToken, FakeClock

from hf_haul.config import Settings
from hf_haul.errors import (
    CertificateError,
    ConnectionFailedError,
    DownloadCancelledError,
    HttpStatusError,
    LinkExpiredError,
    RetriesExhaustedError,
    ServerBusyError,
    StalledError,
    StopRequestedError,
    TransferError,
)
from hf_haul.transports.retry import ChangeRetries, Trickle, is_retryable, retrying


class Part:
    """A part whose attempts follow a script: bytes received, then an error or the end."""

    def __init__(self, script: list[tuple[int, BaseException | None]], seconds_each: float = 0.0) -> None:
        self.script = script
        self.seconds_each = seconds_each
        self.received = 0
        self.attempts = 0

    def run(self, clock: FakeClock) -> str:
        nbytes, error = self.script[min(self.attempts, len(self.script) - 1)]
        self.attempts += 1
        self.received += nbytes
        clock.advance(self.seconds_each)
        if error is not None:
            raise error
        return "done"


class Rig:
    def __init__(
        self, jitter: float = 1.0, server_wait: Callable[[], float] = lambda: 0.0, **settings: Any
    ) -> None:
        self.clock = FakeClock()
        self.cancel_token = FakeCancelToken(self.clock)
        self.retries: list[tuple[BaseException, float]] = []
        self.settings = Settings(**settings)
        self.jitter = jitter
        self.server_wait = server_wait

    def fetch(self, part: Part) -> str:
        caller = retrying(
            cancel_token=self.cancel_token,
            progress=lambda: part.received,
            settings=self.settings,
            on_retry=lambda error, seconds: self.retries.append((error, seconds)),
            clock=self.clock,
            server_wait=self.server_wait,
            jitter=lambda: self.jitter,
            subject="a.bin",
            source="https://hub",
        )
        result: str = caller(part.run, self.clock)
        return result


def always(error: BaseException, nbytes: int = 0) -> list[tuple[int, BaseException | None]]:
    return [(nbytes, error)]


LOST = ConnectionFailedError("hub: reset")


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        pytest.param(
            ConnectionFailedError("a.bin: cdn: reset"),
            "network",
            "a.bin: cdn: reset; retry {n} of 8 in {s}",
            id="reset",
        ),
        pytest.param(
            StalledError("cdn: no byte for 30 s"),
            "stall",
            "a.bin: cdn: no byte for 30 s; retry {n} of 8 in {s}",
            id="stall",
        ),
        pytest.param(
            ServerBusyError("https://hub/x answered 503"),
            "server_busy",
            "a.bin: hub is busy (https://hub/x answered 503); retry {n} of 8 in {s}",
            id="busy",
        ),
    ],
)
def test_each_wait_before_another_attempt_is_reported_with_its_number(
    error: TransferError, reason: str, message: str
) -> None:
    rig, seen = Rig(), []
    rig.cancel_token.during = lambda _: seen.extend(rig.cancel_token.waits.current())
    assert rig.fetch(Part([(0, error), (0, error), (5, None)])) == "done"
    assert [(wait["reason"], wait["host"], wait["path"]) for wait in seen] == [(reason, "hub", "a.bin")] * 2
    assert [(wait["attempt"], wait["attempts"]) for wait in seen] == [(1, 8), (2, 8)]
    assert [wait["message"] for wait in seen] == [message.format(n=1, s="1 s"), message.format(n=2, s="2 s")]
    assert rig.cancel_token.waits.current() == []


def test_a_server_that_counts_requests_is_named_by_its_own_name() -> None:
    rig, seen = Rig(), []
    rig.cancel_token.during = lambda _: seen.extend(rig.cancel_token.waits.current())
    error = ServerBusyError("https://cdn/x answered 429", retry_after=57.0)
    error.counts_requests, error.host = True, "cdn"
    rig.fetch(Part([(0, error), (5, None)]))
    (wait,) = seen
    assert (wait["reason"], wait["host"]) == ("rate_limit", "cdn")
    assert "cdn limits requests" in wait["message"]
    assert wait["message"].endswith("retry 1 of 8 in 57 s")


def test_a_first_success_costs_nothing() -> None:
    rig = Rig()
    assert rig.fetch(Part([(5, None)])) == "done"
    assert rig.retries == []
    assert rig.cancel_token.waited == []


@pytest.mark.parametrize(
    "error",
    [LOST, StalledError("x"), ServerBusyError("x"), LinkExpiredError("x")],
    ids=lambda e: type(e).__name__,
)
def test_a_failure_that_may_pass_is_tried_again(error: TransferError) -> None:
    rig = Rig()
    part = Part([(0, error), (5, None)])
    assert rig.fetch(part) == "done"
    assert part.attempts == 2
    assert [e for e, _ in rig.retries] == [error]


@pytest.mark.parametrize(
    "error",
    [
        CertificateError("x"), HttpStatusError("x", status=404), TransferError("x"), DownloadCancelledError("x"),
        OSError("disk"), ValueError("bug"), KeyboardInterrupt(),
    ],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_a_failure_that_will_not_pass_is_raised_as_it_is(error: BaseException) -> None:
    rig = Rig()
    part = Part(always(error))
    with pytest.raises(type(error)) as caught:
        rig.fetch(part)
    assert caught.value is error
    assert part.attempts == 1
    assert not is_retryable(error)


def test_waits_double_up_to_their_limit() -> None:
    rig = Rig(max_retries=8, give_up_after=1e9)
    with pytest.raises(RetriesExhaustedError):
        rig.fetch(Part(always(LOST)))
    assert rig.cancel_token.waited == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0]
    assert [seconds for _, seconds in rig.retries] == rig.cancel_token.waited


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_waits_are_anywhere_between_nothing_and_their_limit(jitter: float) -> None:
    rig = Rig(jitter=jitter, max_retries=3)
    with pytest.raises(RetriesExhaustedError):
        rig.fetch(Part(always(LOST)))
    assert rig.cancel_token.waited == [jitter * 1.0, jitter * 2.0, jitter * 4.0]


@pytest.mark.parametrize(("max_retries", "attempts"), [(0, 1), (1, 2), (2, 3), (8, 9)], ids=lambda n: str(n))
def test_the_budget_is_failures_in_a_row_without_a_byte(max_retries: int, attempts: int) -> None:
    rig = Rig(max_retries=max_retries, give_up_after=1e9)
    part = Part(always(LOST))
    with pytest.raises(RetriesExhaustedError):
        rig.fetch(part)
    assert part.attempts == attempts


def test_a_link_that_drops_after_every_byte_is_slow_and_not_broken() -> None:
    rig = Rig(max_retries=2, give_up_after=60.0)
    part = Part([*always(LOST, nbytes=1) * 500, (1, None)], seconds_each=30.0)
    assert rig.fetch(part) == "done"
    assert part.attempts == 501
    assert max(rig.cancel_token.waited) <= 0.5, "progress did not give the short wait back"


def test_the_budget_starts_anew_after_each_byte() -> None:
    rig = Rig(max_retries=2, give_up_after=1e9)
    nothing, byte = (0, LOST), (1, LOST)
    part = Part([nothing, nothing, byte, nothing, nothing, byte, nothing, nothing, nothing])
    with pytest.raises(RetriesExhaustedError):
        rig.fetch(part)
    assert part.attempts == 9


def test_seconds_without_a_byte_end_it_too() -> None:
    rig = Rig(jitter=0.0, max_retries=10**6, give_up_after=100.0)
    part = Part(always(LOST), seconds_each=30.0)
    with pytest.raises(RetriesExhaustedError):
        rig.fetch(part)
    assert part.attempts == 4


def too_many(seconds: float) -> ServerBusyError:
    error = ServerBusyError("429", retry_after=seconds)
    error.counts_requests = True
    return error


@pytest.mark.parametrize(
    ("told", "waits"),
    [
        pytest.param(30.0, [30.0] * 4, id="for two minutes"),
        pytest.param(50.0, [50.0, 50.0, 20.0], id="and no longer"),
        pytest.param(600.0, [120.0], id="whatever it asks for"),
    ],
)
def test_a_server_that_is_only_ever_busy_is_waited_for_as_it_wishes_for_two_minutes(
    told: float, waits: list[float]
) -> None:
    rig = Rig(jitter=0.0, max_retries=20, give_up_after=90.0)
    with pytest.raises(RetriesExhaustedError, match="503"):
        rig.fetch(Part(always(ServerBusyError("503", retry_after=told))))
    assert rig.cancel_token.waited == waits


def test_a_server_that_is_busy_for_long_is_asked_again_after_two_minutes() -> None:
    rig = Rig(jitter=0.0, max_retries=5, give_up_after=90.0)
    assert rig.fetch(Part([(0, ServerBusyError("503", retry_after=600.0)), (0, None)])) == "done"
    assert rig.cancel_token.waited == [120.0]


def test_a_server_that_counts_requests_is_obeyed_for_an_hour_in_all() -> None:
    rig = Rig(jitter=0.0, max_retries=100, give_up_after=90.0)
    with pytest.raises(RetriesExhaustedError, match="3600 s that the server asked for"):
        rig.fetch(Part(always(too_many(1000.0))))
    assert rig.cancel_token.waited == [1000.0, 1000.0, 1000.0, 600.0]


def test_waits_shared_with_other_threads_end_after_an_hour_too() -> None:
    spent = [0.0]
    rig = Rig(jitter=0.0, max_retries=100, give_up_after=90.0, server_wait=lambda: spent[0])

    class Patient(Part):
        def run(self, clock: FakeClock) -> str:
            clock.advance(500.0)  # a pace that all threads keep
            spent[0] += 500.0
            return super().run(clock)

    part = Patient(always(LOST))
    with pytest.raises(RetriesExhaustedError):
        rig.fetch(part)
    assert part.attempts == 8


def test_a_byte_gives_the_patience_back() -> None:
    rig = Rig(jitter=0.0, max_retries=5, give_up_after=90.0)
    busy = ServerBusyError("503", retry_after=100.0)
    assert rig.fetch(Part([(1, busy), (1, busy), (1, busy), (1, None)])) == "done"
    assert rig.cancel_token.waited == [100.0, 100.0, 100.0]


def test_a_server_is_obeyed_to_the_second_and_its_waits_do_not_count() -> None:
    rig = Rig(jitter=0.0, max_retries=5, give_up_after=100.0)
    busy = too_many(300.0)
    part = Part([(0, busy), (0, busy), (0, busy), (5, None)])
    assert rig.fetch(part) == "done"
    assert rig.cancel_token.waited == [300.0, 300.0, 300.0]


def test_a_server_that_asks_for_patience_for_ever_is_given_up() -> None:
    rig = Rig(max_retries=5, give_up_after=100.0)
    with pytest.raises(RetriesExhaustedError) as caught:
        rig.fetch(Part(always(too_many(300.0))))
    assert caught.value.retry_after == 300.0
    assert len(rig.cancel_token.waited) == 5


def test_patience_spent_elsewhere_does_not_count_either() -> None:
    spent = [0.0]
    rig = Rig(jitter=0.0, max_retries=10, give_up_after=100.0, server_wait=lambda: spent[0])

    class Patient(Part):
        def run(self, clock: FakeClock) -> str:
            clock.advance(500.0)  # a pace that all threads keep
            spent[0] += 500.0
            return super().run(clock)

    assert rig.fetch(Patient([(0, LOST), (0, LOST), (0, LOST), (5, None)])) == "done"


def test_giving_up_tells_what_was_tried_for_how_long_and_why_it_failed() -> None:
    rig = Rig(jitter=0.0, max_retries=2, give_up_after=1e9)
    last = ConnectionFailedError("hub.example: closed by the server")
    part = Part([(7, LOST), (0, LOST), (0, LOST), (0, last)], seconds_each=10.0)
    with pytest.raises(RetriesExhaustedError) as caught:
        rig.fetch(part)
    assert caught.value.__cause__ is last
    message = str(caught.value)
    assert "after 4 attempts" in message
    assert "last 3 of them and 30 s without a new byte" in message
    assert message.endswith("hub.example: closed by the server")
    assert not is_retryable(caught.value)


def test_a_cancel_token_cuts_the_wait_short() -> None:
    rig = Rig()
    rig.cancel_token.during = lambda _: rig.cancel_token.set()
    part = Part(always(LOST))
    with pytest.raises(StopRequestedError):
        rig.fetch(part)
    assert part.attempts == 1


def test_a_failure_of_a_cancel_tokened_part_is_a_cancel_token_and_no_retry() -> None:
    rig = Rig()

    class Halted(Part):
        def run(self, clock: FakeClock) -> str:
            rig.cancel_token.set()
            return super().run(clock)

    with pytest.raises(StopRequestedError):
        rig.fetch(Halted(always(LOST)))
    assert rig.retries == []
    assert rig.cancel_token.waited == []


def test_a_cancel_token_inside_an_attempt_goes_straight_through() -> None:
    rig = Rig()
    part = Part(always(StopRequestedError()))
    with pytest.raises(StopRequestedError):
        rig.fetch(part)
    assert part.attempts == 1


def test_giving_up_tells_how_long_the_server_made_us_wait() -> None:
    rig = Rig(jitter=0.0, max_retries=2, give_up_after=100.0)
    with pytest.raises(
        RetriesExhaustedError, match=r"0 s without a new byte \(and 60 s that the server asked for\)"
    ):
        rig.fetch(Part(always(too_many(20.0))))


@pytest.mark.parametrize(
    ("times", "seconds", "known", "again"),
    [
        pytest.param(2, 0.1, False, True, id="twice, whatever it is"),
        pytest.param(3, 0.1, False, False, id="a third time, of a file that may have changed"),
        pytest.param(3, 19.0, True, True, id="a third time, of a file that cannot change"),
        pytest.param(3, 20.0, True, False, id="after twenty seconds"),
        pytest.param(8, 1.0, True, True, id="as often as anything"),
        pytest.param(9, 1.0, True, False, id="no more often than anything"),
    ],
)
def test_what_seems_another_file_is_believed_after_a_while(
    times: int, seconds: float, known: bool, again: bool
) -> None:
    change_retries, settings = ChangeRetries(), Settings(max_retries=8)
    answers = [change_retries.allow(100.0 + seconds * (at > 0), settings, known=known) for at in range(times)]
    assert answers[-1] is again


@pytest.mark.parametrize(
    ("reads", "gives_up"),
    [
        pytest.param([(1.0, 99)] * 59, False, id="for less than a minute"),
        pytest.param([(1.0, 99)] * 60, True, id="for a minute"),
        pytest.param([(1.0, 100)] * 600, False, id="fast enough"),
        pytest.param([(9.9, 500)] * 7, True, id="seldom"),
        pytest.param([(0.01, 0)] * 6001, True, id="in short reads"),
        pytest.param([(1.0, 10**6), *[(1.0, 0)] * 59], False, id="not since a minute"),
        pytest.param([(1.0, 10**6), *[(1.0, 0)] * 60], True, id="since a minute"),
        pytest.param([*[(1.0, 50)] * 50, (1.0, 6000), *[(1.0, 50)] * 50], False, id="with a gulp in it"),
    ],
)
def test_a_source_that_drips_for_a_minute_is_given_up(reads: list[tuple[float, int]], gives_up: bool) -> None:
    trickle = Trickle()
    for read in reads:
        trickle.note(*read)
    if not gives_up:
        trickle.check("a.bin", "http://hub.test")
        return
    with pytest.raises(
        RetriesExhaustedError, match=r"a\.bin: gave up, because only \d+ bytes came from http://hub"
    ):
        trickle.check("a.bin", "http://hub.test")


def test_the_minute_takes_little_memory() -> None:
    trickle = Trickle()
    for _ in range(100_000):
        trickle.note(0.001, 10**5)
    assert len(trickle._kept) <= 62


def test_giving_up_for_time_names_the_setting() -> None:
    rig = Rig(jitter=0.0, max_retries=10**6, give_up_after=100.0)
    with pytest.raises(RetriesExhaustedError, match="HF_HAUL_GIVE_UP_AFTER"):
        rig.fetch(Part(always(LOST), seconds_each=30.0))
