"""Quotas count per client and window, and say what is left."""

from __future__ import annotations

import pytest

from hf_haul.localhub.replies import Refusal
from hf_haul.localhub.testing.limits import RateLimits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_quota_is_used_up_and_comes_back_with_the_next_window() -> None:
    clock = Clock()
    limits = RateLimits(clock)
    limits.set("api", 2)
    limits.window = 10.0
    seen = [limits.take("api", "1.2.3.4", has_token=False) for _ in range(3)]
    assert [(a.remaining, a.granted) for a in seen] == [(1, True), (0, True), (0, False)]
    clock.now = 9.9
    assert not limits.take("api", "1.2.3.4", has_token=False).granted
    clock.now = 10.0
    assert limits.take("api", "1.2.3.4", has_token=False).granted


def test_clients_and_buckets_are_counted_apart() -> None:
    limits = RateLimits(Clock())
    limits.set("api", 1, with_token=2)
    assert limits.take("api", "a", has_token=False).granted
    assert limits.take("api", "b", has_token=False).granted
    assert limits.take("resolvers", "a", has_token=False).granted
    assert not limits.take("api", "a", has_token=False).granted
    tokens = [limits.take("api", "t", has_token=True).granted for _ in range(3)]
    assert tokens == [True, True, False]


def test_the_headers_are_those_of_the_hub() -> None:
    clock = Clock()
    limits = RateLimits(clock)
    limits.set("resolvers", 3000)
    limits.take("resolvers", "a", has_token=False)
    clock.now = 8.5
    headers: dict[str, str] = {}
    limits.take("resolvers", "a", has_token=False).write_headers(headers)
    assert headers == {
        "RateLimit": '"resolvers";r=2998;t=292',
        "RateLimit-Policy": '"fixed window";"resolvers";q=3000;w=300',
    }


@pytest.mark.parametrize(("retry_after", "expected"), [(False, {}), (True, {"Retry-After": "300"})])
def test_a_refusal_is_a_429_and_may_say_when_to_come_back(
    retry_after: bool, expected: dict[str, str]
) -> None:
    limits = RateLimits(Clock())
    limits.retry_after = retry_after
    limits.set("api", 0)
    with pytest.raises(Refusal) as refused:
        limits.take("api", "a", has_token=False).require()
    assert refused.value.status == 429
    assert refused.value.headers == expected


def test_without_a_quota_there_is_room_for_everybody() -> None:
    allowance = RateLimits(Clock()).take("api", "a", has_token=False)
    allowance.require()
    assert allowance.remaining > 100_000


def test_clients_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_haul.localhub.testing.limits._MOST_CLIENTS", 3)
    clock = Clock()
    limits = RateLimits(clock)
    for client in "abc":
        limits.take("api", client, has_token=False)
    clock.now = 300
    limits.take("api", "d", has_token=False)
    assert [client for _bucket, client in limits._windows] == ["d"]


def test_clients_that_make_up_tokens_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_haul.localhub.testing.limits._MOST_CLIENTS", 10)
    limits = RateLimits(Clock())
    for number in range(100):
        limits.take("api", f"Bearer {number}", has_token=True)
        assert len(limits._windows) <= 10
