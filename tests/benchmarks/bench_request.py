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
from collections.abc import Sequence
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


def _futex_notes(rig: Rig, result: Result, tools: Sequence[Tool | None], count: int) -> list[str]:
    """How often each tool's threads waited for each other, from a run of its own, where there is ``strace``."""
    if shutil.which("strace") is None:
        rig.missing[f"futex calls of {result.name}"] = "no strace"
        return []
    found = []
    for tool in tools:
        calls = None if tool is None else _futex_calls(rig, tool)
        if tool is not None and calls is not None:
            found.append(f"{tool.name} {calls / count:.1f}")
    return ["futex calls for each: " + ", ".join(found)] if found else []


def _futex_calls(rig: Rig, tool: Tool) -> int | None:
    rig.clear_out()
    with tempfile.NamedTemporaryFile(dir=rig.folder, mode="r") as out:
        argv = ["strace", "-f", "-qq", "-c", "-e", "trace=futex", "-o", out.name, *tool.argv]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                argv,
                env={**os.environ, **tool.env},
                cwd=rig.out,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=rig.options.timeout,
                check=False,
            )
            return _calls_in(out.read())
    return None


def _calls_in(summary: str) -> int | None:
    """The calls of futex in a summary of strace's; ``None`` if there is no such summary."""
    match = re.search(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?futex$", summary, re.MULTILINE)
    if match is not None:
        return int(match[1])
    return 0 if "syscall" in summary or not summary.strip() else None
