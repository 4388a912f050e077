"""Faults change answers as they say."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
from multidict import CIMultiDict

from hf_haul.localhub.objects import BytesContent
from hf_haul.localhub.replies import Reply, file_reply
from hf_haul.localhub.sending import Delivery
from hf_haul.localhub.testing.faults import (
    ChangedEtag,
    Corrupt,
    Cut,
    Effects,
    Fault,
    GzipBody,
    Headers,
    Html,
    IgnoreRange,
    Redirects,
    Reset,
    Status,
    TooLong,
    Trickle,
    WrongRange,
    WrongTotal,
)


def answer(range_header: str | None = "bytes=10-19", size: int = 100) -> Reply:
    headers = CIMultiDict({} if range_header is None else {"Range": range_header})
    return file_reply(BytesContent(bytes(range(size))), headers, etag='"e"', name="n")


def effects_of(*faults: Fault) -> Effects:
    effects = Effects()
    for fault in faults:
        fault.apply(effects)
    return effects


def changed(fault: Fault, reply: Reply) -> Reply:
    for change in effects_of(fault).changes:
        change(reply)
    return reply


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param(Cut(5), Delivery(cut_after=5), id="cut"),
        pytest.param(Reset(5), Delivery(reset_after=5), id="reset"),
        pytest.param(Trickle(10), Delivery(trickle=10), id="trickle"),
        pytest.param(TooLong(3), Delivery(extra=b"\xee" * 3), id="too long"),
        pytest.param(Reset(), Delivery(), id="reset before the headers"),
    ],
)
def test_faults_of_the_body_are_left_to_the_sender(fault: Fault, expected: Delivery) -> None:
    effects = effects_of(fault)
    assert effects.delivery == expected
    assert effects.reset is (fault == Reset())


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        pytest.param(
            Status(503, b"no", {"X": "y"}, retry_after=2),
            lambda r: (r.status, r.headers["X"], r.headers["Retry-After"]) == (503, "y", "2"),
            id="status",
        ),
        pytest.param(
            Html(), lambda r: r.status == 200 and r.headers["Content-Type"].startswith("text/html"), id="html"
        ),
    ],
)
def test_an_answer_can_be_another_one(fault: Fault, check: Callable[[Reply], bool]) -> None:
    instead = effects_of(fault).instead
    assert instead is not None
    assert check(instead())


def test_redirects_add_up() -> None:
    assert effects_of(Redirects(301, 308), Redirects(302)).redirects == (301, 308, 302)


@pytest.mark.parametrize(
    ("fault", "content_range", "span"),
    [
        pytest.param(WrongRange(5), "bytes 15-24/100", (15, 25), id="shifted"),
        pytest.param(WrongRange(-50), "bytes 0-9/100", (0, 10), id="not before the start"),
        pytest.param(WrongRange(500), "bytes 90-99/100", (90, 100), id="not past the end"),
        pytest.param(WrongRange(5, admits=False), "bytes 10-19/100", (15, 25), id="in secret"),
        pytest.param(WrongTotal(7), "bytes 10-19/7", (10, 20), id="another total"),
        pytest.param(Headers({"Content-Range": None}), None, (10, 20), id="no header"),
        pytest.param(IgnoreRange(), None, (0, 100), id="everything"),
    ],
)
def test_a_range_can_be_wrong(fault: Fault, content_range: str | None, span: tuple[int, int]) -> None:
    reply = changed(fault, answer())
    assert reply.headers.get("Content-Range") == content_range
    assert (reply.start, reply.stop) == span
    assert reply.status == (200 if fault == IgnoreRange() else 206)


@pytest.mark.parametrize("fault", [WrongRange(5), IgnoreRange(), WrongTotal(7)], ids=repr)
def test_faults_of_ranges_leave_whole_files_alone(fault: Fault) -> None:
    before, after = answer(None), changed(fault, answer(None))
    assert (after.status, after.start, after.stop, after.headers) == (200, 0, 100, before.headers)


def test_the_etag_can_change() -> None:
    reply = answer()
    reply.headers["X-Linked-Etag"] = '"e"'
    changed(ChangedEtag('"f"'), reply)
    assert (reply.headers["ETag"], reply.headers["X-Linked-Etag"]) == ('"f"', '"f"')


def test_a_part_can_be_gzipped() -> None:
    reply = changed(GzipBody(), answer())
    assert reply.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(reply.content.read(reply.start, reply.length)) == bytes(range(10, 20))


def test_a_corrupt_byte_is_counted_from_the_start_of_the_file() -> None:
    assert changed(Corrupt(12), answer()).patches == {12: 0xFF}
