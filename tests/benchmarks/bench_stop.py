"""Cancel and pause, measured where it counts: when the server sends the last byte."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from typing import Any

from tests.benchmarks.harness import MB, Goal, Result, Sample
from tests.benchmarks.rig import CLIENT, Rig

NEEDS = ("bench/quarter",)
TRIES = 100
#: Seconds without a byte after which the server counts as still.
STILL = 0.25


def bench(rig: Rig) -> list[Result]:
    """Run both rows."""
    tries = 10 if rig.options.quick else TRIES
    rig.servers.hub.ask(pace=20 * MB)
    try:
        return [_stop(rig, how, tries) for how in ("cancel", "pause")]
    finally:
        rig.servers.hub.ask(pace=None)


def _stop(rig: Rig, how: str, tries: int) -> Result:
    result = Result(how, f"{how} {tries} times in the middle of 256 MiB at 20 MB/s per connection", unit="s")
    rig.clear_out()
    client = _Client(rig)
    chance = random.Random(how)
    samples = result.samples.setdefault("hf-haul", [])
    print(f"\n{result.name}: {result.title}", file=sys.stderr)
    try:
        for _ in range(tries):
            client.ask("start")
            time.sleep(chance.uniform(0.0, 0.3))
            asked = client.ask(how)["at"]
            last = rig.servers.hub.ask(last_byte=STILL)
            samples.append(Sample(seconds=max(0.0, last["at"] - asked), nbytes=0))
            client.ask("end")
    finally:
        client.close()
    seconds = [each.seconds for each in samples]
    result.goals = [
        Goal(f"of {tries} tries: bytes stopped within 1 s", sum(each <= 1.0 for each in seconds), tries),
    ]
    result.notes.append(f"slowest: {max(seconds):.3f} s from the call to the last byte that the server sent")
    print(f"  hf-haul: slowest {max(seconds):.3f} s", file=sys.stderr)
    return result


class _Client:
    """A program that downloads and is told to stop."""

    def __init__(self, rig: Rig) -> None:
        repo = "bench/quarter"
        ((path, size),) = rig.sizes(repo).items()
        given = {
            "url": f"{rig.endpoint('own')}/{repo}/resolve/main/{path}",
            "size": size,
            "folder": str(rig.out / "to"),
        }
        self._process = subprocess.Popen(
            [sys.executable, str(CLIENT), "haul_stop", json.dumps(given)],
            env={**rig.environment("own"), "PATH": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
