"""The live view in a terminal of its own, in 40, 80 and 200 columns."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyte
import pytest
from tests.support.hub import hub_environment, serve_repo

from hf_haul.localhub.testing.faults import Status

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")

BOUND = 60.0
COLUMNS = [(40,), (80,), (200,)]
PROGRAM = """
import sys
from hf_haul import snapshot_download
from hf_haul.cli.progress import chosen_mode, showing

with showing(chosen_mode(None, quiet=False, stream=sys.stderr)) as shown:
    path = snapshot_download("org/model", on_event=shown.on_event, tqdm_class=__import__("functools").partial(__import__("tqdm").tqdm, disable=True))
print(path)
"""


def _run_in_terminal(
    env: dict[str, str], columns: int, *arguments: str, program: str = PROGRAM
) -> tuple[int, list[list[str]], pyte.Screen]:
    """Run the program; return its exit code, the different screens that were seen, and the last one.

    Args:
        env: Its variables.
        columns: Of its terminal.
        arguments: Of the command, which is run in place of the program.
        program: Python.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    screen = pyte.Screen(columns, 24)
    stream, seen = pyte.ByteStream(screen), []
    process = subprocess.Popen(
        [sys.executable, *(["-m", "hf_haul.cli", *arguments] if arguments else ["-c", program])],
        env={**env, "TERM": "xterm", "HF_HUB_DISABLE_PROGRESS_BARS": "0"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    deadline = time.monotonic() + BOUND
    try:
        while time.monotonic() < deadline:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: the program has let go of the terminal
                break
            if not data:
                break
            stream.feed(data)
            shown = [line.rstrip() for line in screen.display if line.strip()]
            if not seen or seen[-1] != shown:
                seen.append(shown)
        return process.wait(BOUND), seen, screen
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _for_each(check: Callable[..., None], folder: Path, cases: Sequence[tuple[Any, ...]]) -> None:
    """Check all cases at once, each in a folder of its own: what they do is wait."""
    folders = [folder / str(number) for number in range(len(cases))]
    for each in folders:
        each.mkdir()
    with ThreadPoolExecutor(len(cases)) as pool:
        running = [pool.submit(check, each, *case) for each, case in zip(folders, cases, strict=True)]
    for done in running:
        done.result()


def test_a_terminal_shows_what_is_waited_for_and_is_left_with_one_line(tmp_path: Path) -> None:
    _for_each(_shows_what_is_waited_for, tmp_path, COLUMNS)


def _shows_what_is_waited_for(tmp_path: Path, columns: int) -> None:
    with serve_repo(tmp_path / "src", "org/model") as served:
        served.hub.faults.add(Status(429, retry_after=2), kind="cdn", times=1)
        code, seen, screen = _run_in_terminal(hub_environment(served.hub, tmp_path / "home"), columns)
    assert code == 0, seen[-1]
    waits = [line for shown in seen for line in shown if line.startswith("  waiting 0:0")]
    assert waits, seen
    last = "".join(seen[-1])
    assert last.startswith("hf-haul: done: ")
    assert "waiting" not in last, "the view is gone"
    assert not screen.cursor.hidden


def test_results_are_neither_torn_nor_erased_by_the_view(tmp_path: Path) -> None:
    _for_each(_keeps_results, tmp_path, COLUMNS)


def _keeps_results(tmp_path: Path, columns: int) -> None:
    with serve_repo(tmp_path / "src", "org/model") as served:
        env = hub_environment(served.hub, tmp_path / "home")
        code, seen, _ = _run_in_terminal(env, columns, "download", "org/model")
        said = "".join(seen[-1])
        assert code == 0, said
        found = list((tmp_path / "home").rglob("snapshots/*"))
        assert str(found[0]) in said
        assert "hf-haul: done: " in said
        (found[0] / "config.json").resolve().write_bytes(b"short")
        served.hub.faults.add(Status(429, retry_after=2), kind="tree", times=1)
        code, seen, screen = _run_in_terminal(env, columns, "verify", "org/model", "--hub")
    said = " ".join(seen[-1])
    assert code == 7, said
    assert said.startswith("wrong     config.json: it has 5 bytes"), said
    assert any(line.startswith("  waiting 0:0") for shown in seen for line in shown), seen
    assert "hf-haul: done: " in said
    assert "waiting" not in said
    assert not screen.cursor.hidden


PLAIN = """
import hf_haul
hf_haul.{call}
print("end")
"""


def test_a_bar_of_plain_python_says_what_is_waited_for_and_until_when(tmp_path: Path) -> None:
    _for_each(
        _says_what_is_waited_for,
        tmp_path,
        [
            ('snapshot_download("org/model")', "info", 80),  # before the first byte
            ('snapshot_download("org/model")', "cdn", 40),  # its bytes
            ('hf_hub_download("org/model", "config.json")', "resolve", 40),  # before the first byte
            ('hf_hub_download("org/model", "nested/small.bin")', "cdn", 80),  # its bytes
        ],
    )


def _says_what_is_waited_for(tmp_path: Path, call: str, kind: str, columns: int) -> None:
    with serve_repo(tmp_path / "src", "org/model") as served:
        served.hub.faults.add(Status(429, retry_after=3), kind=kind, times=1)
        env = hub_environment(served.hub, tmp_path / "home")
        code, seen, _ = _run_in_terminal(env, columns, program=PLAIN.format(call=call))
    assert code == 0, seen[-1]
    waits = [line for shown in seen for line in shown if line.startswith("Waiting 0:0")]
    assert any("limits re" in line for line in waits), seen
    assert len({line[:12] for line in waits}) > 1, "the time that is left is counted down"
    assert not any(line.startswith("Waiting") for line in seen[-1]), "it is gone"
    assert seen[-1][-1] == "end"


def test_without_a_terminal_a_long_wait_is_one_warning_and_a_short_one_none(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import hf_haul; hf_haul.snapshot_download('org/model')"]
    with serve_repo(tmp_path / "src", "org/model") as served:
        env = hub_environment(served.hub, tmp_path / "home")
        served.hub.faults.add(Status(429, retry_after=1), kind="info", times=1)
        done = subprocess.run(program, env=env, capture_output=True, text=True, check=True, timeout=BOUND)
        assert "limits requests" not in done.stderr
        for blob in (tmp_path / "home").rglob("blobs/*"):
            blob.unlink()
        served.hub.faults.add(Status(429, retry_after=60), kind="cdn", times=1)
        with subprocess.Popen(program, env=env, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = [next(line for line in process.stderr if "limits requests" in line)]
            process.send_signal(signal.SIGINT)  # it would wait for a minute
            said += [line for line in process.stderr if "limits requests" in line]
    assert len(said) == 1, said
