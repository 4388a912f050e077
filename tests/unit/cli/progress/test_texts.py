"""Numbers and names as people read them."""

from __future__ import annotations

import pytest

from hf_haul.cli.progress.texts import cut, duration, percent, printable, rate, shorten_path, size, width


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (2.7e9, "2.7 GB"),
        (5e18, "5000.0 PB"),
    ],
)
def test_bytes_have_a_unit_of_a_thousand(nbytes: float, text: str) -> None:
    assert size(nbytes) == text
    assert rate(nbytes) == f"{text}/s"


def test_what_is_not_known_is_said_to_be_so() -> None:
    assert size(None) == "?"
    assert percent(10, None) == ""
    assert duration(float("inf")) == duration(-1) == "?"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.9, "0:07"), (754, "12:34"), (3723, "1:02:03"), (90_000, "25:00:00")]
)
def test_seconds_are_shown_as_clocks_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("done", "total", "text"), [(0, 10, "0 %"), (999, 1000, "99 %"), (1000, 1000, "100 %"), (0, 0, "100 %")]
)
def test_all_is_there_only_when_all_is_there(done: int, total: int, text: str) -> None:
    assert percent(done, total) == text


def test_nothing_in_a_name_can_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\r\nc\u202e") == "a\\x1b[2Jb\\r\\nc\\u202e"
    assert printable("plain \u00e9") == "plain \u00e9"


@pytest.mark.parametrize("columns", range(12))
def test_a_path_that_is_too_long_shows_its_end(columns: int) -> None:
    short = shorten_path("folder/model-00001.bin", columns)
    assert width(short) <= columns
    assert short.strip(".") in "folder/model-00001.bin"[-columns:]


def test_parts_of_a_model_can_be_told_apart_in_40_columns() -> None:
    names = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    assert [shorten_path(name, 18) for name in names] == ["...-00001-of-00002", "...-00002-of-00002"]


def test_wide_characters_take_two_columns() -> None:
    assert width("\u6a21\u578b") == 4
    assert cut("\u6a21\u578b.bin", 3) == "\u6a21"
    assert width("e\u0301") == 1
