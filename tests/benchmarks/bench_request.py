"""What one request costs of the processor: for a small file, and for a range of 4 KiB."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.bare_requests import LIBRARIES
from tests.benchmarks.harness import KIB, Goal, Result, Sample, Tool
from tests.benchmarks.rig import CLIENT, Rig

NEEDS = ("bench/small", "bench/quarter")

_RANGES: Final = 2_000
_RANGE: Final = 4 * KIB
#: Bytes from one range to the next but for what chance adds: further apart than any that are fetched as one.
_SPACE: Final = 128 * KIB
_CHANCE: Final = 48 * KIB


def bench(rig: Rig) -> list[Result]:
    """Run both rows."""
    return [_files(rig), _ranges(rig)]


def _files(rig: Rig) -> Result:
    repo = "bench/small"
    sizes = rig.sizes(repo)
    title = f"{len(sizes):,} x 20 KiB, each a redirect and an answer: processor time of each"
    result = Result("request-file", title, unit="ms", scale=len(sizes))
    tools = [
        rig.haul(repo, "front"),
        rig.haul(repo, "front", "hf-haul, 1 connection", max_connections=1),
        rig.hub(repo, "front"),
        *(_bare_files(rig, repo, library) for library in LIBRARIES),
        rig.aria2c(repo, "plain", 1, 16),
        rig.curl(repo, "plain"),
    ]
    rig.compare(result, tools, rig.nbytes(repo))
    ours = result.of("hf-haul", _files_per_second)
    for peer, wanted in (("huggingface_hub", 4.0), ("bare urllib3", 1.0)):
        theirs = result.of(peer, _files_per_second)
        ratio = ours / theirs if ours is not None and theirs else None
        result.goals.append(Goal(f"files per second over {peer}", ratio, wanted))
    result.notes.append(
        "hf-haul and huggingface_hub list the files first; the bare loops know where they are"
    )
    result.notes.append("aria2c and curl fetch plain URLs: no redirect, no digest")
    result.notes += _futex_notes(rig, result, tools, len(sizes))
    return result


def _ranges(rig: Rig) -> Result:
    repo = "bench/quarter"
    ((path, size),) = rig.sizes(repo).items()
    ranges = _apart(size)
    listing = rig.folder / "ranges.json"
    listing.write_text(json.dumps({"path": f"{repo}/{path}", "ranges": ranges}))
    title = f"{len(ranges):,} ranges of 4 KiB of one file, far apart: processor time of each"
    result = Result("request-range", title, unit="ms", scale=len(ranges))
    tools = [
        Tool(
            "hf-haul cat_ranges",
            [sys.executable, str(CLIENT), "haul_ranges", f"@{listing}"],
            rig.environment("plain"),
            reports=True,
        ),
        *(_bare_ranges(rig, repo, ranges, library) for library in LIBRARIES),
    ]
    rig.compare(result, tools, len(ranges) * _RANGE)
    result.notes.append("hf-haul is redirected once; no ranges are near enough to be fetched as one")
    result.notes += _futex_notes(rig, result, tools, len(ranges))
    return result


def _apart(size: int) -> list[tuple[int, int]]:
    """Ranges of a file of ``size`` bytes, each of which takes a request of its own."""
    pick = random.Random(7)
    starts = [number * _SPACE + pick.randrange(_CHANCE) for number in range(min(_RANGES, size // _SPACE))]
    return [(start, start + _RANGE) for start in starts]


def _files_per_second(sample: Sample) -> float:
    return 1 / sample.seconds


def _bare_files(rig: Rig, repo: str, library: str) -> Tool:
    base, folder = rig.endpoint("front"), rig.folder_of(repo)
    listing = rig.folder / f"bare-{library}.json"
    files = [
        (path, f"{base}/{repo}/resolve/main/{path}", _git_digest(folder / path)) for path in rig.sizes(repo)
    ]
    listing.write_text(json.dumps({"library": library, "files": files, "folder": str(rig.out / "to")}))
    return rig.client(f"bare {library}", "bare_files", f"@{listing}", repo, "front")


def _bare_ranges(rig: Rig, repo: str, ranges: Sequence[tuple[int, int]], library: str) -> Tool:
    (url,) = rig.urls(repo, "plain").values()
    listing = rig.folder / f"bare-ranges-{library}.json"
    listing.write_text(json.dumps({"library": library, "url": url, "ranges": ranges}))
    argv = [sys.executable, str(CLIENT), "bare_ranges", f"@{listing}"]
    return Tool(f"bare {library}", argv, rig.environment("plain"), reports=True)


def _git_digest(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Counter:
    """A program that counts another one's calls of futex.

    Attributes:
        argv: It, before the file to write to.
        name: What the figure is said to be of.
        read: The calls in what it wrote; ``None`` if it could not count.
    """

    argv: Sequence[str]
    name: str
    read: Callable[[str], int | None]


def _futex_notes(rig: Rig, result: Result, tools: Sequence[Tool | None], count: int) -> list[str]:
    """How often each tool's threads waited for each other, from a run of its own, where that can be counted."""
    counter = next((each for each in COUNTERS if _works(rig, each)), None)
    if counter is None:
        rig.missing[f"futex calls of {result.name}"] = "neither perf nor strace"
        return []
    found = []
    for tool in tools:
        if tool is None or tool.name == "huggingface_hub":  # takes a minute, and its threads are no example
            continue
        calls = _futex_calls(rig, counter, tool.argv, tool.env)
        if calls is not None:
            found.append(f"{tool.name} {calls / count:.1f}")
    return [f"futex calls for each{counter.name}: " + ", ".join(found)] if found else []


def _works(rig: Rig, counter: Counter) -> bool:
    """Whether a counter is there, and may count."""
    return shutil.which(counter.argv[0]) is not None and _futex_calls(rig, counter, ["true"], {}) is not None


def _futex_calls(rig: Rig, counter: Counter, argv: Sequence[str], env: Mapping[str, str]) -> int | None:
    rig.clear_out()
    with (
        tempfile.NamedTemporaryFile(dir=rig.folder, mode="r") as out,
        contextlib.suppress(subprocess.TimeoutExpired),
    ):
        subprocess.run(
            [*counter.argv, out.name, *argv],
            env={**os.environ, **env},
            cwd=rig.out,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=rig.options.timeout,
            check=False,
        )
        return counter.read(out.read())
    return None


def _calls_counted(summary: str) -> int | None:
    """The calls of futex in the figures of perf's; ``None`` if there are none."""
    match = re.search(r"^(\d+),[^,]*,syscalls:sys_enter_futex,", summary, re.MULTILINE)
    return None if match is None else int(match[1])


def _calls_in(summary: str) -> int | None:
    """The calls of futex in a summary of strace's; ``None`` if there is no such summary."""
    match = re.search(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?futex$", summary, re.MULTILINE)
    if match is not None:
        return int(match[1])
    return 0 if "syscall" in summary or not summary.strip() else None


#: Who counts, the best first: stopped at each call, as by strace, threads wait for each other ten times as often.
COUNTERS: Final = (
    Counter(["perf", "stat", "-x,", "-e", "syscalls:sys_enter_futex", "-o"], "", _calls_counted),
    Counter(
        ["strace", "-f", "-qq", "-c", "-e", "trace=futex", "-o"],
        " (under strace, which adds many)",
        _calls_in,
    ),
)
