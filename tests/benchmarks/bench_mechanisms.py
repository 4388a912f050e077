"""What each mechanism that could be missing buys: the same work with it and without it, in pairs of runs.

A mechanism stays only if an interval of the ratio lies above 1.10; see :mod:`tests.benchmarks.pairs`. Some rows alone:
``python -m tests.benchmarks --only mechanisms --row thrift --row eyeballs-dead-address-plain``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.benchmarks.harness import MB, MIB, Result, Sample, Tool
from tests.benchmarks.pairs import Comparison
from tests.benchmarks.rig import Options, Rig
from tests.benchmarks.servers import PACE, TWO_ADDRESSES, dead_address

__all__ = ["ROWS", "Row", "bench", "needs"]

#: Repositories, and what is in them.
_CONTENTS: Final[Mapping[str, str]] = {
    "bench/half": "1 GiB",
    "bench/quarter": "256 MiB",
    "bench/one": "64 MiB",
    "bench/sixteen": "16 x 64 MiB",
    "bench/thousand": "1,000 x 20 KiB with the Hub's metadata",
    "bench/mixed": "1 GiB, 8 x 100 MiB and 1,000 x 20 KiB",
}

#: Seconds from the kill of one process to the start of the next, where that is not at once.
_LATER: Final = 6.0
_KILL_WITHIN: Final = 60.0

SECONDS: Final = "seconds"
PROCESSOR: Final = "processor seconds"
RECEIVED: Final = "MiB received"
_FIGURES: Final[Mapping[str, Callable[[Sample], float]]] = {
    SECONDS: lambda sample: sample.seconds,
    PROCESSOR: lambda sample: sample.user + sample.system,
    RECEIVED: lambda sample: sample.extra["received"] / MIB,
}


@dataclass(frozen=True)
class Row:
    """One work with a mechanism and without it.

    Attributes:
        mechanism: What it is about: one of ``switches``, or ``sequential-resume``.
        work: What is done; see ``_WORKS``.
        tls: Whether over TLS.
        connections: The most that are allowed, for downloads and reads.
        counts: Whether the mechanism acts here at all. If not, the row shows how exact the others can be.
    """

    mechanism: str
    work: str
    tls: bool
    connections: int
    counts: bool = True

    @property
    def name(self) -> str:
        """Short, for ``--row``."""
        return f"{self.mechanism}-{self.work}-{'tls' if self.tls else 'plain'}-{self.connections}"

    @property
    def title(self) -> str:
        """The work in words."""
        work = _WORKS[self.work]
        most = "1 connection" if self.connections == 1 else f"{self.connections} connections"
        return f"{_CONTENTS[self.repo]}{work.title}, {'TLS' if self.tls else 'plain HTTP'}, {most} allowed"

    @property
    def repo(self) -> str:
        """What is fetched."""
        one, many = _WORKS[self.work].repos
        return one if self.connections == 1 else many

    @property
    def origin(self) -> str:
        """Where from."""
        return _WORKS[self.work].origins[self.tls]


@dataclass(frozen=True)
class _Work:
    """Something to be done.

    Attributes:
        title: What follows the name of what is fetched.
        repos: What is fetched with one connection, and with more.
        origins: Where from, without TLS and with it.
        tool: Makes the program that does it.
        figures: What a user notices of it.
        env: Changes to the environment.
        prepare: Done before each run of a tool.
        around: What is the matter meanwhile.
    """

    title: str
    repos: tuple[str, str]
    origins: tuple[str, str]
    tool: Callable[[Rig, str, str], Tool]
    figures: tuple[str, ...] = (SECONDS, PROCESSOR)
    env: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Rig, Row, Tool], dict[str, Any]] | None = None
    around: Callable[[Rig, Row], AbstractContextManager[object]] | None = None

    @property
    def has_fault(self) -> bool:
        """Whether something is the matter that a program may not get over."""
        return self.prepare is not None or self.around is not None


def needs(options: Options) -> list[str]:
    """The repositories of the rows that the options name."""
    return [row.repo for row in ROWS if options.wants(row.name, _NAMES)]


def bench(rig: Rig) -> list[Result]:
    """Run the rows, or those that the options name."""
    rows = [row for row in ROWS if rig.options.wants(row.name, _NAMES)]
    for mechanism in dict.fromkeys(row.mechanism for row in rows if row.mechanism != "sequential-resume"):
        rig.require_switch(mechanism)
    if any(row.mechanism == "attributes" for row in rows) and not _keeps_attributes(rig.folder):
        rig.missing["attributes"] = f"{rig.folder} keeps no extended attributes; see --folder"
    return [_run(rig, row) for row in rows if row.mechanism not in rig.missing and not _lacks_tls(rig, row)]


def _lacks_tls(rig: Rig, row: Row) -> bool:
    return row.tls and "TLS" in rig.missing


def _keeps_attributes(folder: Path) -> bool:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        try:
            os.setxattr(file.fileno(), "user.hf_haul.try", b"1")
        except OSError:
            return False
    return True


def _run(rig: Rig, row: Row) -> Result:
    work = _WORKS[row.work]
    result = Result(row.name, row.title, unit="s")
    made = work.tool(rig, row.repo, row.origin)
    limits = {f"HF_HAUL_MAX_{what}CONNECTIONS": str(row.connections) for what in ("", "READ_")}
    made = replace(made, name="hf-haul", env={**made.env, **work.env, **limits})
    tools = [made, _without(made, row.mechanism)]
    if work.prepare is not None:
        tools = [replace(tool, prepare=partial(work.prepare, rig, row, tool)) for tool in tools]
    with contextlib.nullcontext() if work.around is None else work.around(rig, row):
        rig.compare_pairs(result, tools, rig.nbytes(row.repo))
    ours, theirs = (tool.name for tool in tools)
    result.forget("done")  # a line for each of a thousand files
    result.comparisons = [
        Comparison(
            row.mechanism,
            row.title,
            figure,
            result.pairs(ours, theirs, _FIGURES[figure], least=rig.options.pairs, for_ever=work.has_fault),
            (result.failures(ours), result.failures(theirs)),
            row.counts,
        )
        for figure in work.figures
    ]
    if not row.counts:
        result.notes.append(f"{row.mechanism} does nothing here: this is how exact the other rows can be")
    return result


def _without(tool: Tool, mechanism: str) -> Tool:
    name = f"without {mechanism}"
    if mechanism == "sequential-resume":
        return replace(tool, name=name, env={**tool.env, "HF_HAUL_ENABLE_RESUME": "0"})
    return Rig.without(tool, mechanism, name)


# ---- faults


def _where_locks_lie(rig: Rig, repo: str, origin: str) -> Tool:
    return Rig.without(rig.manager(repo, origin), "locks", "hf-haul")


def _dialing(rig: Rig, repo: str, origin: str) -> Tool:
    names = {TWO_ADDRESSES: ["127.0.0.2", "127.0.0.1"]}
    return rig.manager(repo, origin, host=TWO_ADDRESSES, names=names)


def _first_address_dead(rig: Rig, row: Row) -> AbstractContextManager[object]:
    port = urlsplit(rig.servers.nginx.origins[row.origin]).port
    assert port is not None
    return dead_address(port)


def _kill(rig: Rig, _row: Row, tool: Tool, *, wait: float = 0.0) -> dict[str, Any]:
    """Run a tool until half of its bytes are there, and kill it."""
    process = subprocess.Popen(
        tool.argv, env={**os.environ, **tool.env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + _KILL_WITHIN
    try:
        while (staged := _staged(rig.out)) < (tool.nbytes or 0) / 2:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no half of the bytes to be seen: {staged} of {tool.nbytes}")
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    staged = _staged(rig.out)
    time.sleep(wait)
    return {"staged": staged}


def _staged(folder: Path) -> int:
    """Bytes of files that are staged in order."""
    total = 0
    for path in folder.rglob("*.incomplete"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


_PACE: Final = f" at {PACE // MB} MB/s per connection"
_SEQUENTIAL: Final = {"HF_HAUL_WRITE_MODE": "sequential"}
_KILLED = _Work(
    f" in sequential mode{_PACE}, by whoever starts when another was killed half-way",
    ("bench/one", "bench/sixteen"),
    ("paced", "paced-tls"),
    Rig.manager,
    (SECONDS, RECEIVED),
    _SEQUENTIAL,
    _kill,
)
_WORKS: Final[Mapping[str, _Work]] = {
    "large": _Work(", no cap", ("bench/half", "bench/half"), ("plain", "tls"), Rig.haul),
    "mixed": _Work(" in one queue, no cap", ("bench/mixed", "bench/mixed"), ("plain", "tls"), Rig.manager),
    "dead-address": _Work(
        " from a name whose first address is dead",
        ("bench/one", "bench/sixteen"),
        ("plain", "tls"),
        _dialing,
        (SECONDS,),
        around=_first_address_dead,
    ),
    "killed": _KILLED,
    "killed-later": replace(
        _KILLED, title=f"{_KILLED.title} {_LATER:.0f} s before", prepare=partial(_kill, wait=_LATER)
    ),
    "killed-no-locks": replace(
        _KILLED, title=f"{_KILLED.title}, where every lock can be taken", tool=_where_locks_lie
    ),
}  # fmt: skip


def _grid(mechanism: str, *works: str) -> Iterator[Row]:
    """Each work on plain HTTP and over TLS, with one connection and with sixteen."""
    for work in works:
        for tls in (False, True):
            for connections in (1, 16):
                yield Row(mechanism, work, tls, connections)


ROWS: Final[tuple[Row, ...]] = (
    # Fewer than one connection are never tried, and beside those of a cap or of small files the processor is not short.
    Row("thrift", "large", tls=False, connections=1, counts=False),
    Row("thrift", "large", tls=False, connections=16),
    Row("thrift", "large", tls=True, connections=16),
    Row("thrift", "mixed", tls=False, connections=16),
    Row("thrift", "mixed", tls=True, connections=16),
    *_grid("eyeballs", "dead-address"),
    *_grid("attributes", "killed"),
    Row("attributes", "killed-later", tls=False, connections=1),
    Row("attributes", "killed-no-locks", tls=False, connections=1),
    *_grid("sequential-resume", "killed"),
)
_NAMES: Final = tuple(row.name for row in ROWS)
