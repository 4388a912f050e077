"""When other nodes are asked, and what their answers mean."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from tests.support.clock import FakeClock
from tests.support.hearsay import Hearsay

from hf_haul.cluster import polling
from hf_haul.cluster.polling import Health, Poller, PollTimings
from hf_haul.errors import InvalidUrlError

FAST = PollTimings(wait=0.0, answer=0.1, spacing=0.0, least=0.0, retry=0.0)
LATE = asyncio.TimeoutError()
NOT_UNDERSTOOD = Health(answers=True, refusal="its answer cannot be understood")


class Frozen(asyncio.TimeoutError):
    """Time is up, and by so many seconds too late."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


def connect_error(number: int) -> Exception:
    key: Any = SimpleNamespace(ssl=True, host="b", port=1)
    return aiohttp.ClientConnectorError(key, OSError(number, "it says why"))


def deep_list() -> list[Any]:
    """Lists in each other, of which newer versions of Python read thousands, but which they cannot show."""
    found: list[Any] = []
    for _level in range(100_000):
        found = [found]
    return found


class Told(Hearsay):
    """Who is told, and refuses states of another plan."""

    def note_state(self, name: str, state: Mapping[str, Any]) -> None:
        if state.get("job") == "wrong":
            raise ValueError("a state of another plan")
        self.told.append(("state", name, state["version"]))


class Scripted(Poller):
    """Gets its answers from a list, and then none any more."""

    answers: list[Any]
    asked: list[str]
    exhausted: asyncio.Event
    clock: FakeClock

    async def _get(self, url: str, seconds: float, most: int) -> Any:
        del most
        self.asked.append(url)
        await asyncio.sleep(0)
        if not self.answers:
            self.exhausted.set()
            await asyncio.sleep(3600)
        answer = self.answers.pop(0)
        if isinstance(answer, asyncio.TimeoutError):
            self.clock.advance(seconds + (answer.seconds if isinstance(answer, Frozen) else 0.0))
        if isinstance(answer, BaseException):
            raise answer
        return answer


def play(
    *answers: Any, then: Callable[[Poller], object] = lambda _poller: None
) -> tuple[list[tuple[Any, ...]], list[str]]:
    """What is told when a node answers so, and what it was asked."""
    told = Told()

    async def run() -> list[str]:
        clock = FakeClock()
        poller = Scripted("a", "http://a:1", "job 1", "token", told, timings=FAST, clock=clock)
        poller.answers, poller.asked, poller.exhausted = list(answers), [], asyncio.Event()
        poller.clock = clock
        assert poller.add("b", "http://b:1/")
        then(poller)
        await asyncio.wait_for(poller.exhausted.wait(), 10)
        await poller.close()
        return poller.asked

    return told.told, asyncio.run(asyncio.wait_for(run(), 10))


def test_each_question_says_which_state_is_known_already() -> None:
    told, asked = play({"version": 7}, {"version": 8})
    assert told == [("state", "b", 7), ("state", "b", 8)]
    tails = [question.partition("state?")[2] for question in asked]
    assert tails[:3] == ["wait=0", "wait=0&after=7", "wait=0&after=8"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (connect_error(errno.ECONNREFUSED), ("gone", "b", "it says why")),
        (connect_error(errno.EHOSTUNREACH), ("silent", "b")),
        (LATE, ("silent", "b")),
        ({"version": 1, "job": "wrong"}, ("useless", "b", "a state of another plan")),
        (polling._RefusedError("another job"), ("useless", "b", "another job")),
        (["no state"], ("useless", "b")),
        ({"no": "version"}, ("useless", "b")),
        (KeyError("what nobody foresaw"), ("useless", "b")),
        (RecursionError(), ("useless", "b")),
    ],
)
def test_a_node_that_does_not_answer_rightly_is_gone_silent_or_of_no_use(
    error: Any, expected: tuple[str, ...]
) -> None:
    told, _asked = play(error)
    assert len(told) == 1
    assert told[0][: len(expected)] == expected


@pytest.mark.parametrize(
    ("answer", "health"),
    [
        ({"job": "job 1", "has_plan": True}, Health(answers=True, has_plan=True)),
        ({"job": "job 1", "awaits_plan": True}, Health(answers=True, awaits_plan=True)),
        ({"job": "job 2"}, Health(answers=True, refusal="it works on job 2, and not on job 1")),
        (polling._RefusedError("wrong token"), Health(answers=True, refusal="wrong token")),
        (connect_error(errno.ECONNREFUSED), Health()),
        (LATE, Health()),
        (KeyError("what nobody foresaw"), NOT_UNDERSTOOD),
        (RecursionError(), NOT_UNDERSTOOD),
        ({"job": deep_list()}, NOT_UNDERSTOOD),
    ],
)
def test_before_there_is_a_plan_whatever_a_node_answers_ends_nothing(answer: Any, health: Health) -> None:
    async def ask() -> tuple[Health, Any]:
        poller = Scripted("a", "http://a:1", "job 1", "token", Told())
        poller.answers, poller.asked, poller.clock = [answer, answer], [], FakeClock()
        return await poller.health_of("http://b:1"), await poller.plan_of("http://b:1")

    found, plan = asyncio.run(ask())
    assert found == health
    assert plan is (None if isinstance(answer, Exception) else answer)


def test_a_node_whose_answer_nobody_foresaw_is_asked_again() -> None:
    told, _asked = play(KeyError("odd"), {"version": 5})
    assert [each[0] for each in told] == ["useless", "state"]


def test_a_connection_that_breaks_says_nothing_unless_the_next_one_breaks_too() -> None:
    broken = aiohttp.ServerDisconnectedError()
    assert play(broken, {"version": 1})[0] == [("state", "b", 1)]
    assert play(broken, broken)[0] == [("silent", "b")]
    assert play(broken, connect_error(errno.ECONNREFUSED))[0] == [("gone", "b", "it says why")]


def test_who_stood_still_asks_again_before_it_takes_others_for_silent() -> None:
    stood_still = Frozen(polling._STOOD_STILL * 1.1)
    assert play(stood_still, {"version": 1})[0] == [("state", "b", 1)]
    assert play(stood_still, stood_still)[0] == [("silent", "b")]
    assert play(Frozen(polling._STOOD_STILL * 0.9), {"version": 1})[0] == [("silent", "b"), ("state", "b", 1)]


def test_a_node_that_was_gone_is_asked_for_whatever_it_says_now() -> None:
    told, asked = play({"version": 5}, connect_error(errno.ECONNREFUSED), {"version": 5})
    assert [each[0] for each in told] == ["state", "gone", "state"]
    assert "after" not in asked[2]


def test_a_node_is_asked_where_it_said_last_that_it_is() -> None:
    told, asked = play({"version": 1}, then=lambda poller: poller.add("b", "http://b:2"))
    assert asked[0].startswith("http://b:2/haul/v1/jobs/job%201/state?")
    assert told == [("state", "b", 1)]


def test_a_node_does_not_ask_itself_and_no_more_than_it_can_bear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "MOST_NODES", 2)

    def add(poller: Poller) -> None:
        assert not poller.add("a", "http://elsewhere:1")
        assert not poller.add("b", "http://b:1")
        assert poller.add("c", "http://c:1")
        assert not poller.add("d", "http://d:1")
        assert (poller.url_of("c"), poller.url_of("d")) == ("http://c:1", None)
        with pytest.raises(InvalidUrlError):
            poller.add("c", "file:///etc/passwd")

    play(then=add)


def test_the_more_nodes_there_are_the_less_often_each_is_asked() -> None:
    async def spacing(nodes: int) -> tuple[float, float]:
        poller = Scripted("a", "http://a:1", "job", "token", Told())
        poller.answers, poller.asked, poller.exhausted = [], [], asyncio.Event()
        for number in range(nodes):
            poller.add(f"b{number}", "http://b:1")
        found = poller._spacing(poller._peers["b0"]), poller._wait
        await poller.close()
        return found

    few, wait = asyncio.run(spacing(5))
    more, _ = asyncio.run(spacing(50))
    many, no_wait = asyncio.run(spacing(999))
    assert few == PollTimings.least < more < many
    assert nodes_per_second(999, many) == pytest.approx(nodes_per_second(50, more), rel=0.05)
    assert (wait, no_wait) == (PollTimings.wait, 0.0)


def test_many_nodes_are_asked_in_an_order_of_each_ones_own() -> None:
    async def pauses(nodes: int) -> tuple[list[float], float]:
        poller = Scripted("a", "http://a:1", "job", "token", Told(), jitter=iter((0.9, 0.1, 0.5)).__next__)
        poller.answers, poller.asked, poller.exhausted = [], [], asyncio.Event()
        for number in range(nodes):
            poller.add(f"b{number}", "http://b:1")
        peer = poller._peers["b0"]
        found = [poller._first_pause(peer) for _ in range(3)], poller._spacing(peer)
        await poller.close()
        return found

    first, spacing = asyncio.run(pauses(200))
    assert first == pytest.approx([0.9 * spacing, 0.1 * spacing, 0.5 * spacing])
    assert asyncio.run(pauses(5))[0] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("nodes", [5, 200])
@pytest.mark.parametrize("when", ["before they are known", "afterwards"])
def test_a_node_that_is_watched_is_asked_once_a_second_however_many_there_are(nodes: int, when: str) -> None:
    seconds, asked = 60, Counter[str]()

    class Patient(Scripted):
        async def _get(self, url: str, seconds: float, most: int) -> Any:
            asked[url.partition("//")[2].partition(":")[0]] += 1
            return {"version": 1}

    async def run() -> None:
        poller = Patient("a", "http://a:1", "job", "token", Told(), timings=PollTimings(least=0.5))
        if when == "afterwards":
            poller.add("b3", "http://b3:1")
        poller.watch({"b3", "nobody"})
        for number in range(nodes):
            poller.add(f"b{number}", f"http://b{number}:1")
        await asyncio.sleep(seconds)
        await poller.close()

    with UnrealTime() as loop:
        loop.run_until_complete(run())
    usual = max(0.5, PollTimings.spacing * (nodes + 1))
    assert asked["b0"] == pytest.approx(seconds / usual, abs=1)
    assert asked["b3"] == pytest.approx(seconds / min(usual, 1.0), abs=1)
    assert "nobody" not in asked


def test_a_node_that_is_watched_is_asked_while_all_others_keep_silent() -> None:
    asked = Counter[str]()

    class Waiting(Scripted):
        async def _get(self, url: str, seconds: float, most: int) -> Any:
            asked[url.partition("//")[2].partition(":")[0]] += 1
            if "//watched" not in url:
                await asyncio.sleep(3600)
            return {"version": 1}

    async def run() -> None:
        poller = Waiting("a", "http://a:1", "job", "token", Told())
        poller.watch({"watched"})
        for name in (*(f"b{number}" for number in range(100)), "watched"):
            poller.add(name, f"http://{name}:1")
        await asyncio.sleep(60)
        await poller.close()

    with UnrealTime() as loop:
        loop.run_until_complete(run())
    assert asked.pop("watched") >= 58
    assert len(asked) == polling._ASKED_AT_ONCE


class UnrealTime(asyncio.SelectorEventLoop):
    """Goes on to whatever is next at once, where it would wait for it. Nothing may come over a socket."""

    _ready: Any
    _scheduled: Any

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__()

    def __enter__(self) -> UnrealTime:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if self._scheduled and not self._ready:
            self._now = max(self._now, self._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]  # of the loop's own


def nodes_per_second(nodes: int, spacing: float) -> float:
    return nodes / spacing
