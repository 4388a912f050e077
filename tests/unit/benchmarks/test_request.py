"""What is measured of one request."""

from __future__ import annotations

import hashlib
import http.client
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from tests.benchmarks.bare_requests import LIBRARIES, fetch_files, fetch_ranges
from tests.benchmarks.bench_request import _apart, _calls_counted, _calls_in
from tests.benchmarks.harness import Result, Sample
from tests.support.wire import Connection, Wire, answer

from hf_haul.reading.batches import _GAP

BODY = b"content of a small file"
OID = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY, usedforsecurity=False).hexdigest()


def serve(connection: Connection) -> None:
    """Redirect what is below /from; give all of the rest, or four bytes of it."""
    while head := connection.request():
        if "/from" in head:
            connection.send(answer(b"elsewhere", "302 Found", Location="/to"))
        elif "bytes=2-5" in head:
            connection.send(answer(BODY[2:6], "206 Partial Content"))
        else:
            connection.send(answer(BODY))


class _Closing(http.client.HTTPConnection):
    """A connection that the test's end closes; a benchmark's is closed by its end."""

    made: ClassVar[list[_Closing]] = []

    def connect(self) -> None:
        super().connect()
        self.made.append(self)


@pytest.fixture(autouse=True)
def closing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(http.client, "HTTPConnection", _Closing)
    yield
    while _Closing.made:
        _Closing.made.pop().close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire(serve) as made:
        yield made


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_bare_loop_follows_redirects_and_checks_digests(library: str, wire: Wire, tmp_path: Path) -> None:
    get = LIBRARIES[library]()
    fetch_files(get, [("a/b.bin", wire.url("/from"), OID)], str(tmp_path))
    assert (tmp_path / "a/b.bin").read_bytes() == BODY
    with pytest.raises(ValueError, match="other bytes"):
        fetch_files(get, [("b.bin", wire.url("/to"), "0" * 40)], str(tmp_path))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_bare_loop_fetches_ranges(library: str, wire: Wire) -> None:
    get = LIBRARIES[library]()
    fetch_ranges(get, wire.url("/to"), [(2, 6)])
    with pytest.raises(ValueError, match="answered 200 with 23 bytes"):
        fetch_ranges(get, wire.url("/to"), [(3, 6)])


@pytest.mark.parametrize(("size", "count"), [(256 << 20, 2000), (25 << 20, 200)])
def test_the_ranges_are_too_far_apart_to_be_fetched_as_one(size: int, count: int) -> None:
    ranges = _apart(size)
    assert len(ranges) == count
    assert {stop - start for start, stop in ranges} == {4 << 10}
    assert ranges[-1][1] <= size
    assert min(b[0] - a[1] for a, b in itertools.pairwise(ranges)) > _GAP


def test_processor_time_is_told_for_each_thing() -> None:
    result = Result("row", "title", unit="ms", scale=2000)
    assert result.value(Sample(9.0, 1, user=1.0, system=0.5)) == pytest.approx(0.75)


SUMMARY = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
100.00    0.012000           2      5100       123 futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.012000           2      5100       123 total
"""


@pytest.mark.parametrize(
    ("summary", "calls"),
    [
        (SUMMARY, 5100),
        (SUMMARY.replace("       123 ", "           "), 5100),
        ("", 0),
        ("strace: no rights", None),
    ],
)
def test_the_calls_of_futex_are_read_from_a_summary(summary: str, calls: int | None) -> None:
    assert _calls_in(summary) == calls


@pytest.mark.parametrize(
    ("figures", "calls"),
    [
        ("# started on Mon Nov 30\n\n11236,,syscalls:sys_enter_futex,1755734,100.00,,\n", 11236),
        ("<not supported>,,syscalls:sys_enter_futex,0,100.00,,\n", None),
        ("", None),
    ],
)
def test_the_calls_of_futex_are_read_from_what_perf_counted(figures: str, calls: int | None) -> None:
    assert _calls_counted(figures) == calls
