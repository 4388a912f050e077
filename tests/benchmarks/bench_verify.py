"""How fast files on disk are checked, beside sha256sum and the rate of sha256 itself."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys

from tests.benchmarks.harness import Goal, Result, Tool
from tests.benchmarks.rig import CLIENT, Rig

from hf_haul.processors import usable_processors

NEEDS = ("bench/shards",)


def bench(rig: Rig) -> list[Result]:
    """Run the row."""
    repo = "bench/shards"
    nbytes, cores = rig.nbytes(repo), math.ceil(usable_processors())
    result = Result("verify", f"check 8 x 256 MiB that are in memory, on {cores} cores")
    memory = {"nbytes": nbytes, "threads": cores}
    tools = [
        _client(rig, "hf-haul", "haul_verify", cache_dir=str(rig.out / "cache"), files=rig.files(repo)),
        _client(rig, "huggingface_hub", "hub_verify", repo_id=repo, local_dir=str(rig.folder_of(repo))),
        _client(rig, "sha256 of memory", "hash_memory", **memory),
        _sha256sum(rig, repo, cores),
    ]
    rig.compare(result, tools, nbytes)
    result.goals = [
        # Reading what is in memory costs the rest.
        Goal("share of the rate of sha256 on all cores", result.ratio("hf-haul", "sha256 of memory"), 0.75),
        Goal("times sha256sum on all cores", result.ratio("hf-haul", "sha256sum"), 1.0),
    ]
    return [result]


def _client(rig: Rig, name: str, what: str, **arguments: object) -> Tool:
    argv = [sys.executable, str(CLIENT), what, json.dumps(arguments)]
    return Tool(name, argv, rig.environment("own"), reports=True)


def _sha256sum(rig: Rig, repo: str, cores: int) -> Tool | None:
    if shutil.which("sha256sum") is None or shutil.which("xargs") is None:
        rig.missing["sha256sum"] = "no such command"
        return None
    files = " ".join(shlex.quote(os.fspath(file)) for file, _ in rig.files(repo).values())
    command = f"printf '%s\\0' {files} | xargs -0 -n 1 -P {cores} sha256sum > {rig.out}/sums"
    return Tool("sha256sum", ["sh", "-c", command])
