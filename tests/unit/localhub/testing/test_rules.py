"""Rules hit the requests they are about, and count them."""

from __future__ import annotations

import pytest

from hf_haul.localhub.requestlog import RequestRecord
from hf_haul.localhub.testing.faults import (
    Cut,
    Delay,
    Stall,
)
from hf_haul.localhub.testing.rules import Faults


def request(
    kind: str = "cdn",
    path: str = "w.bin",
    method: str = "GET",
    range: str = "",  # noqa: A002  the header
) -> RequestRecord:
    return RequestRecord(method, kind, "/x", "org/x", path, {}, 1, 0.0, range=range)


@pytest.mark.parametrize(
    ("rule", "fitting", "other"),
    [
        pytest.param({"kind": "cdn"}, request("cdn"), request("resolve"), id="kind"),
        pytest.param({"kind": "resolve*"}, request("resolve-cache"), request("raw"), id="kinds"),
        pytest.param({"path": "*.bin"}, request(path="a/b.bin"), request(path="a.txt"), id="path"),
        pytest.param({"method": "HEAD"}, request(method="HEAD"), request(), id="method"),
        pytest.param({"range": ""}, request(), request(range="bytes=0-"), id="no range"),
        pytest.param(
            {"range": "bytes=0-*"}, request(range="bytes=0-9"), request(range="bytes=1-"), id="range"
        ),
        pytest.param(
            {"covers": 50}, request(range="bytes=0-50"), request(range="bytes=0-49"), id="covers, end"
        ),
        pytest.param(
            {"covers": 50}, request(range="bytes=50-"), request(range="bytes=51-"), id="covers, start"
        ),
        pytest.param({"covers": 50}, request(), request(range="bytes=-5"), id="covers, whole"),
        pytest.param({"when": lambda r: r.path == "x"}, request(path="x"), request(path="y"), id="when"),
    ],
)
def test_a_rule_hits_the_requests_it_is_about(
    rule: dict[str, object], fitting: RequestRecord, other: RequestRecord
) -> None:
    faults = Faults()
    made = faults.add(Delay(1), times=None, **rule)  # type: ignore[arg-type]  a table of keywords
    assert faults.effects(fitting).delay == 1
    assert faults.effects(other).delay == 0
    assert (made.seen, made.hits) == (1, 1)
    assert (fitting.faults, other.faults) == (["Delay"], [])


@pytest.mark.parametrize(
    ("nth", "times", "expected"),
    [
        pytest.param(1, 1, "X....", id="the first"),
        pytest.param(3, 1, "..X..", id="the third"),
        pytest.param(2, 3, ".XXX.", id="three from the second"),
        pytest.param(1, None, "XXXXX", id="all"),
        pytest.param(4, None, "...XX", id="all from the fourth"),
    ],
)
def test_a_rule_counts_the_requests_it_fits(nth: int, times: int | None, expected: str) -> None:
    faults = Faults()
    rule = faults.add(Delay(1), kind="cdn", nth=nth, times=times)
    seen = ""
    for _ in expected:
        faults.effects(request("tree"))  # does not fit, so is not counted
        seen += "X" if faults.effects(request()).delay else "."
    assert seen == expected
    assert rule.hits == expected.count("X")
    assert rule.wait(0)


def test_several_faults_may_hit_one_request() -> None:
    faults = Faults()
    faults.add(Delay(1))
    faults.add(Delay(2))
    gone = faults.add(Cut(5))
    faults.remove(gone)
    hit = request()
    effects = faults.effects(hit)
    assert effects.delay == 3
    assert effects.delivery.plain
    assert hit.faults == ["Delay", "Delay"]


def test_clearing_forgets_rules_and_ends_stalls() -> None:
    faults = Faults()
    faults.add(Stall(), times=None)
    released = faults.effects(request()).delivery.released
    assert released is not None
    assert not released.is_set()
    faults.clear()
    assert released.is_set()
    assert faults.effects(request()).delivery.plain


def test_a_release_does_not_end_stalls_to_come() -> None:
    faults = Faults()
    faults.add(Stall(), times=None)
    faults.release()
    released = faults.effects(request()).delivery.released
    assert released is not None
    assert not released.is_set()
