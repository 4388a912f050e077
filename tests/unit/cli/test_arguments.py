"""How the values of options are read that several commands have."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import hf_haul.localhub
from hf_haul.cli import command as cli
from hf_haul.cluster import agent as agent_module

PEERS = ["download", "org/m", "--peers", "http://127.0.0.1:18001", "--listen", "127.0.0.1:18001"]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        pytest.param(PEERS, "--peers-token-file", id="download"),
        pytest.param(["serve", "."], "--token-file", id="serve"),
    ],
)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("MISSING", "No such file or folder: MISSING", id="no file"),
        pytest.param("FOLDER", "There is a folder where a file is needed: FOLDER", id="a folder"),
        pytest.param("", "its name is empty", id="no name"),
        pytest.param("SECRET", "Permission denied: SECRET", id="a file of somebody else"),
        pytest.param("BROKEN", "The disk failed: BROKEN", id="a file on a broken disk"),
        pytest.param("EMPTY", "EMPTY is empty", id="an empty file"),
    ],
)
def test_a_token_file_that_cannot_be_used_is_wrong_usage_and_says_which_and_what_to_do(
    command: list[str],
    option: str,
    name: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FOLDER").mkdir()
    Path("EMPTY").write_text("\n")
    _fail_to_read(monkeypatch, SECRET=PermissionError(errno.EACCES, os.strerror(errno.EACCES), "SECRET"))
    _fail_to_read(monkeypatch, BROKEN=OSError(errno.EIO, os.strerror(errno.EIO)))
    monkeypatch.setattr(hf_haul.localhub, "serve", lambda *_, **__: pytest.fail("it is served"))
    monkeypatch.setattr(agent_module, "NodeAgent", lambda *_, **__: pytest.fail("it is served"))
    assert cli.main([*command, option, name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"hf-haul: error: {option} needs a readable file that holds the token: {said}\n"


def _fail_to_read(monkeypatch: pytest.MonkeyPatch, **errors: OSError) -> None:
    read_text = Path.read_text

    def read(path: Path, *options: Any) -> str:
        if str(path) in errors:
            raise errors[str(path)]
        return read_text(path, *options)

    monkeypatch.setattr(Path, "read_text", read)
