"""What goes to stderr, and that it never stands in the way."""

from __future__ import annotations

import io
import sys

import pytest

from hf_haul.cli import messages
from hf_haul.errors import DiskFullError


def test_an_error_says_what_happened_first_and_what_to_do_below(capsys: pytest.CaptureFixture[str]) -> None:
    messages.say_error(DiskFullError("Not enough space in /d: 3 bytes. Free some space."))
    assert capsys.readouterr() == (
        "",
        "hf-haul: error: Not enough space in /d: 3 bytes\n  Free some space\n",
    )


def test_a_traceback_is_shown_to_those_who_ask_for_it_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"https://user:{'hunter'}{2}@hub.test/a"  # not as a whole in its own line of code
    try:
        raise OSError(url)
    except OSError as error:
        messages.say_error(error)
        assert "Traceback" not in capsys.readouterr().err
        monkeypatch.setenv("HF_DEBUG", "1")
        messages.say_error(error)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "hunter2" not in said


class Closed(io.StringIO):
    def write(self, _text: str, /) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stderr", [None, Closed()])
def test_nobody_has_to_read_it(
    stderr: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    messages.say("hello")
    messages.warn("careful")
    assert capsys.readouterr().out == "", "stdout is for results"


def test_others_may_show_the_messages_of_a_block(capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[tuple[str, str]] = []
    with messages.shown_by(lambda level, text, error=None: shown.append((level, text))):
        messages.say("a")
        messages.warn("b")
        messages.say_error(OSError("c"))
    messages.warn("d")
    assert shown == [("info", "a"), ("warning", "b"), ("error", "c")]
    assert capsys.readouterr().err == "hf-haul: warning: d\n"
