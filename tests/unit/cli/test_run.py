"""How ``hf-haul run`` reads its arguments, and how it waits where it cannot become the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.support.wire import until

from hf_haul.cli import command as cli
from hf_haul.cli.run import run_and_wait


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        pytest.param(["--", "a", "-v", "--", "b"], ["a", "-v", "--", "b"], id="behind two dashes"),
        pytest.param(["a", "-q", "--help"], ["a", "-q", "--help"], id="without them"),
        pytest.param(["--max-connections", "3", "a"], ["a"], id="behind a value"),
        pytest.param(["--max-connections=3", "-v", "a"], ["a"], id="behind a value in one word"),
        pytest.param(["-q", "--", "-x"], ["-x"], id="that begins with a dash"),
        pytest.param([], [], id="none"),
    ],
)
def test_the_program_begins_behind_our_options(argv: list[str], program: list[str]) -> None:
    assert cli._parser().parse_args(["run", *argv]).program == program


@pytest.mark.parametrize("code", [0, 3])
def test_the_code_of_a_program_that_is_waited_for_is_ours(code: int) -> None:
    assert run_and_wait(sys.executable, ["x", "-c", f"raise SystemExit({code})"], os.environ) == code


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_program_that_is_waited_for_gets_our_signals(tmp_path: Path) -> None:
    program = f"import signal, time; open({str(tmp_path / 'ready')!r}, 'w').close(); time.sleep(60)"

    def send() -> None:
        until(lambda: (tmp_path / "ready").exists(), "the program")
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    before = signal.getsignal(signal.SIGTERM)
    assert run_and_wait(sys.executable, ["x", "-c", program], os.environ) == 128 + signal.SIGTERM
    sender.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_folder_of_the_start_holds_nothing_else() -> None:
    from hf_haul.cli import run

    names = {each.name for each in run._STARTUP.iterdir() if each.suffix == ".py"}
    assert names == {"__init__.py", "sitecustomize.py"}


def test_old_versions_of_python_can_read_what_runs_at_the_start() -> None:
    from hf_haul.cli import run

    text = (run._STARTUP / "sitecustomize.py").read_text(encoding="utf-8")
    code = "import ast, sys; ast.parse(sys.stdin.read(), feature_version=(3, 6))"
    subprocess.run([sys.executable, "-c", code], input=text, text=True, check=True)
