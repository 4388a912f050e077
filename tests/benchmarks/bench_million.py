"""What a repository of a million small files costs: its listing, its plan and its queue, until the first file is there.

The hub makes each page of a thousand when it is asked for, in a process of its own. The run ends five seconds after the file
that goes first is in place; memory is the highest until then, above what the imports take. ``--quick`` asks for 20,000 files.

Measured on two cores, with other work beside it: 50 pages per second, 8 s from the last page to the first file, 319 MiB above
the imports until then and 358 MiB five seconds later; with an object for each file that waits it was 43 s and 1,654 MiB.
"""

from __future__ import annotations

import json
import sys

from tests.benchmarks.harness import Goal, Result, Tool
from tests.benchmarks.many_files import FIRST, REPO_ID, served_apart
from tests.benchmarks.rig import CLIENT, Rig

NEEDS = ()
FILES = 1_000_000
_QUICK = 20_000
_GO_ON = 5.0
_MIB_WANTED = 500.0
_SECONDS_WANTED = 10.0


def bench(rig: Rig) -> list[Result]:
    """Run the row."""
    files = _QUICK if rig.options.quick else FILES
    result = Result("million", f"{files:,} small files, until the first is there", unit="s")
    with served_apart(files) as endpoint:
        arguments = {
            "repo_id": REPO_ID,
            "repo_type": "dataset",
            "cache_dir": str(rig.out / "cache"),
            "first": FIRST,
            "go_on": _GO_ON,
        }
        env = {**rig.environment("plain"), "HF_ENDPOINT": endpoint}
        argv = [sys.executable, str(CLIENT), "haul_many", json.dumps(arguments)]
        rig.compare(result, [Tool("hf-haul", argv, env, reports=True, nbytes=0)], 0)
    seconds = result.of("hf-haul", lambda s: s.extra["seconds_to_first"])
    mib = result.of("hf-haul", lambda s: s.peak_mib - s.base_mib)
    pages = result.of("hf-haul", lambda s: s.extra["pages"] / s.extra["seconds_of_pages"])
    result.goals = [
        Goal("MiB of memory above the imports", mib, _MIB_WANTED, at_least=False),
        Goal("seconds from the last page to the first file", seconds, _SECONDS_WANTED, at_least=False),
    ]
    if pages is not None and mib is not None:
        result.notes.append(
            f"{pages:.0f} pages of a thousand per second, {mib * 2**20 / files:.0f} bytes per file"
        )
    return [result]
