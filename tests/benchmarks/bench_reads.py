"""Loaders that read through haul://, and through huggingface_hub's hf://, over a link with latency.

The link has 50 ms before each answer, 10 MB/s for each connection, and LFS files behind a redirect, as the Hub has them. A
*limit* is what the bytes take over 16 such connections with the round trips that cannot be avoided. By default reads
keep 16 connections sending, and more only waiting for answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Final

from tests.benchmarks.harness import MB, Goal, Result, Sample, Tool, run_tool
from tests.benchmarks.rig import Options, Rig

__all__ = ["NEEDS", "ROWS", "Row", "bench", "needs"]

OURS: Final = "hf-haul"
THEIRS: Final = "huggingface_hub"

#: What is measured, by the unit that the goal is in.
_FIGURES: Final[dict[str, Callable[[Sample], float]]] = {
    "s": lambda sample: sample.seconds,
    "s of CPU": lambda sample: sample.user + sample.system,
    "MB moved": lambda sample: sample.extra["moved"] / MB,
    "MiB of memory": lambda sample: sample.peak_mib - sample.base_mib,
}


@dataclass(frozen=True)
class Row:
    """One work of one loader.

    Attributes:
        what: The function of ``read_client``.
        repo: What it reads.
        title: In words.
        reach: The goal.
        limit: Seconds below which nobody comes, if that is the question.
        unit: What the goal is in: one of the figures.
        loaders: Packages it needs.
        moved: Megabytes that may be moved, where more than that would be bought speed.
        copies: How many times the bytes of its files a loader has in memory, at the most.
    """

    what: str
    repo: str
    title: str
    reach: float
    limit: float | None = None
    unit: str = "s"
    loaders: tuple[str, ...] = field(default=())
    moved: float | None = None
    copies: int = 1

    @property
    def name(self) -> str:
        """For ``--row``."""
        return f"reads-{self.what.replace('_', '-')}"


ROWS: Final = (
    Row("whole", "reads/blob", "read() of 200 MB", 1.7, 1.4, copies=2),
    Row("loop", "reads/blob", "1 MiB loop over 200 MB", 2.2, 1.4, moved=210),
    Row("stream", "reads/blob", "stream of 200 MB, block_size=0", 1.8, 1.4, moved=210),
    Row("parquet_columns", "reads/table", "parquet of 200 MB, 3 of 20 columns, pandas", 0.9, 0.45, moved=33),
    Row("parquet_all", "reads/table", "the same, all columns", 2.5, 1.6, copies=4),
    Row("dataset_columns", "reads/tables", "20 parquet files, 3 of 20 columns, pyarrow.dataset", 1.6, 0.8, moved=32),
    Row("dask_columns", "reads/tables", "the same, dask", 2.0, 0.8, loaders=("dask",), moved=32),
    Row("datasets_stream", "reads/tables", "20 parquet files (157 MB), streamed by datasets", 3.0, 1.3, loaders=("datasets",), moved=165),
    Row("duckdb_sum", "reads/table", "duckdb, sum of a column", 0.6, 0.4, loaders=("duckdb",), moved=13),
    Row("cat_small", "reads/small", "cat of 200 files of 20 kB", 0.8, 0.5),
    Row("get_small", "reads/small", "get of 200 files of 20 kB", 0.8, 0.5),
    Row("cat_ranges", "reads/blob", "cat_ranges, 2,000 of 4 KiB", 1.5, 0.5, moved=100),
    Row("zarr_all", "reads/zarr", "zarr, 256 chunks of 256 KiB", 2.0, 0.9, loaders=("zarr",)),
    Row("zip_random", "reads/archives", "zip, 50 of 500 members at random", 2.9, 2.6),
    Row("tensors", "reads/tensors", "safetensors, 10 of 100 tensors of 1 MiB", 1.0, 0.7, moved=16),
    Row("lines", "reads/lines", "jsonl, 600,000 lines", 1.0, unit="s of CPU"),
    Row("tar_stream", "reads/archives", "tar, stream of 30 MB", 0.7, 0.35, moved=32),
    Row("random_small", "reads/medium", "40 reads of 1 KB at random in 20 MB", 2.0, unit="MB moved"),
    Row("eight_at_once", "reads/eight", "8 files of 96 MiB at once, a MiB at a time", 320.0, unit="MiB of memory", moved=890),
)  # fmt: skip
_NAMES: Final = tuple(row.name for row in ROWS)

NEEDS = tuple(dict.fromkeys(row.repo for row in ROWS))


def needs(options: Options) -> list[str]:
    """The repositories of the rows that the options name."""
    return [row.repo for row in ROWS if options.wants(row.name, _NAMES)]


def bench(rig: Rig) -> list[Result]:
    """Run the rows, or those that the options name.

    Raises:
        RuntimeError: nginx cannot delay its answers.
    """
    if "link" not in rig.servers.nginx.hubs:
        raise RuntimeError("reads need nginx's echo module (apt-get install libnginx-mod-http-echo)")
    results = []
    for row in ROWS:
        if not rig.options.wants(row.name, _NAMES):
            continue
        lacking = [each for each in row.loaders if find_spec(each) is None]
        if lacking:
            rig.missing[row.name] = f"{', '.join(lacking)} not installed (extra loaders)"
            continue
        results.append(_row(rig, row))
    return results


def _row(rig: Rig, row: Row) -> Result:
    result = Result(row.name, row.title, unit="s", limit=row.limit)
    ours, theirs = (
        rig.reader(row.what, row.repo, protocol, name) for protocol, name in (("haul", OURS), ("hf", THEIRS))
    )
    truth = _truth(rig, replace(ours, argv=rig.reader(row.what, row.repo, "file", "truth").argv))
    nbytes = row.copies * rig.nbytes(row.repo)
    rig.compare(result, [ours, theirs if rig.options.peers else None], nbytes)
    for samples in result.samples.values():
        for sample in samples:
            answer = sample.extra.pop("answer", None)
            if sample.error is None and answer != truth:
                sample.error = f"read {answer} instead of {truth}"
    figures = {row.unit: row.reach, **({} if row.moved is None else {"MB moved": row.moved})}
    result.goals = [
        Goal(f"{row.title}, {unit}", result.of(OURS, _FIGURES[unit]), most, at_least=False)
        for unit, most in figures.items()
    ]
    result.unit = row.unit
    return result


def _truth(rig: Rig, tool: Tool) -> str:
    """What the same loader reads from the folder."""
    rig.clear_out()
    done = run_tool(tool, nbytes=0, servers=(), cwd=rig.out, timeout=rig.options.timeout, every_byte=False)
    if done.error is not None:
        raise RuntimeError(f"{tool.argv}: {done.error}")
    return str(done.extra["answer"])
