"""What a program that runs the command gets to read, whatever goes wrong."""

from __future__ import annotations

import json
import logging
import warnings
from typing import Any

import pytest
from tests.support.events import validate_event

import hf_haul.hub.snapshot_call
from hf_haul.cli import command as cli
from hf_haul.cli.for_programs import wants_events, wants_object


@pytest.mark.parametrize(
    ("line", "environ", "events", "as_object"),
    [
        pytest.param("download org/m --progress json", "", True, False, id="the option"),
        pytest.param("download --progress=json org/m --json", "", True, True, id="in one word"),
        pytest.param(
            "download org/m --progress tty", "json", False, False, id="the option before the variable"
        ),
        pytest.param("download org/m --format json", " JSON ", True, True, id="the variable"),
        pytest.param("clean --yes --json", "json", False, True, id="a command that asks"),
        pytest.param("run -- prog --progress json --json", "json", False, False, id="another program's"),
        pytest.param("download org/m -- --json", "", False, False, id="a file of that name"),
        pytest.param("", "", False, False, id="nothing"),
    ],
)
def test_what_is_to_be_written_is_known_from_the_line(
    line: str, environ: str, events: bool, as_object: bool
) -> None:
    words = line.split()
    assert wants_events(words, {"HF_HAUL_PROGRESS": environ}) is events
    assert wants_object(words) is as_object


WRONG = [
    pytest.param("", id="no command"),
    pytest.param("upload org/m", id="an unknown command"),
    pytest.param("download", id="no repository"),
    pytest.param("download org/m --no-such-option", id="an unknown option"),
    pytest.param("plan org/m --max-bandwidth fast", id="no rate"),
    pytest.param("verify org/m --max-workers 0", id="no number"),
    pytest.param("verify org/m --cache-dir a --local-dir b", id="a contradiction"),
]


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage_is_an_event(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*line.split(), "--progress", "json"]) == 2
    out, err = capsys.readouterr()
    (event,) = (json.loads(text) for text in err.splitlines())
    validate_event(event)
    assert (out, event["ev"], event["type"], event["kind"]) == ("", "error", "UsageError", "usage")


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage_is_an_object(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*line.split(), "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["exit_code"], found["error"]["kind"]) == (2, "usage")
    assert found["error"]["message"] in err.replace("\n  ", " ")


def _during(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    def fake(*_: Any, **__: Any) -> None:
        act()

    monkeypatch.setattr(hf_haul.hub.snapshot_call, "make_snapshot_call", fake)


def _raise(error: BaseException) -> Any:
    def act() -> None:
        logging.getLogger("urllib3").warning("of a library")
        warnings.warn("of Python", UserWarning, stacklevel=1)
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code", "ends"),
    [
        pytest.param(OSError("the disk"), 1, ["error"], id="an error"),
        pytest.param(KeyboardInterrupt(), 130, ["log"], id="an interrupt"),
        pytest.param(ZeroDivisionError("ours"), 1, ["error", "log"], id="a fault of ours"),
    ],
)
def test_every_line_is_an_event_also_of_warnings_interrupts_and_tracebacks(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    ends: list[str],
) -> None:
    monkeypatch.setenv("HF_DEBUG", "1" if isinstance(error, ZeroDivisionError) else "")
    _during(monkeypatch, _raise(error))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["download", "org/m", "--progress", "json", "--json"]) == code
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in err.splitlines()]
    for event in events:
        validate_event(event)
    assert [event.get("message") for event in events[:2]] == ["of a library", "of Python"]
    assert [event["ev"] for event in events[2 : 2 + len(ends)]] == ends
    assert json.loads(out)["exit_code"] == code


def test_v_shows_lines_of_hf_haul_and_vv_those_of_requests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def act() -> None:
        for name in ("hf_haul.waits", "httpcore.connection", "httpx", "urllib3"):
            logging.getLogger(name).info("info of %s", name)
            logging.getLogger(name).debug("debug of %s", name)
        raise OSError("the end")

    _during(monkeypatch, act)
    said = {}
    for flags in ((), ("-v",), ("-vv",)):
        cli.main(["download", "org/m", "--progress", "plain", *flags])
        said[flags] = [line for line in capsys.readouterr().err.splitlines() if " of " in line]
    assert said[()] == []
    assert said["-v",] == ["INFO hf_haul.waits: info of hf_haul.waits"]
    assert "DEBUG urllib3: debug of urllib3" in said["-vv",]
    assert not any("debug of httpcore" in line for line in said["-vv",])
