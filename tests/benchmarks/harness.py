"""Runs one program at a time, each in a process of its own, and says what it cost."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.benchmarks.pairs import ENOUGH, Comparison

__all__ = ["GB", "KIB", "MB", "MIB", "Goal", "Result", "Sample", "Tool", "middle", "quiet", "run_tool"]

MB: Final = 10**6
GB: Final = 10**9
KIB: Final = 1 << 10
MIB: Final = 1 << 20

#: Cores that other processes may use during a run before it counts as disturbed.
DISTURBED: Final = 0.3
#: Share of all cores that may be busy before a run starts.
QUIET: Final = 0.14
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Tool:
    """One program with its arguments.

    Attributes:
        name: As the tables show it.
        argv: What is started.
        env: Changes to the environment.
        check: Raises if what it left on disk is not what was asked for; told whether to look at every byte.
        reports: Whether it prints a JSON object with its own times, as ``client.py`` does. Without, the whole
            process counts, which for a command is what a user waits for.
        nbytes: Bytes it moves; the work's own number if ``None``.
        prepare: Done before the clock starts; gives what is to be kept with the sample.
        after: Done when it has ended, however; the same.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[bool], None] | None = None
    reports: bool = False
    nbytes: int | None = None
    prepare: Callable[[], dict[str, Any]] | None = None
    after: Callable[[], dict[str, Any]] | None = None


@dataclass
class Sample:
    """One run.

    Attributes:
        seconds: Wall time.
        nbytes: Bytes moved.
        user: Processor seconds in user mode.
        system: Processor seconds in the kernel.
        peak_mib: Peak resident memory in MiB.
        base_mib: The same before the work began, where the program says it.
        server: Processor seconds of the servers.
        others: Cores that processes outside the benchmark kept busy meanwhile.
        error: Why it failed, if it did.
        gave_up: Whether it failed by itself, or took too long. If not, something was the matter with the measurement.
        extra: What else the program reported.
    """

    seconds: float
    nbytes: int
    user: float = 0.0
    system: float = 0.0
    peak_mib: float = 0.0
    base_mib: float = 0.0
    server: float = 0.0
    others: float = 0.0
    error: str | None = None
    gave_up: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether it succeeded, and nobody else used the machine to speak of."""
        return self.error is None and self.undisturbed

    @property
    def undisturbed(self) -> bool:
        """Whether nobody else used the machine to speak of."""
        return self.others <= DISTURBED

    @property
    def speed(self) -> float:
        """MB/s."""
        return self.nbytes / self.seconds / MB if self.seconds else 0.0

    @property
    def cpu_per_gb(self) -> float:
        """Processor seconds per GB."""
        return (self.user + self.system) / (self.nbytes / GB) if self.nbytes else 0.0


@dataclass(frozen=True)
class Goal:
    """What a row has to reach.

    Attributes:
        text: The goal in words.
        value: What was measured; ``None`` where a peer is missing or failed.
        wanted: The bound.
        at_least: Whether the bound is a lower one.
    """

    text: str
    value: float | None
    wanted: float
    at_least: bool = True

    @property
    def reached(self) -> bool | None:
        """Whether; ``None`` if there was nothing to compare with."""
        if self.value is None:
            return None
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted


@dataclass
class Result:
    """One row of the table of goals.

    Attributes:
        name: Short, for ``--only`` and file names.
        title: The work in words.
        unit: ``MB/s``, ``files/s``, ``s``, or ``ms`` of processor time for each thing: what the table's first
            column shows.
        samples: Runs by tool.
        goals: What was to be reached.
        notes: What a reader has to know.
        scale: How many of the unit's things one run handles, for ``files/s`` and ``ms``.
        comparisons: What pairs of runs said.
        limit: Seconds below which nobody comes, where it is known.
    """

    name: str
    title: str
    unit: str = "MB/s"
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scale: int = 1
    comparisons: list[Comparison] = field(default_factory=list)
    limit: float | None = None

    def value(self, sample: Sample) -> float:
        """A run as a number of the unit."""
        if self.unit == "MB/s":
            return sample.speed
        if self.unit == "files/s":
            return self.scale / sample.seconds
        if self.unit == "ms":
            return 1000 * (sample.user + sample.system) / self.scale
        return sample.seconds

    def usable(self, tool: str) -> list[Sample]:
        """The undisturbed runs of a tool, or all that worked where there is no undisturbed one."""
        good = [each for each in self.samples.get(tool, []) if each.error is None]
        return [each for each in good if each.clean] or good

    def of(self, tool: str, get: Callable[[Sample], float] | None = None) -> float | None:
        """The median over a tool's runs: of the unit, or of what ``get`` reads."""
        return middle([(get or self.value)(each) for each in self.usable(tool)])

    def ratio(self, ours: str, theirs: str) -> float | None:
        """How many times the number of ``theirs`` that of ``ours`` is."""
        left, right = self.of(ours), self.of(theirs)
        return left / right if left is not None and right else None

    def turns(self, *tools: str) -> list[tuple[Sample, ...]]:
        """The runs of these tools, one of each in every round."""
        return list(zip(*(self.samples.get(tool, []) for tool in tools), strict=False))

    def pairs(
        self,
        first: str,
        second: str,
        get: Callable[[Sample], float] | None = None,
        *,
        least: int = ENOUGH,
        for_ever: bool = False,
    ) -> list[tuple[float, float]]:
        """What is said of the two runs of each round that both succeeded.

        Args:
            first: One tool.
            second: Another.
            get: What to read of a run; the unit if ``None``.
            least: Rounds in which somebody disturbed a run are left out if there are so many others.
            for_ever: Whether a program that gave up while the other one succeeded took for ever. If not, that round is
                left out.
        """
        get = get or self.value
        turns = self.turns(first, second)
        calm = [turn for turn in turns if all(each.undisturbed for each in turn)]
        found = []
        for a, b in calm if len(calm) >= least else turns:
            if a.error is None and b.error is None:
                found.append((get(a), get(b)))
            elif for_ever and a.error is None and b.gave_up:
                found.append((get(a), math.inf))
            elif for_ever and b.error is None and a.gave_up:
                found.append((math.inf, get(b)))
        return found

    def seconds(self, tool: str) -> list[float]:
        """What each run of a tool took that succeeded."""
        return [each.seconds for each in self.samples.get(tool, []) if each.error is None]

    def forget(self, extra: str) -> None:
        """Drop something that the programs reported, so that it is not saved."""
        for samples in self.samples.values():
            for sample in samples:
                sample.extra.pop(extra, None)

    def failures(self, tool: str) -> int:
        """How many runs of a tool did not succeed."""
        return sum(each.error is not None for each in self.samples.get(tool, []))

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "limit": self.limit,
            "notes": self.notes,
            "goals": [{**asdict(goal), "reached": goal.reached} for goal in self.goals],
            "comparisons": [each.as_dict() for each in self.comparisons],
            "tools": {
                tool: {
                    "median": self.of(tool),
                    "cpu_seconds_per_gb": self.of(tool, lambda each: each.cpu_per_gb),
                    "peak_mib": self.of(tool, lambda each: each.peak_mib),
                    "runs": [asdict(each) for each in samples],
                }
                for tool, samples in self.samples.items()
            },
        }


def middle(values: Sequence[float]) -> float | None:
    """The median; ``None`` of nothing."""
    return median(values) if values else None


# ---- the machine


def _busy() -> float:
    """Processor seconds that anybody used since boot."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / _TICKS


def cpu_of(pid: int) -> float:
    """Processor seconds of a process so far; 0.0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def quiet(patience: float) -> None:
    """Wait until the machine is nearly idle, at most ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        before, began = _busy(), time.monotonic()
        time.sleep(0.25)
        share = (_busy() - before) / (time.monotonic() - began) / (os.cpu_count() or 1)
        if share <= QUIET or time.monotonic() >= deadline:
            return


class _Watch(threading.Thread):
    """Reads a process's peak memory until it ends; ``ru_maxrss`` would show ours where the process is small."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self.peak_kib = 0

    def run(self) -> None:
        while not self._over.wait(0.03):
            try:
                text = self._status.read_text()
            except OSError:
                return
            for line in text.splitlines():
                if line.startswith("VmHWM:"):
                    self.peak_kib = max(self.peak_kib, int(line.split()[1]))

    def stop(self) -> float:
        self._over.set()
        self.join()
        return self.peak_kib / 1024


def run_tool(
    tool: Tool,
    *,
    nbytes: int,
    servers: Sequence[int],
    cwd: Path,
    timeout: float,
    every_byte: bool,
) -> Sample:
    """Run one program to its end.

    Args:
        tool: The program.
        nbytes: Bytes it moves.
        servers: Process ids of the servers, whose processor time is shown apart.
        cwd: Where it runs.
        timeout: Seconds after which it is killed and counts as failed.
        every_byte: Whether to compare what it wrote byte by byte, after the clock has stopped.
    """
    nbytes = nbytes if tool.nbytes is None else tool.nbytes
    try:
        found = {} if tool.prepare is None else tool.prepare()
    except Exception as error:  # one broken tool must not end the whole run
        return Sample(0.0, nbytes, error=f"{type(error).__name__}: {error}")
    env = {**os.environ, **tool.env}
    before = {pid: cpu_of(pid) for pid in (*servers, os.getpid())}
    busy = _busy()
    began = time.monotonic()
    with (cwd / "stdout").open("wb") as out, (cwd / "stderr").open("wb") as err:
        process = subprocess.Popen(list(tool.argv), stdout=out, stderr=err, cwd=cwd, env=env)
    watch = _Watch(process.pid)
    watch.start()
    killer = threading.Timer(timeout, process.send_signal, [signal.SIGKILL])
    killer.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    killer.cancel()
    peak = watch.stop()
    busy = _busy() - busy
    spent = {pid: cpu_of(pid) - before[pid] for pid in before}
    ours = usage.ru_utime + usage.ru_stime + sum(spent.values())
    sample = Sample(
        seconds=seconds,
        nbytes=nbytes,
        user=usage.ru_utime,
        system=usage.ru_stime,
        peak_mib=peak,
        server=sum(spent[pid] for pid in servers),
        others=max(0.0, busy - ours) / seconds,
    )
    if tool.after is not None:
        found = {**found, **tool.after()}
    if process.returncode:
        sample.extra.update(found)
        tail = (cwd / "stderr").read_text(errors="replace").strip()[-600:]
        sample.gave_up = True
        sample.error = f"exit code {process.returncode} after {seconds:.1f} s: {tail}"
        return sample
    try:
        if tool.reports:
            _take_report(sample, (cwd / "stdout").read_text())
        sample.extra.update(found)
        if tool.check is not None:
            tool.check(every_byte)
    except Exception as error:  # one broken peer must not end the whole run
        sample.error = f"{type(error).__name__}: {error}"
    return sample


def _take_report(sample: Sample, text: str) -> None:
    report = json.loads(text.strip().splitlines()[-1])
    sample.seconds = report.pop("seconds")
    sample.user = report.pop("user")
    sample.system = report.pop("system")
    sample.peak_mib = report.pop("peak_mib")
    sample.base_mib = report.pop("base_mib")
    sample.extra = report
