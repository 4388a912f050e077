"""``hf-haul run``: any Python program on this engine, without a changed line."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from hf_haul.cli.arguments import add_command, read_count, read_limit
from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.messages import say, say_error

__all__ = ["add_run"]

_ABOUT: Final = """\
Run a program, with all that huggingface_hub downloads in it on hf-haul's
engine, and hf:// URLs read by it: as if it had called hf_haul.accelerate()
and hf_haul.register("hf"). In its child processes, too."""
_NOTES: Final = """\
what turns it off:
  a Python in which hf-haul is not installed; Python's -I, -E and -S; a program
  that gives its children another PYTHONPATH"""
_EXIT_CODES: Final = """\
exit codes:
  the program's own, 128 and the number of a signal that ended it; 127 there is
  no such program, 126 it cannot be run, 2 wrong usage"""
_EXAMPLES: Final = (
    "hf-haul run -- python train.py --epochs 3",
    "hf-haul run -- vllm serve org/model",
    "hf-haul run --max-bandwidth 50MB/s -- torchrun --nproc-per-node 8 train.py",
)
#: Holds a ``sitecustomize`` and nothing else.
_STARTUP: Final = Path(__file__).parent / "startup"
_NOT_FOUND: Final = 127
_NOT_RUN: Final = 126
#: What a shell adds to the number of a signal that ended a program.
_SIGNALLED: Final = 128


def add_run(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "run", _run, "Run any Python program with its downloads on hf-haul.",
        examples=_EXAMPLES, notes=_NOTES, exit_codes=_EXIT_CODES, takes_program=True,
    )  # fmt: skip
    parser.description = _ABOUT
    parser.usage = "hf-haul run [options] [--] PROGRAM [ARGUMENT ...]"
    parser.add_argument(
        "--max-bandwidth",
        type=read_limit,
        metavar="RATE",
        help="of each process, such as 50MB/s or 400Mbit/s",
    )
    parser.add_argument(
        "--max-connections", type=read_count, metavar="N", help="most connections of each process at once"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="do not print the line that says it is on")


def _run(arguments: argparse.Namespace) -> int:
    program: list[str] = arguments.program
    if not program:
        raise UsageError("name a program, as in: hf-haul run -- python train.py")
    environ = _environment(arguments, os.environ)
    path = shutil.which(program[0], path=environ.get("PATH"))
    if path is None:
        return _refuse(program[0])
    if not arguments.quiet:
        say(f"on for {program[0]} and its children: downloads of huggingface_hub, and hf:// URLs")
    try:
        if os.name == "nt":  # whose exec would give the prompt back at once
            return run_and_wait(path, program, environ)
        become(path, program, environ)
    except OSError as error:
        say_error(error if error.filename is not None else OSError(error.errno, error.strerror, program[0]))
        return _NOT_FOUND if error.errno == errno.ENOENT else _NOT_RUN


def _refuse(program: str) -> int:
    """Say why a program cannot be run; return the exit code."""
    if not os.path.lexists(program):
        where = "" if os.path.dirname(program) else " on PATH"
        say_error(FileNotFoundError(f"There is no program {program!r}{where}"))
        return _NOT_FOUND
    how = f"; to run it: hf-haul run -- python {program}" if program.endswith(".py") else ""
    say_error(PermissionError(f"{program} is no program that may be run{how}"))
    return _NOT_RUN


def _environment(arguments: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the program."""
    startup = os.fspath(_STARTUP)
    others = [each for each in environ.get("PYTHONPATH", "").split(os.pathsep) if each not in {"", startup}]
    found = {**environ, "PYTHONPATH": os.pathsep.join([startup, *others])}
    for name, value in (
        ("HF_HAUL_MAX_BANDWIDTH_BPS", arguments.max_bandwidth),
        ("HF_HAUL_MAX_CONCURRENT_DOWNLOADS", arguments.max_connections),
    ):
        if value is not None:
            found[name] = str(value)
    return found


def become(path: str, program: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Replace this process by the program, with signals as they were when this process began.

    Raises:
        OSError: It cannot be run.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    for name in ("SIGPIPE", "SIGXFSZ"):  # which Python ignores, and what it starts should not
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.execve(path, list(program), dict(environ))  # noqa: S606  as asked for


def run_and_wait(path: str, program: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the program, pass signals on, and return its exit code, or 128 and the number of what ended it.

    Raises:
        OSError: It cannot be run.
    """
    import subprocess  # which no other command needs

    child = subprocess.Popen(list(program), executable=path, env=dict(environ))  # noqa: S603  as asked for

    def pass_on(number: int, _frame: object) -> None:
        child.send_signal(number)

    def leave_to_child(_number: int, _frame: object) -> None:
        """Do nothing: the terminal has sent it to the child as well."""

    before: dict[int, Any] = {signal.SIGINT: signal.signal(signal.SIGINT, leave_to_child)}
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
        number = getattr(signal, name, None)
        if number is not None:
            before[number] = signal.signal(number, pass_on)
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else _SIGNALLED - code
