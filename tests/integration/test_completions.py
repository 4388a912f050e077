"""Completions in real shells, and that they are those of the parser."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.wants import want_modules, want_program

from hf_haul.cli.completion import SCRIPTS

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="shells of POSIX, and their terminal")

#: What has been typed, the last word of it to be completed; and what is offered.
TYPED = [
    pytest.param(["hf-haul", "veri"], {"verify"}, id="a command"),
    pytest.param(["hf-haul", "get", "--checks"], {"--checksum"}, id="an option"),
    pytest.param(["hf-haul", "download", "org/m", "--progress", "j"], {"json"}, id="the value of an option"),
    pytest.param(["hf-haul", "get", "--dir", "fold"], {"folder"}, id="a folder"),
    pytest.param(["hf-haul", "completion", "f"], {"fish"}, id="the value of an argument"),
    pytest.param(["hf-haul", "help", "dow"], {"download"}, id="a command that is asked about"),
]

BASH = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p hf-haul); function=${function#*-F }; function=${function%% *}
"$function" hf-haul "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folded.txt").write_bytes(b"")
    return tmp_path


@posix
@pytest.mark.parametrize(("typed", "offered"), TYPED)
def test_bash_completes(typed: list[str], offered: set[str], here: Path) -> None:
    bash = want_program("bash")
    done = subprocess.run(
        [bash, "--norc", "-c", BASH, "bash", SCRIPTS["bash"], *typed],
        cwd=here, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert set(done.stdout.split()) == offered


@posix
@pytest.mark.parametrize(("typed", "offered"), TYPED)
def test_fish_completes(typed: list[str], offered: set[str], here: Path) -> None:
    fish = want_program("fish")
    code = f"source {SCRIPTS['fish']}; complete -C '{' '.join(typed)}'"
    done = subprocess.run(
        [fish, "--no-config", "-c", code],
        cwd=here, env={**os.environ, "HOME": str(here)}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert {line.partition("\t")[0].rstrip("/") for line in done.stdout.splitlines()} == offered


@posix
@pytest.mark.parametrize(("typed", "offered"), TYPED)
def test_zsh_completes(typed: list[str], offered: set[str], here: Path) -> None:
    """In a terminal, as zsh completes nowhere else: the line is completed, and printed when it is run."""
    import pty

    zsh = want_program("zsh")
    setup = here / "setup.zsh"
    setup.write_text(
        f"fpath=({SCRIPTS['zsh'].parent} $fpath); autoload -U compinit; compinit -u -D; PS1='> '\n"
        'hf-haul() { print -r -- "ran:${(j:|:)@}" }\nunsetopt beep; setopt menu_complete\nprint ready\n',
        encoding="utf-8",
    )
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(here)
        os.execve(zsh, [zsh, "-f"], {"HOME": str(here), "TERM": "dumb", "PATH": os.environ["PATH"]})
    try:
        os.write(terminal, f"source {setup}\n".encode())
        _read_until(terminal, "\nready")
        os.write(terminal, f"{' '.join(typed)}\t\n".encode())
        ran = _read_until(terminal, "\nran:", "\n")
    finally:
        os.close(terminal)
        os.waitpid(process, 0)
    (word,) = offered
    assert ran.strip().split("|")[-1].rstrip("/") == word


def _read_until(terminal: int, *marks: str) -> str:
    """What stands between the last two of some marks, which come one after the other."""
    text, deadline = "", time.monotonic() + 20
    while True:
        at = rest = 0
        for mark in marks:
            rest = at
            at = text.find(mark, at)
            if at < 0:
                break
            at += len(mark)
        if at >= 0:
            return text[rest : at - len(marks[-1])]
        assert time.monotonic() < deadline, text
        if select.select([terminal], [], [], 1.0)[0]:
            text += os.read(terminal, 4096).decode("utf-8", "replace").replace("\r", "")


def test_the_scripts_are_those_of_the_parser() -> None:
    want_modules("shtab", extra="test")
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/completions.py", "--check"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_command_prints_them(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hf_haul.cli", "completion", shell],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, SCRIPTS[shell].read_text(encoding="utf-8"))
