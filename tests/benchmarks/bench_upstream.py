"""Against huggingface_hub alone: 1 GiB, the same at 20 MB/s per connection, and requests to the Hub."""

from __future__ import annotations

from tests.benchmarks.harness import Goal, Result
from tests.benchmarks.rig import Rig

NEEDS = ("bench/half", "bench/small")


def bench(rig: Rig) -> list[Result]:
    """Run the three rows."""
    return [
        _half(rig, "plain", "gib", "one file of 1 GiB, no cap", 2.0),
        _half(rig, "paced", "gib-paced", "one file of 1 GiB at 20 MB/s per connection", 6.0),
        _requests(rig),
    ]


def _half(rig: Rig, origin: str, name: str, title: str, wanted: float) -> Result:
    repo = "bench/half"
    result = Result(name, title)
    tools = [rig.haul(repo, origin), rig.hub(repo, origin)]
    if origin == "plain":
        tools.append(rig.bare(repo, origin))
    rig.compare(result, tools, rig.nbytes(repo))
    result.goals = [Goal("speed over huggingface_hub", result.ratio("hf-haul", "huggingface_hub"), wanted)]
    return result


def _requests(rig: Rig) -> Result:
    """Counted by the local Hub itself, which gives all files here."""
    repo = "bench/small"
    files = len(rig.sizes(repo))
    pages = -(-(files + 1) // 1000)  # the folder is an entry of the listing too
    result = Result("requests", f"requests to the Hub for {files} files", unit="requests", scale=files)
    hub = rig.servers.hub
    for tool in (rig.haul(repo, "own"), rig.hub(repo, "own")):
        hub.ask(clear=True)
        rig.compare(result, [tool], rig.nbytes(repo), rounds=1)
        answer = hub.ask(kinds=True)
        kinds = answer["kinds"]
        # All redirects lead to another address of the same Hub: what follows one is the second half of its question.
        asked = sum(kinds.values()) - answer["redirected"]
        result.samples[tool.name][-1].extra.update(requests=asked, kinds=kinds)
    ours = result.of("hf-haul", lambda s: s.extra["requests"])
    theirs = result.of("huggingface_hub", lambda s: s.extra["requests"])
    result.goals = [
        Goal(f"requests for {files} files in {pages} pages", ours, files + 2 + pages, at_least=False),
        Goal(
            "ours over huggingface_hub's",
            ours / theirs if ours and theirs else None,
            0.51,
            at_least=False,
        ),
    ]
    return result
