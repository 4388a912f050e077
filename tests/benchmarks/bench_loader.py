"""When a loader can start: config, tokenizer and index on disk, before the weights."""

from __future__ import annotations

from tests.benchmarks.harness import Goal, Result
from tests.benchmarks.rig import Rig

NEEDS = ("bench/loader",)
FIRST = ["config.json", "tokenizer.json", "model.safetensors.index.json"]


def bench(rig: Rig) -> list[Result]:
    """Run the row."""
    repo = "bench/loader"
    sizes = rig.sizes(repo)
    weights = sum(size for path, size in sizes.items() if path.endswith(".safetensors"))
    small = sum(size for path, size in sizes.items() if not path.endswith(".safetensors"))
    result = Result("loader", "config, tokenizer and index, then 4 x 256 MiB at 20 MB/s per connection")
    rig.compare(
        result, [rig.haul(repo, "paced", first=FIRST), rig.hub(repo, "paced", first=FIRST)], rig.nbytes(repo)
    )
    for samples in result.samples.values():
        for sample in samples:
            if sample.error is None:
                stored = sample.extra["first_usable_stored"]
                sample.extra["weight_share"] = max(0, stored - small) / weights
    result.goals = [
        Goal(
            "share of the weights on disk when the loader's files are there",
            result.of("hf-haul", lambda s: s.extra["weight_share"]),
            0.01,
            at_least=False,
        ),
    ]
    theirs = result.of("huggingface_hub", lambda s: s.extra["weight_share"])
    seconds = result.of("hf-haul", lambda s: s.extra["first_usable_seconds"])
    if theirs is not None and seconds is not None:
        result.notes.append(
            f"there after {seconds:.2f} s; huggingface_hub: at {100 * theirs:.1f} % of the weights"
        )
    return [result]
