"""All rows, or those named by ``--only``, in one run.

``python -m tests.benchmarks`` from the top of the repository. It needs nginx; it says which other programs it did not
find. Rows take between half a minute and a few minutes each; ``--quick`` shows in two minutes that everything works.

``--only mechanisms`` and ``--only fixed`` compare hf-haul with itself, in pairs of runs: without a mechanism, and with fixed
numbers of connections. ``--only reads`` has loaders read through ``haul://`` and through ``hf://``; it needs the extra ``loaders``.
``--only million`` lists and queues a repository of a million small files.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from tests.benchmarks import report
from tests.benchmarks.harness import Result
from tests.benchmarks.rig import Options, rig_for

MODULES = (
    "single",
    "upstream",
    "paced",
    "sources",
    "small",
    "request",
    "loader",
    "queue",
    "mixed",
    "stop",
    "verify",
    "drawing",
    "start",
)
#: Those of pairs, which take an hour or more; run if named.
LONG = ("mechanisms", "fixed")
#: Takes minutes, and a GiB or two of memory; run if named.
MILLION = "million"
#: A quarter of an hour for each round, and more packages than the others; run if named.
READS = "reads"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    default = Options()
    parser.add_argument(
        "--only",
        action="append",
        choices=(*MODULES, MILLION, READS, *LONG),
        metavar="NAME",
        help=f"one of {', '.join((*MODULES, MILLION, READS, *LONG))}; the last {2 + len(LONG)} take long, and run only if named",
    )
    parser.add_argument(
        "--pairs", type=int, default=default.pairs, help=f"the same for {' and '.join(LONG)} (%(default)s)"
    )
    parser.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="TEXT",
        help=f"only those rows of {', '.join((READS, *LONG))} that are called this, or else have it in their name",
    )
    parser.add_argument(
        "--no-peers", action="store_true", help=f"leave huggingface_hub's filesystem out of {READS}"
    )
    parser.add_argument("--rounds", type=int, default=default.rounds, help="runs of each tool (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark-results"), help="folder for JSON and plot"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the bytes, one round: a check of the harness"
    )
    parser.add_argument(
        "--patience", type=float, default=default.patience, help="seconds to wait for a quiet machine"
    )
    parser.add_argument("--timeout", type=float, default=default.timeout, help="seconds one run may take")
    parser.add_argument(
        "--folder", type=Path, default=default.folder, help="where files are made (%(default)s)"
    )
    parser.add_argument("--src", type=Path, default=default.src, help="the hf_haul to measure (%(default)s)")
    parser.add_argument(
        "--as-is",
        action="store_true",
        help="leave memory and the servers' congestion control as this machine has them",
    )
    given = parser.parse_args(argv)
    if min(given.rounds, given.pairs) < 1:
        parser.error("there has to be at least one round, and one pair")
    return given


def _needs(module: ModuleType, options: Options) -> Sequence[str]:
    """The repositories of a module, or of those of its rows that were chosen."""
    needs: Sequence[str] = module.needs(options) if hasattr(module, "needs") else module.NEEDS
    return needs


def main(argv: list[str] | None = None) -> int:
    """Run; 0 when every goal that could be measured was reached, 1 when not, 2 when nothing could run."""
    given = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end and gigabytes are removed
    options = Options(
        rounds=1 if given.quick else given.rounds,
        pairs=1 if given.quick else given.pairs,
        rows=given.row,
        peers=not given.no_peers,
        quick=given.quick,
        patience=0.0 if given.quick else given.patience,
        timeout=given.timeout,
        folder=given.folder,
        src=given.src.resolve(),
        as_is=given.as_is,
    )
    modules: list[ModuleType] = [
        importlib.import_module(f"tests.benchmarks.bench_{name}") for name in (given.only or MODULES)
    ]
    results: list[Result] = []
    missing: dict[str, str] = {}
    try:
        with rig_for(options, [repo for module in modules for repo in _needs(module, options)]) as rig:
            missing = rig.missing
            for module in modules:
                results += module.bench(rig)
                report.save(results, missing, given.out)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was measured so far:", file=sys.stderr)
    for result in results:
        print("\n" + report.table(result))
    for text in (
        report.goals_table(results),
        report.reads_table(results),
        report.pairs_table(results),
        *report.verdict_lines(results),
    ):
        if text:
            print("\n" + text)
    for name, why in missing.items():
        print(f"missing: {name}: {why}")
    print(f"saved: {report.save(results, missing, given.out)}")
    picture = report.plot(results, given.out)
    print(f"saved: {picture}" if picture else "no plot: nothing to compare, or no matplotlib")
    return 0 if all(goal.reached is not False for result in results for goal in result.goals) else 1


if __name__ == "__main__":
    raise SystemExit(main())
