"""The command's exit codes and messages; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hf_haul.hub.snapshot_call
import hf_haul.localhub
import hf_haul.manager
from hf_haul.cli import command as cli
from hf_haul.cli.exit_codes import UsageError
from hf_haul.errors import DiskFullError, IntegrityError


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="no command"),
        pytest.param("upload org/m", id="an unknown command"),
        pytest.param("download", id="no repository"),
        pytest.param("download org/m --max-bandwidth fast", id="no rate"),
        pytest.param("download org/m --max-bandwidth 10mbps", id="a rate in bits or bytes"),
        pytest.param("download org/m --max-connections 0", id="no connections"),
        pytest.param("download org/m --preset pickles", id="an unknown preset"),
        pytest.param("get http://h/a --header nonsense", id="no header"),
    ],
)
def test_wrong_usage_ends_with_2_and_shows_the_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as over:
        cli.main(line.split())
    assert over.value.code == 2
    assert "usage: hf-haul" in capsys.readouterr().err


def _raise(error: BaseException) -> Any:
    def fake(*_: Any, **__: Any) -> None:
        raise error

    return fake


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        pytest.param(KeyboardInterrupt(), 130, "interrupted; what was fetched is kept", id="interrupt"),
        pytest.param(
            IntegrityError("a.bin", "aa", "bb"), 7, "error: a.bin: digest does not match", id="ours"
        ),
        pytest.param(DiskFullError("no room"), 6, "error: no room", id="disk"),
        pytest.param(PermissionError("read-only"), 6, "error: read-only", id="the system's"),
        pytest.param(ValueError("odd"), 1, "error: odd", id="bad input"),
        pytest.param(OSError(), 1, "error: The system reported an unspecified error", id="without a word"),
        pytest.param(UsageError("odd"), 2, "error: odd", id="wrong usage"),
    ],
)
def test_an_error_becomes_one_message_and_an_exit_code(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hf_haul.hub.snapshot_call, "make_snapshot_call", _raise(error))
    assert cli.main(["download", "org/m"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"hf-haul: {message}")
    assert "Traceback" not in err


def test_an_errors_notes_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError("first")
    error.__notes__ = ["also failed: b.bin"]  # type: ignore[attr-defined]  # add_note is 3.11's
    monkeypatch.setattr(hf_haul.hub.snapshot_call, "make_snapshot_call", _raise(error))
    assert cli.main(["download", "org/m"]) == 1
    assert capsys.readouterr().err.splitlines() == ["hf-haul: error: first", "  also failed: b.bin"]


def test_a_bug_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_haul.hub.snapshot_call, "make_snapshot_call", _raise(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["download", "org/m"])


def test_what_is_no_header_is_not_quoted_for_it_may_be_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["get", "http://hub.test/a", "-H", "Authorization Bearer hf_secret"])
    said = capsys.readouterr().err
    assert "not a header; write 'Name: value'" in said
    assert "hf_secret" not in said


@pytest.mark.parametrize("command", ["list", "status", "clean"])
def test_a_slip_in_the_configuration_is_told_by_every_command(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HAUL_CONFIG", "")
    monkeypatch.setenv("HF_HAUL_MAX_RETRIES", "many")
    assert cli.main([command, "--cache-dir", str(tmp_path)]) != 0
    assert "HF_HAUL_MAX_RETRIES='many': must be a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["completion", "bash"], ["help", "list"]])
def test_what_needs_no_settings_does_not_read_them(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HAUL_MAX_RETRIES", "many")
    assert cli.main(words) == 0
    assert capsys.readouterr().out
