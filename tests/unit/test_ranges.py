"""Byte ranges, against a plain set of offsets."""

from __future__ import annotations

import itertools
import random

import pytest

from hf_haul.ranges import ByteRange, ContentRange, RangeSet, parse_content_range, parse_length

SIZE = 6
SPANS = list(itertools.combinations_with_replacement(range(SIZE + 1), 2))
#: Every set of offsets below SIZE.
SUBSETS = [{i for i in range(SIZE) if bits >> i & 1} for bits in range(1 << SIZE)]


def range_set(offsets: set[int]) -> RangeSet:
    made = RangeSet()
    for offset in sorted(offsets, key=lambda i: (i * 7) % 5):  # in an order that makes runs melt
        made.add(offset, offset + 1)
    return made


def offsets_of(ranges: RangeSet) -> set[int]:
    return {i for run in ranges for i in range(run.start, run.stop)}


def assert_sound(ranges: RangeSet, model: set[int]) -> None:
    runs = list(ranges)
    assert offsets_of(ranges) == model
    assert ranges.total == len(model)
    assert ranges.runs == len(runs)
    assert all(len(run) > 0 for run in runs)
    assert all(a.stop < b.start for a, b in itertools.pairwise(runs)), "runs touch or overlap"


@pytest.mark.parametrize("model", SUBSETS, ids=str)
def test_adding_and_discarding_any_run_agrees_with_a_plain_set(model: set[int]) -> None:
    for start, stop in SPANS:
        added, discarded = range_set(model), range_set(model)
        added.add(start, stop)
        discarded.discard(start, stop)
        assert_sound(added, model | set(range(start, stop)))
        assert_sound(discarded, model - set(range(start, stop)))


@pytest.mark.parametrize("model", SUBSETS, ids=str)
def test_every_question_agrees_with_a_plain_set(model: set[int]) -> None:
    ranges = range_set(model)
    for start, stop in SPANS:
        asked = set(range(start, stop))
        missing = ranges.missing(start, stop)
        assert {i for run in missing for i in range(run.start, run.stop)} == asked - model
        assert all(a.stop < b.start for a, b in itertools.pairwise(missing))
        assert (not ranges.missing(start, stop)) == (asked <= model)
    for start in range(SIZE + 1):
        assert ranges.frontier(start) == next(i for i in range(start, SIZE + 1) if i not in model)


def test_long_random_histories_agree_with_a_plain_set() -> None:
    pick = random.Random(0)
    for _ in range(300):
        ranges, model = RangeSet(), set()
        for _ in range(30):
            start, stop = sorted(pick.choices(range(61), k=2))
            if pick.random() < 0.7:
                ranges.add(start, stop)
                model |= set(range(start, stop))
            else:
                ranges.discard(start, stop)
                model -= set(range(start, stop))
        assert_sound(ranges, model)


def test_a_set_can_be_made_from_runs_in_any_order() -> None:
    ranges = RangeSet([ByteRange(8, 9), ByteRange(0, 3), ByteRange(2, 5)])
    assert list(ranges) == [ByteRange(0, 5), ByteRange(8, 9)]
    assert repr(ranges) == "RangeSet(0-5, 8-9)"
    assert ranges == RangeSet([ByteRange(0, 5), ByteRange(8, 9)])
    assert ranges != RangeSet([ByteRange(0, 5)])
    assert ranges != "RangeSet(0-5, 8-9)"


def test_a_set_cannot_be_hashed_because_it_changes() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(RangeSet())


@pytest.mark.parametrize(
    ("start", "stop"), [pytest.param(-1, 3, id="negative"), pytest.param(4, 3, id="backwards")]
)
def test_a_range_that_is_none_is_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=f"start={start}, stop={stop}"):
        ByteRange(start, stop)


@pytest.mark.parametrize(
    ("span", "header"),
    [
        pytest.param(ByteRange(0, 1), "bytes=0-0", id="first byte"),
        pytest.param(ByteRange(0, 100), "bytes=0-99", id="head"),
        pytest.param(ByteRange(2**33, 2**33 + 2), f"bytes={2**33}-{2**33 + 1}", id="above 8 GiB"),
    ],
)
def test_a_header_names_the_last_byte_and_not_the_stop(span: ByteRange, header: str) -> None:
    assert span.header == header
    assert len(span) == span.stop - span.start


def test_ranges_sort_by_start_and_then_by_stop() -> None:
    assert sorted([ByteRange(2, 3), ByteRange(0, 9), ByteRange(0, 4)]) == [
        ByteRange(0, 4), ByteRange(0, 9), ByteRange(2, 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        pytest.param("bytes 0-0/1", ContentRange(ByteRange(0, 1), 1), id="one byte"),
        pytest.param("bytes 5-9/10", ContentRange(ByteRange(5, 10), 10), id="tail"),
        pytest.param("BYTES  5 - 9 / 100 ", ContentRange(ByteRange(5, 10), 100), id="sloppy"),
        pytest.param("bytes 5-9/*", ContentRange(ByteRange(5, 10), None), id="size unknown"),
        pytest.param("bytes */10", ContentRange(None, 10), id="unsatisfiable"),
        pytest.param("bytes */*", ContentRange(None, None), id="knows nothing"),
        pytest.param("bytes 9-5/10", None, id="backwards"),
        pytest.param("bytes 5-10/10", None, id="beyond the end"),
        pytest.param("bytes 0-0/0", None, id="of nothing"),
        pytest.param("items 0-1/2", None, id="other unit"),
        pytest.param("bytes 0-1", None, id="no size"),
        pytest.param("bytes -1/10", None, id="suffix"),
        pytest.param("bytes 0-1/2, bytes 5-6/7", None, id="two"),
        pytest.param("", None, id="empty"),
        pytest.param(None, None, id="missing"),
    ],
)
def test_a_content_range_is_read_or_refused(value: str | None, meaning: ContentRange | None) -> None:
    assert parse_content_range(value) == meaning


@pytest.mark.parametrize("span", [ByteRange(a, b) for a, b in SPANS if a < b], ids=str)
def test_every_range_survives_the_way_to_the_header_and_back(span: ByteRange) -> None:
    said = span.header.replace("=", " ") + f"/{SIZE}"
    assert parse_content_range(said) == ContentRange(span, SIZE)


@pytest.mark.parametrize(
    ("value", "length"),
    [
        ("0", 0), ("300000", 300_000), ("9" * 18, 10**18 - 1),
        (None, None), ("", None), ("-1", None), ("1.5", None), ("1e3", None), (" 5", None), ("5, 5", None),
        ("9" * 19, None), ("9" * 5000, None), ("\u0665", None), ("\xb2", None),
    ],
    ids=lambda each: repr(each)[:12],
)  # fmt: skip
def test_a_length_is_what_a_file_can_have(value: str | None, length: int | None) -> None:
    assert parse_length(value) == length


@pytest.mark.parametrize("where", ["bytes {}-9/10", "bytes 0-{}/10", "bytes 0-9/{}", "bytes */{}"])
def test_a_range_of_thousands_of_digits_is_none(where: str) -> None:
    assert parse_content_range(where.format("9" * 5000)) is None
