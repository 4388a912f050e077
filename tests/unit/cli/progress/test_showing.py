"""Which way progress is shown, and that showing it holds up nobody."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import time
import warnings
from typing import Any

import pytest
from tests.support.event_samples import ended, plan, progress

from hf_haul.cli import messages
from hf_haul.cli.progress import chosen_mode, showing
from hf_haul.cli.progress.display import Display, Output, PlainView

BOUND = 20.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("asked", "quiet", "terminal", "environ", "mode"),
    [
        pytest.param(None, False, True, {"TERM": "xterm"}, "tty", id="a terminal"),
        pytest.param(None, False, False, {"TERM": "xterm"}, "plain", id="no terminal"),
        pytest.param(None, False, True, {"TERM": "dumb"}, "plain", id="a dumb terminal"),
        pytest.param(None, False, True, {}, "plain", id="a terminal of unknown kind"),
        pytest.param("auto", True, True, {"TERM": "xterm"}, "none", id="quiet"),
        pytest.param("json", True, True, {}, "json", id="quiet, for programs"),
        pytest.param(None, False, True, {"TERM": "xterm", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}, "none", id="disabled"),
        pytest.param("plain", False, True, {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}, "plain", id="asked for all the same"),
        pytest.param(None, False, True, {"HF_HAUL_PROGRESS": "json"}, "json", id="the variable"),
        pytest.param("none", False, True, {"HF_HAUL_PROGRESS": "json"}, "none", id="the option before the variable"),
    ],
)  # fmt: skip
def test_the_way_is_what_was_asked_for_or_fits(
    asked: str | None, quiet: bool, terminal: bool, environ: dict[str, str], mode: str
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    assert chosen_mode(asked, quiet=quiet, stream=stream, environ=environ) == mode


def test_without_a_stream_nothing_is_shown_and_a_wrong_variable_is_refused() -> None:
    assert chosen_mode("tty", quiet=False, stream=None, environ={}) == "none"
    with pytest.raises(ValueError, match="HF_HAUL_PROGRESS is 'bars'; it may be one of auto, tty"):
        chosen_mode(None, quiet=False, stream=io.StringIO(), environ={"HF_HAUL_PROGRESS": "bars"})


def test_every_line_is_an_object_log_lines_and_messages_too() -> None:
    stream = io.StringIO()
    with showing("json", stream) as shown:
        assert shown.on_event is not None
        shown.on_event(plan())
        logging.getLogger("hf_haul.engine").warning("a %s of\nthe log", "line")
        messages.say_error(OSError("no"))
        shown.on_event(ended())
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [each["ev"] for each in found] == ["plan", "log", "error", "done"]
    assert (found[1]["level"], found[1]["logger"]) == ("warning", "hf_haul.engine")
    assert found[1]["message"] == "a line of\nthe log"


def test_lines_of_the_log_come_between_those_of_progress_and_go_where_they_went_afterwards() -> None:
    stream = io.StringIO()
    root, before = logging.getLogger(), logging.StreamHandler(stream)
    root.addHandler(before)
    try:
        with showing("plain", stream) as shown:
            assert shown.on_event is not None
            shown.on_event(plan())
            logging.getLogger("hf_haul").warning("inside")
            messages.warn("said")
            assert before not in root.handlers
        logging.getLogger("hf_haul").warning("outside")
    finally:
        root.removeHandler(before)
    assert [line.partition(": ")[2][:12] for line in stream.getvalue().splitlines()[1:3]] == [
        "warning: ins",
        "warning: sai",
    ]
    assert stream.getvalue().endswith("outside\n")


def test_lines_of_huggingface_hubs_log_come_once_and_within_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    theirs = logging.getLogger("huggingface_hub")
    own = logging.StreamHandler(stream)
    monkeypatch.setattr(theirs, "handlers", [own])
    with showing("json", stream):
        logging.getLogger("huggingface_hub.cache").warning("no room")
    assert theirs.handlers == [own]
    (line,) = stream.getvalue().splitlines()
    assert (json.loads(line)["logger"], json.loads(line)["message"]) == ("huggingface_hub.cache", "no room")


def test_none_shows_nothing_and_leaves_messages_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with showing("none") as shown:
        assert shown.on_event is None
        messages.say("a word")
    assert capsys.readouterr().err == "hf-haul: a word\n"


def test_a_full_pipe_holds_up_neither_events_nor_the_end() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(65536))
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    stream = os.fdopen(writing, "w")
    display = Display(PlainView(Output(stream), time.time))
    began = time.monotonic()
    display.on_event(plan())
    for number in range(20_000):
        display.on_event(progress(number, 20_000))
    display.close(grace=0.05)
    assert time.monotonic() - began < BOUND
    assert any(thread.name.startswith("hf-haul-display") for thread in threading.enumerate())
    os.close(reading)  # lets go of the thread that writes
    stream.close()


def test_a_pipe_that_nobody_reads_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream, showing("plain", stream) as shown, warnings.catch_warnings():
        assert shown.on_event is not None
        for event in (plan(), progress(300), ended()):
            shown.on_event(event)


def test_the_end_shows_all_that_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stream: Any = io.StringIO()
    with showing("plain", stream) as shown:
        assert shown.on_event is not None
        shown.on_event(plan())
        shown.on_event(ended())
    assert stream.getvalue().splitlines()[-1].startswith("hf-haul: done: 4 files fetched, 1.0 kB in 0:0")


def test_what_others_write_to_stderr_comes_as_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    stream: Any = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with showing("json") as shown:
        assert shown.on_event is not None
        shown.on_event(plan())
        handler = logging.StreamHandler()  # as huggingface_hub has one
        handler.emit(logging.LogRecord("x", logging.WARNING, "", 0, "of a library", (), None))
        print("half a", end="", file=sys.stderr)
        print(" line\r\x20\rand more\nno end", end="", file=sys.stderr)
        assert not sys.stderr.isatty()
    assert sys.stderr is stream
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [each["ev"] for each in found] == ["plan", "log", "log", "log"]
    assert [each["message"] for each in found[1:]] == ["of a library", "and more", "no end"]


def test_a_line_of_the_log_whose_arguments_do_not_fit_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream: Any = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with showing("json"):
        handler = next(
            each for each in logging.getLogger().handlers if type(each).__name__ == "_DisplayHandler"
        )
        handler.emit(logging.LogRecord("odd", logging.WARNING, "", 0, "%d", ("no number",), None))
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert any("no number" in each["message"] for each in found), "logging says what is wrong with it"
