"""What is noted of requests."""

from __future__ import annotations

import re

import pytest

from hf_haul.lab.traffic import Traffic, access_line
from hf_haul.localhub.requestlog import RequestRecord


def record(url: str = "/org/m/resolve/main/a.bin", **more: object) -> RequestRecord:
    headers = {"authorization": "Bearer t0ken"}
    made = RequestRecord("GET", "resolve", url, "org/m", "a.bin", headers, 1, 10.0, client="192.0.2.1")
    for name, value in more.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("made", "line"),
    [
        pytest.param(
            record(end=10.25, status=206, body_bytes=5, range="bytes=0-4", complete=True),
            '192.0.2.1 "GET /org/m/resolve/main/a.bin bytes=0-4" 206 5 0.250s ok here',
            id="a range",
        ),
        pytest.param(
            record("/a?Signature=secret", end=11.0, status=200, arrived=True),
            '192.0.2.1 "GET /a" 200 0 1.000s cut fetched',
            id="a signature",
        ),
        pytest.param(
            record('/a" 200 \n\x1b\u2028', end=10.0),
            '192.0.2.1 "GET /a"%20200%20%0A%1B%2028" 0 0 0.000s cut here',
            id="what is no text",
        ),
    ],
)
def test_a_line_of_the_access_log(made: RequestRecord, line: str) -> None:
    text = access_line(made, 1_700_000_000.0)
    assert text == f"2023-11-14T22:13:20Z {line}"
    assert not re.search("secret|t0ken", text)


def test_what_is_being_sent_has_a_rate() -> None:
    now = [10.0]
    traffic = Traffic(clock=lambda: now[0])
    sent = record(length=1000)
    traffic.begun(sent)
    assert [each["rate"] for each in traffic.active()] == [0.0]
    for _ in range(30):
        now[0] += 1.0
        sent.body_bytes += 100
        shown = traffic.active()
    assert shown[0]["rate"] == pytest.approx(100, rel=0.01)
    assert (shown[0]["sent"], shown[0]["length"], shown[0]["client"]) == (3000, 1000, "192.0.2.1")
    assert traffic.totals()["clients"] == {"192.0.2.1": 3000}  # also before it is over
    sent.end, sent.status = now[0], 200
    traffic.ended(sent)
    assert traffic.active() == []
    totals = traffic.totals()
    assert (totals["requests"], totals["bytes_here"], totals["clients"]) == (1, 3000, {"192.0.2.1": 3000})
    assert dict(traffic.durations()[0])[60.0] == 1


def test_bytes_are_counted_for_a_bounded_number_of_clients() -> None:
    traffic = Traffic()
    for number in range(1500):
        one = record(end=11.0, body_bytes=1, client=f"192.0.2.{number}")
        traffic.begun(one)
        traffic.ended(one)
    assert len(traffic.by_client) == 1000
    assert traffic.totals()["bytes_here"] == 1500
