"""One plan for nodes that no scheduler started."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.support.clock import FakeClock

from hf_haul.cancellation import CancelToken
from hf_haul.cluster.loop_thread import LoopThread
from hf_haul.cluster.peer_list import read_peers
from hf_haul.cluster.peer_plans import PeerPlans, job_name
from hf_haul.cluster.plan import JobPlan
from hf_haul.cluster.polling import Health
from hf_haul.cluster.results import NodeError
from hf_haul.errors import StopRequestedError
from hf_haul.hub.metadata import ListedFile
from hf_haul.waits import Waits

JOB = "models/org/m@main"
PLAN = JobPlan(
    job_id=JOB,
    endpoint="http://hub",
    repo_type="model",
    repo_id="org/m",
    revision="main",
    commit="c" * 40,
    files={"a.bin": ListedFile(10, "b" * 40)},
    selection=("a.bin",),
    stripe_bytes=1 << 20,
    nodes=("a:1", "b:1", "c:1"),
)
MADE = replace(PLAN, commit="d" * 40)
URLS = ["http://a:1,http://b:1,http://c:1"]


class Asker:
    """Answers for other nodes, by their URLs; each question moves the clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.health: dict[str, list[Health]] = {}
        self.plans: dict[str, Any] = {}
        self.asked: list[str] = []
        self._clock = clock

    async def health_of(self, url: str) -> Health:
        self.asked.append(url)
        self._clock.advance(1.0)
        left = self.health.get(url, [Health()])
        return left.pop(0) if len(left) > 1 else left[0]

    async def plan_of(self, url: str) -> Any:
        return self.plans.get(url)


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    made = LoopThread("test-plans")
    made.start()
    yield made
    made.close()


@pytest.fixture
def asker() -> Asker:
    return Asker(FakeClock())


def find(me: str, asker: Asker, loop: LoopThread, *, cancelled: bool = False) -> JobPlan:
    token = CancelToken()
    if cancelled:
        token.set()
    plans = PeerPlans(
        read_peers(URLS, me, addresses_of=lambda _host: set()),
        "org/m",
        JOB,
        lambda _waits: MADE,
        look=0.0,
        clock=asker._clock,
    )
    return plans.find(asker, loop, Waits(), token)


def test_the_first_one_makes_the_plan(asker: Asker, loop: LoopThread) -> None:
    assert find("a:1", asker, loop) is MADE
    assert "http://a:1" not in asker.asked


def test_the_first_one_takes_the_plan_that_others_work_on(asker: Asker, loop: LoopThread) -> None:
    asker.health["http://c:1"] = [Health(answers=True, has_plan=True)]
    asker.plans["http://c:1"] = PLAN.to_json()
    assert find("a:1", asker, loop).commit == PLAN.commit


@pytest.mark.parametrize("me", ["b:1", "late:1"])
def test_the_others_wait_for_as_long_as_the_first_one_lists(asker: Asker, loop: LoopThread, me: str) -> None:
    busy = Health(answers=True)
    asker.health["http://a:1"] = [Health()] * 5 + [busy] * 100 + [Health(answers=True, has_plan=True)]
    asker.plans["http://a:1"] = PLAN.to_json()
    assert find(me, asker, loop).commit == PLAN.commit


def test_they_list_themselves_if_it_does_not_come_up(
    asker: Asker, loop: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert find("b:1", asker, loop) is MADE
    assert "a:1 did not come up" in caplog.text
    assert 25 <= asker.asked.count("http://a:1") * 2 <= 40


@pytest.mark.parametrize("me", ["b:1", "late:1"])
def test_they_list_themselves_if_it_waits_for_another_one(
    me: str, asker: Asker, loop: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    asker.health["http://a:1"] = [
        *[Health(answers=True, awaits_plan=True)] * 100,
        Health(refusal="asked for too long"),
    ]
    with caplog.at_level(logging.WARNING):
        assert find(me, asker, loop) is MADE
    assert "a:1 waits for another machine to list the repository, so --peers is not the same" in caplog.text


def test_a_first_one_that_waited_for_another_one_and_has_its_plan_gives_it(
    asker: Asker, loop: LoopThread
) -> None:
    waiting = Health(answers=True, awaits_plan=True)
    asker.health["http://a:1"] = [*[waiting] * 5, Health(answers=True, has_plan=True)]
    asker.plans["http://a:1"] = PLAN.to_json()
    assert find("b:1", asker, loop).commit == PLAN.commit


def test_a_first_one_that_works_on_something_else_is_an_error_that_says_so(
    asker: Asker, loop: LoopThread
) -> None:
    asker.health["http://a:1"] = [Health(answers=True, refusal="it works on models/org/x@main, and not on y")]
    with pytest.raises(NodeError, match="a:1 is no node of this job: it works on models/org/x@main"):
        find("b:1", asker, loop)


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(None, id="none"),
        pytest.param({"version": 0}, id="of another version"),
        pytest.param({**PLAN.to_json(), "job_id": "another"}, id="of another job"),
        pytest.param({**PLAN.to_json(), "repo_id": "org/other"}, id="of another repository"),
        pytest.param({**PLAN.to_json(), "repo_type": "dataset"}, id="of another type"),
        pytest.param({**PLAN.to_json(), "revision": "../../x"}, id="of another revision"),
        pytest.param([], id="something else"),
    ],
)
def test_a_plan_that_is_of_no_use_is_not_taken(asker: Asker, loop: LoopThread, plan: Any) -> None:
    asker.health["http://c:1"] = [Health(answers=True, has_plan=True)]
    asker.plans["http://c:1"] = plan
    assert find("b:1", asker, loop) is MADE


def test_a_plan_of_the_first_one_that_is_of_no_use_is_an_error_that_says_why(
    asker: Asker, loop: LoopThread
) -> None:
    asker.health["http://a:1"] = [Health(answers=True, has_plan=True)]
    asker.plans["http://a:1"] = {"version": 0}
    with pytest.raises(NodeError, match=r"its plan is of no use: .*the same version of hf-haul"):
        find("b:1", asker, loop)


def test_waiting_for_it_can_be_ended(asker: Asker, loop: LoopThread) -> None:
    asker.health["http://a:1"] = [Health(answers=True)]
    with pytest.raises(StopRequestedError):
        find("b:1", asker, loop, cancelled=True)


def test_a_job_is_called_by_what_was_asked_for() -> None:
    def name(**choice: Any) -> str:
        return job_name("model", "org/m", "main", choice)

    assert name() == name(include=None, exclude=[]) == JOB
    some = name(include=["*.json"])
    assert some.startswith(f"{JOB} (some files, ")
    assert some == name(include=["*.json"], exclude=None) != name(exclude=["*.json"])
