"""When ``hf-haul clean`` asks, what it says, and how it ends."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from tests.support.cached_files import COMMIT, write
from tests.support.storage import left_behind, stage

import hf_haul
from hf_haul.cli import command as cli
from hf_haul.hub.uris import uri_of


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    for number in range(2):
        uri = uri_of("model", "org/name", COMMIT, f"{number}.bin")
        left_behind(folder / "models--org--name/blobs", key=f"{number:064x}", uri=uri)
    return folder


def _left(hub: Path) -> int:
    return len(list(hub.rglob("*.incomplete")))


def _at_a_terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", _Terminal(answer))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y\n", 0, 0), ("YES\n", 0, 0), ("n\n", 1, 2), ("\n", 1, 2), ("", 1, 2)]
)
def test_it_says_what_and_how_much_and_then_asks(
    hub: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    code: int,
    left: int,
) -> None:
    _at_a_terminal(monkeypatch, answer)
    assert cli.main(["clean", str(hub)]) == code
    assert _left(hub) == left
    out, err = capsys.readouterr()
    assert out.startswith(f"to be removed in {hub}: 2 files, ")
    assert "a download could go on from these (--keep-resumable keeps them): 2 files" in out
    assert "0.bin" in out
    assert "Remove 2 files (" in err
    assert ("removed 2 files" in out) == (code == 0)
    assert ("nothing was removed" in err) == (code == 1)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_without_a_terminal_and_without_yes_nothing_is_removed(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert cli.main(["clean", str(hub), *more]) == 2
    assert _left(hub) == 2
    out, err = capsys.readouterr()
    assert "to be removed" in (err if more else out)
    assert "there is no terminal to ask at; add --yes to remove 2 files" in err


def test_where_nobody_would_see_the_question_nothing_is_removed(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", _Terminal("y\n"))  # but stdout and stderr go elsewhere
    assert cli.main(["clean", str(hub)]) == 2
    assert _left(hub) == 2
    assert "[y/N]" not in capsys.readouterr().err


def test_where_stdin_is_closed_nothing_is_removed(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["clean", str(hub)]) == 2
    assert _left(hub) == 2


def test_with_yes_nobody_is_asked(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["clean", "--cache-dir", str(hub), "-y"]) == 0
    assert _left(hub) == 0
    out, err = capsys.readouterr()
    assert "removed 2 files; " in out
    assert err == ""


def test_a_dry_run_needs_no_terminal_and_removes_nothing(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["clean", str(hub), "--dry-run", "--yes"]) == 0
    assert _left(hub) == 2
    assert "to be removed" in capsys.readouterr().out


def test_with_nothing_to_remove_nobody_is_asked(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["clean", str(hub), "--keep-resumable"]) == 0
    assert _left(hub) == 2
    assert capsys.readouterr().out.splitlines() == [
        f"nothing to remove in {hub}",
        "kept: 2 files",
        "  org/name 0.bin: a download goes on from it",
        "  org/name 1.bin: a download goes on from it",
    ]


@pytest.mark.parametrize(("age", "left"), [("1h", 2), ("30s", 0), ("0.01h", 0), ("2m", 2), ("7 d", 2)])
def test_what_is_new_can_be_kept(hub: Path, age: str, left: int) -> None:
    assert cli.main(["clean", str(hub), "--yes", "--older-than", age]) == 0
    assert _left(hub) == left


@pytest.mark.parametrize("age", ["", "7", "d", "7y", "-1d", "1d2h"])
def test_an_age_without_a_unit_is_wrong_usage(
    hub: Path, capsys: pytest.CaptureFixture[str], age: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["clean", str(hub), "--yes", f"--older-than={age}"])
    assert ended.value.code == 2
    assert "30m, 12h or 7d" in capsys.readouterr().err
    assert _left(hub) == 2


def test_json_is_the_result_alone(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage(hub / "models--org--name/blobs/tmp_1", b"")
    os.utime(hub / "models--org--name/blobs/tmp_1", (1, 1))
    assert cli.main(["clean", str(hub), "--yes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {field.name for field in fields(hf_haul.CleanResult)}
    assert [file["kind"] for file in found["removed"]] == ["temporary", "staged", "staged"]
    assert (found["dry_run"], found["kept"], found["problems"]) == (False, [], [])
    assert found["bytes_freed"] > 0


def test_a_file_that_may_not_be_removed_is_told_and_is_a_failure(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if "0.haul" in str(source):
            raise PermissionError(13, "Permission denied", str(source))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert cli.main(["clean", str(hub), "--yes"]) == 6
    out, err = capsys.readouterr()
    assert "removed 1 file;" in out
    assert err.endswith(f"{'0' * 64}.haul.incomplete: Permission denied\n")
    assert _left(hub) == 1


def test_more_files_than_people_read_are_counted(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2, 70):
        left_behind(hub / "models--org--name/blobs", key=f"{number:064x}")
    cli.main(["clean", str(hub), "--dry-run"])
    out = capsys.readouterr().out
    assert "... and 20 more; --json names them all" in out
    assert len(out.splitlines()) == 53


def test_a_folder_that_is_not_there_is_not_found(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["clean", str(hub / "none"), "--yes"]) == 3
    assert cli.main(["clean", str(write(hub / "file")), "--yes"]) == 3
    assert "is no folder" in capsys.readouterr().err
