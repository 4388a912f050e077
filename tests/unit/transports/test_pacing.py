"""When a server asks for a wait, every thread that talks to it waits."""

from __future__ import annotations

import itertools
from email.utils import formatdate

import pytest
from requests.structures import CaseInsensitiveDict
from tests.support.clock import FakeCancelToken, FakeClock

from hf_haul.errors import StopRequestedError
from hf_haul.retry_after import MAX_BUSY_WAIT, MAX_RATE_LIMIT_WAIT, parse_retry_after
from hf_haul.transports.pacing import (
    RateLimits,
    ServerWaits,
)

WALL = 1_800_000_000.0
HUB, CDN = "https://hub:443", "https://cdn:443"


def date(offset: float) -> str:
    return formatdate(WALL + offset, usegmt=True)


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        pytest.param(429, {"Retry-After": "7"}, 7.0, id="seconds"),
        pytest.param(429, {"retry-after": " 7 "}, 7.0, id="any case, any blanks"),
        pytest.param(429, {"Retry-After": "0"}, 0.0, id="now"),
        pytest.param(429, {"Retry-After": "1.5"}, 1.5, id="fraction"),
        pytest.param(503, {"Retry-After": "7"}, 7.0, id="503"),
        pytest.param(500, {"Retry-After": "7"}, 7.0, id="500"),
        pytest.param(408, {"Retry-After": "7"}, 7.0, id="408"),
        pytest.param(429, {"Retry-After": date(30)}, 30.0, id="date"),
        pytest.param(429, {"Retry-After": date(-30)}, 0.0, id="date in the past"),
        pytest.param(
            429, {"Retry-After": date(330), "Date": date(300)}, 30.0, id="date by the server's clock"
        ),
        pytest.param(429, {"Retry-After": "tomorrow"}, None, id="nonsense"),
        pytest.param(429, {"Retry-After": "-5"}, None, id="negative"),
        pytest.param(429, {"Retry-After": "1e9"}, None, id="no decimal"),
        pytest.param(429, {"Retry-After": "86400"}, MAX_RATE_LIMIT_WAIT, id="a day"),
        pytest.param(503, {"Retry-After": "86400"}, MAX_BUSY_WAIT, id="a day of a server that is busy"),
        pytest.param(429, {"Retry-After": "9" * 400}, MAX_RATE_LIMIT_WAIT, id="400 digits"),
        pytest.param(503, {"Retry-After": "9" * 5000}, MAX_BUSY_WAIT, id="5000 digits"),
        pytest.param(
            429, {"Retry-After": "9" * 5000 + "." + "9" * 5000}, MAX_RATE_LIMIT_WAIT, id="a long fraction"
        ),
        pytest.param(429, {"Retry-After": "\u0667"}, None, id="digits of another script"),
        pytest.param(
            429,
            {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"},
            MAX_RATE_LIMIT_WAIT,
            id="the last of all dates",
        ),
        pytest.param(
            429,
            {"Retry-After": "Tue, 19999950001 Nov 00011994 08:12:31 GMT"},
            None,
            id="a day past all dates",
        ),
        pytest.param(
            429, {"RateLimit": '"api";r=0;t=' + "9" * 5000}, MAX_RATE_LIMIT_WAIT, id="a long window"
        ),
        pytest.param(429, {"RateLimit": '"api";r=' + "0" * 5000 + ";t=2"}, 3.0, id="a long zero"),
        pytest.param(429, {"RateLimit": '"api";r=4;t=90, "resolvers";r=0;t=2'}, 3.0, id="the second window"),
        pytest.param(429, {"RateLimit": '"api";r=0;t=9, "resolvers";r=0;t=2'}, 10.0, id="two windows"),
        pytest.param(429, {"RateLimit": '"resolvers";r=0;t=57'}, 58.0, id="window"),
        pytest.param(429, {"RateLimit": '"api"; r = 0 ; t = 2'}, 3.0, id="window, spaced"),
        pytest.param(429, {"RateLimit": '"api";r=3;t=57'}, None, id="calls left"),
        pytest.param(429, {"RateLimit": "garbage"}, None, id="garbage"),
        pytest.param(429, {"RateLimit": '"api";r=0;t=9', "Retry-After": "2"}, 2.0, id="both"),
        pytest.param(429, {}, None, id="no word"),
        pytest.param(503, {"RateLimit": '"api";r=0;t=57'}, None, id="window in a 503"),
        pytest.param(200, {"RateLimit": '"api";r=0;t=57', "Retry-After": "9"}, None, id="200"),
        pytest.param(302, {"Retry-After": "9"}, None, id="redirect"),
        pytest.param(404, {"Retry-After": "9"}, None, id="404"),
    ],
)
def test_an_answer_asks_for_patience_or_does_not(
    status: int, headers: dict[str, str], seconds: float | None
) -> None:
    rate_limits = RateLimits(clock=FakeClock(), wall=lambda: WALL, jitter=lambda: 0.0)
    answer = CaseInsensitiveDict(headers)
    assert parse_retry_after(status, answer, wall=lambda: WALL) == seconds
    assert rate_limits.note(HUB, status, answer) == seconds
    assert rate_limits.waiting_for().get(HUB, 0.0) == (seconds or 0.0)


def test_everybody_waits_for_an_origin_that_asked_and_for_no_other() -> None:
    clock = FakeClock()
    rate_limits = RateLimits(clock=clock, jitter=lambda: 0.0)
    rate_limits.note(HUB, 429, {"Retry-After": "30"})
    assert rate_limits.wait(CDN, FakeCancelToken(clock)) == 0.0
    assert rate_limits.waiting_for() == {HUB: 30.0}
    cancel_token = FakeCancelToken(clock)
    assert rate_limits.wait(HUB, cancel_token) == 30.0
    assert rate_limits.waiting_for() == {}
    assert rate_limits.wait(HUB, cancel_token) == 0.0
    assert cancel_token.waited == [30.0]


def test_threads_come_back_one_after_the_other() -> None:
    back = []
    for share in (0.0, 0.25, 0.5, 0.99):
        clock = FakeClock(0.0)
        rate_limits = RateLimits(clock=clock, jitter=itertools.repeat(share).__next__)
        rate_limits.pause(HUB, 10.0)
        back.append(rate_limits.wait(HUB, FakeCancelToken(clock)))
    assert back == sorted(set(back)), "some came back together"
    assert back[0] == 10.0
    assert back[-1] <= 11.0


def test_the_spread_of_a_long_pause_stays_short() -> None:
    clock = FakeClock()
    rate_limits = RateLimits(clock=clock, jitter=lambda: 1.0)
    rate_limits.pause(HUB, 300.0)
    assert rate_limits.wait(HUB, FakeCancelToken(clock)) == 302.0


def test_the_longest_pause_asked_for_counts() -> None:
    rate_limits = RateLimits(clock=FakeClock(), jitter=lambda: 0.0)
    for seconds in (5.0, 30.0, 2.0):
        rate_limits.pause(HUB, seconds)
    assert rate_limits.waiting_for().get(HUB, 0.0) == 30.0


def test_a_pause_made_longer_meanwhile_is_waited_for_too() -> None:
    clock = FakeClock()
    rate_limits = RateLimits(clock=clock, jitter=lambda: 0.0)
    rate_limits.pause(HUB, 5.0)
    cancel_token = FakeCancelToken(clock)
    cancel_token.during = lambda _: rate_limits.pause(HUB, 20.0) if len(cancel_token.waited) == 1 else None
    assert rate_limits.wait(HUB, cancel_token) == 20.0
    assert cancel_token.waited == [5.0, 15.0]


def test_a_cancel_token_ends_the_wait() -> None:
    clock = FakeClock()
    rate_limits = RateLimits(clock=clock)
    rate_limits.pause(HUB, 300.0)
    cancel_token = FakeCancelToken(clock)
    cancel_token.during = lambda _: cancel_token.set()
    with pytest.raises(StopRequestedError):
        rate_limits.wait(HUB, cancel_token)
    assert rate_limits.waiting_for().get(HUB, 0.0) == 300.0


def test_a_pause_that_others_make_longer_for_ever_ends_after_an_hour() -> None:
    clock = FakeClock()
    rate_limits = RateLimits(clock=clock, jitter=lambda: 0.0)
    rate_limits.pause(HUB, 1000.0)
    cancel_token = FakeCancelToken(clock)
    cancel_token.during = lambda _: rate_limits.pause(HUB, 5000.0)
    assert rate_limits.wait(HUB, cancel_token) == MAX_RATE_LIMIT_WAIT


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        pytest.param(429, "rate_limit", "hub limits requests: the next one goes out in 30 s", id="429"),
        pytest.param(503, "server_busy", "hub is busy: the next one goes out in 30 s", id="503"),
    ],
)
def test_a_wait_for_a_server_is_reported_while_it_lasts(status: int, reason: str, words: str) -> None:
    clock = FakeClock()
    rate_limits = RateLimits(clock=clock, jitter=lambda: 0.0)
    rate_limits.note(HUB, status, {"Retry-After": "30"})
    seen = []
    cancel_token = FakeCancelToken(clock, lambda _: seen.append(cancel_token.waits.current()))
    rate_limits.wait(HUB, cancel_token)
    ((wait,),) = seen
    assert (wait["reason"], wait["host"], wait["message"]) == (reason, "hub", words)
    assert cancel_token.waits.current() == []


@pytest.mark.parametrize(
    ("asked", "counts_requests", "granted"),
    [
        pytest.param([60.0, 50.0, 50.0, 1.0], False, [60.0, 50.0, 10.0, None], id="busy"),
        pytest.param([3000.0, 601.0, 1.0], True, [3000.0, 600.0, None], id="counts requests"),
        pytest.param([1e300], False, [MAX_BUSY_WAIT], id="for ages"),
        pytest.param([120.0, 0.0], False, [120.0, 0.0], id="at once"),
    ],
)
def test_a_server_gets_its_time_and_no_more(
    asked: list[float], counts_requests: bool, granted: list[float | None]
) -> None:
    waits = ServerWaits()
    assert [waits.grant(each, counts_requests=counts_requests) for each in asked] == granted


def test_the_two_kinds_of_patience_are_separate() -> None:
    waits = ServerWaits()
    assert waits.grant(120.0, counts_requests=False) == 120.0
    assert waits.grant(300.0, counts_requests=True) == 300.0


def test_origins_that_may_be_asked_again_are_not_kept_for_ever() -> None:
    clock = FakeClock()
    rate_limits = RateLimits(clock=clock)
    rate_limits.pause("http://patient", 10_000)
    for number in range(5000):
        rate_limits.pause(f"http://host{number}", 1.0)  # nobody asks it again
        clock.advance(0.1)
    assert len(rate_limits._until) <= 200
    assert rate_limits._until.keys() == rate_limits._spread.keys()
    assert rate_limits.waiting_for().get("http://patient", 0.0) > 0
    assert rate_limits.waiting_for().get("http://host4999", 0.0) > 0
