"""What starting costs: the command's help, an import, and a first download of what is in the cache.

Each beside huggingface_hub's, one after the other in every round. All is compiled beforehand, as it is once installed, and
the cached repository was downloaded once; the Hub is on this machine, so that a question to it takes a few milliseconds.

On two cores that others used, too: help after 0.24 s; the import as late as huggingface_hub's; the first snapshot 0.09 s later,
and 0.35 s later while it imported the engine and requests (medians of nine rounds).
"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median
from typing import Final

from tests.benchmarks.harness import Goal, Result, Tool
from tests.benchmarks.rig import Rig

NEEDS = ("bench/one",)
_REPO: Final = "bench/one"
#: By the name of a row: what is started in the words of Python, by ours and by huggingface_hub.
_PAIRS: Final = {
    "import": ("import hf_haul", "import huggingface_hub"),
    # What upstream loads lazily costs when it is first used; so it does here.
    "import snapshot_download": (
        "from hf_haul import snapshot_download",
        "from huggingface_hub import snapshot_download",
    ),
    "first snapshot, cached": (
        f"from hf_haul import snapshot_download; snapshot_download({_REPO!r})",
        f"from huggingface_hub import snapshot_download; snapshot_download({_REPO!r})",
    ),
}
#: Seconds by which ours may be later.
_LATER: Final = {"import": 0.05, "first snapshot, cached": 0.15}
_HELP: Final = "hf-haul --help"
_HELP_SECONDS: Final = 0.3


def bench(rig: Rig) -> list[Result]:
    """Run the row."""
    result = Result("start", "start Python and ...", unit="s")
    env = {
        **rig.environment("own"),
        "HF_HUB_CACHE": str(rig.folder / "start-cache"),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(rig.folder / "start-bytecode"),
    }
    tools = [Tool(_HELP, [sys.executable, "-m", "hf_haul.cli", "--help"], env)]
    for what, codes in _PAIRS.items():
        for who, code in zip(("hf-haul", "huggingface_hub"), codes, strict=True):
            tools.append(Tool(f"{who}: {what}", [sys.executable, "-c", code], env))
    for tool in tools:  # compiles, and downloads
        subprocess.run(tool.argv, env={**os.environ, **env}, capture_output=True, check=True)
    rig.compare(result, tools, 0)
    seconds = result.seconds(_HELP)
    result.goals = [
        Goal(f"seconds of {_HELP}", median(seconds) if seconds else None, _HELP_SECONDS, at_least=False)
    ]
    for what in _PAIRS:
        pairs = result.pairs(f"hf-haul: {what}", f"huggingface_hub: {what}", lambda sample: sample.seconds)
        later = median(ours - theirs for ours, theirs in pairs) if pairs else None
        if what in _LATER:
            text = f"seconds by which '{what}' is later than huggingface_hub's"
            result.goals.append(Goal(text, later, _LATER[what], at_least=False))
        elif later is not None:
            result.notes.append(f"'{what}' is {1000 * later:.0f} ms later than huggingface_hub's")
    return [result]
