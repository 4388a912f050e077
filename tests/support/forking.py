"""Processes forked from one that has everything imported, and checks in a child of this one."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["ForkServer", "in_child"]

_ROOT = Path(__file__).parents[2]
#: Seconds after which a child is taken to hang, and then until it is killed: it shows where it hangs first.
_SECONDS, _GRACE = 60.0, 10.0

_LOOP = """
import json, os, sys

for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        _, status = os.waitpid(order["wait"], 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)
        continue
    pid = os.fork()
    if pid:
        print(json.dumps({"pid": pid}), flush=True)
        continue
    code = 1
    try:
        live(order)
        code = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
"""


class ForkServer:
    """A process from which others are forked: a context manager, at whose end all of them are killed.

    Args:
        program: Source code that imports what they need, and defines ``live(order)``, which each of them runs.
        environment: Variables of its environment, beside those of this process.
    """

    def __init__(self, program: str, environment: Mapping[str, str] | None = None) -> None:
        self._program = program + _LOOP
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{_ROOT / 'src'}{os.pathsep}{_ROOT}",
            **(environment or {}),
        }
        self._alive: set[int] = set()

    def __enter__(self) -> ForkServer:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in self._alive:
            os.kill(pid, signal.SIGKILL)  # nobody has waited for it: the id is still its own
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def fork(self, order: Mapping[str, Any]) -> int:
        """Fork a process that carries out an order; return its id."""
        pid: int = self._ask(order)["pid"]
        self._alive.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Wait until a process has ended; return its exit code, negative for a signal."""
        status: int = self._ask({"wait": pid})["status"]
        self._alive.discard(pid)
        return status

    def kill(self, pid: int) -> None:
        """End a process as the kernel ends one that takes too much memory, and wait until it is gone."""
        os.kill(pid, signal.SIGKILL)
        assert self.wait(pid) == -signal.SIGKILL

    def is_alive(self, pid: int) -> bool:
        """Return whether nobody has waited for a process yet."""
        return pid in self._alive

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def in_child(*checks: Callable[[], object]) -> bool:
    """Return whether all checks are true in a forked child; one that hangs shows where, and ends."""
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            faulthandler.dump_traceback_later(_SECONDS, exit=True, file=sys.__stderr__)
            code = 0 if all(check() for check in checks) else 2
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(code)
    deadline = time.monotonic() + _SECONDS + _GRACE
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
        time.sleep(0.005)
    return ended[1] == 0
