"""Answers about a file follow the request's range and conditions."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from hf_haul.localhub.objects import BytesContent
from hf_haul.localhub.replies import Refusal, file_reply, json_reply, parse_range

SIZE = 100


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("bytes=0-0", (0, 1), id="first byte"),
        pytest.param("bytes=10-19", (10, 20), id="inside"),
        pytest.param("bytes=90-", (90, 100), id="open end"),
        pytest.param("bytes=90-1000", (90, 100), id="end past the file"),
        pytest.param("bytes=-10", (90, 100), id="suffix"),
        pytest.param("bytes=-1000", (0, 100), id="suffix longer than the file"),
        pytest.param(f"bytes=90-{'9' * 5000}", (90, 100), id="end that is no number for Python"),
        pytest.param(f"bytes=-{'9' * 5000}", (0, 100), id="suffix that is no number for Python"),
        pytest.param(f"bytes={'0' * 5000}90-{'0' * 5000}94", (90, 95), id="zeros"),
        pytest.param("bytes=\u0661-\u0663", None, id="digits of another script"),
        pytest.param("bytes=99-99", (99, 100), id="last byte"),
        pytest.param("bytes=20-10", None, id="backwards is malformed"),
        pytest.param("bytes=0-9,20-29", None, id="several ranges"),
        pytest.param("bytes=-", None, id="nothing"),
        pytest.param("bytes=a-b", None, id="letters"),
        pytest.param("items=0-9", None, id="another unit"),
    ],
)
def test_a_range_is_read_as_rfc_9110_says(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, SIZE) == expected


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=100-200", "bytes=5000-", "bytes=-0", f"bytes={'9' * 5000}-"]
)
def test_a_range_past_the_end_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(ValueError, match="bytes"):
        parse_range(header, SIZE)
    reply = file_reply(BytesContent(b"x" * SIZE), CIMultiDict({"range": header}), etag='"e"', name="n")
    assert reply.status == 416
    assert reply.headers["Content-Range"] == "bytes */100"


def test_a_long_message_is_whole_in_the_body_and_cut_in_the_header() -> None:
    message = "x" * 100_000
    for as_json in (True, False):
        reply = Refusal(400, message).reply(as_json=as_json)
        assert message.encode() in reply.content.read(0, reply.length)
        assert reply.headers["X-Error-Message"] == "x" * 1000


def test_any_range_of_an_empty_file_cannot_be_satisfied() -> None:
    with pytest.raises(ValueError, match="bytes"):
        parse_range("bytes=0-", 0)
    assert parse_range(None, 0) is None


@pytest.mark.parametrize(
    ("headers", "status", "span"),
    [
        pytest.param({}, 200, (0, 100), id="plain"),
        pytest.param({"Range": "bytes=5-9"}, 206, (5, 10), id="range"),
        pytest.param({"Range": "bytes=5-9", "If-Range": '"e"'}, 206, (5, 10), id="same etag"),
        pytest.param({"Range": "bytes=5-9", "If-Range": '"other"'}, 200, (0, 100), id="other etag"),
        pytest.param({"If-None-Match": '"other"'}, 200, (0, 100), id="changed"),
        pytest.param({"If-None-Match": '"a", "e"'}, 304, (0, 0), id="unchanged"),
    ],
)
def test_conditions_are_obeyed(headers: dict[str, str], status: int, span: tuple[int, int]) -> None:
    reply = file_reply(BytesContent(b"x" * SIZE), CIMultiDict(headers), etag='"e"', name="n")
    assert (reply.status, (reply.start, reply.stop)) == (status, span)
    expected = f"bytes {span[0]}-{span[1] - 1}/100" if status == 206 else None
    assert reply.headers.get("Content-Range") == expected


def test_a_file_name_of_any_kind_fits_into_a_header() -> None:
    reply = file_reply(BytesContent(b""), CIMultiDict(), etag='"e"', name='ü"\n.txt')
    assert reply.headers["Content-Disposition"].isprintable()
    assert "filename*=UTF-8''%C3%BC%22%0A.txt" in reply.headers["Content-Disposition"]


def test_an_error_is_json_on_the_api_and_text_elsewhere() -> None:
    refusal = Refusal(404, "gone", "EntryNotFound", {"X-More": "1"})
    api, file = refusal.reply(as_json=True), refusal.reply(as_json=False)
    assert api.content.read(0, 100) == b'{"error":"gone"}'
    assert file.content.read(0, 100) == b"gone"
    for reply in (api, file):
        assert reply.headers["X-Error-Code"] == "EntryNotFound"
        assert reply.headers["X-Error-Message"] == "gone"
        assert reply.headers["X-More"] == "1"
        assert reply.headers["ETag"].startswith('W/"')  # even an error has a weak etag


def test_the_weak_etag_starts_with_the_length_in_hex() -> None:
    assert json_reply("x" * 30).headers["ETag"].startswith('W/"20-')
