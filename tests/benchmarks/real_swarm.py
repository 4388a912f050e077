"""The job of six nodes that the simulation is checked against: real agents, each a process of its own, on this machine.

``python -m tests.benchmarks.real_swarm`` from the top of the repository takes five minutes. The Hub sends at a pace for all together, and
each node at one of its own; they are low, so that two processors have time left. Exit code 1 if seconds or the uplink's bytes are
further than a fifth from what the simulation gives. To its seconds come those in which real nodes fetch next to nothing: they open a
cache, and say hello.

The case ``slow`` compares real jobs with each other, one of whose nodes sends and takes at a tenth of the others' pace in every second
one. Exit code 1 if it delays the others by more than a fifth, or the uplink carries more than 1.05 x the size.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks.sim_swarm import MIB, distributed
from tests.benchmarks.swarm_model import Setting
from tests.support.node_processes import NodeProcesses
from tests.support.repos import random_bytes

from hf_haul.cluster.plan import make_plan
from hf_haul.localhub import LocalHub, Repo

__all__ = ["CASES", "main", "measured", "setting_of"]

NODES: Final = 6
SIZE: Final = 48 * MIB
STRIPE: Final = MIB // 2
#: MB/s of the Hub, and of each node: where the uplink is the narrowest, and where the nodes are.
CASES: Final = {"uplink": (8.0, 16.0), "nodes": (16.0, 6.0)}
#: How far the simulation may be off.
ALLOWED: Final = 0.2
#: What a slow node's network does of what the others' do, and the bytes of the job that it takes part in: for less, what nodes take to
#: begin would be much of the time.
SLOW_PACE: Final = 0.1
SLOW_SIZE: Final = 64 * MIB
#: How much longer it may take the others, and what the uplink may carry of the size.
MOST_DELAY: Final = 1.2
MOST_BYTES: Final = 1.05
#: Seconds that a node may take.
_LONGEST: Final = 180.0
#: What a node can take over loopback.
_TAKES: Final = 1e9
#: Seconds from a request to the first byte of its answer: all of it is on one machine.
_DELAY: Final = 0.003


def setting_of(case: str, size: int = SIZE, nodes: int = NODES) -> Setting:
    """Return the setting to simulate, and to make."""
    uplink, nic = (each * 1e6 for each in CASES[case])
    stripes = [min(STRIPE, size - start) for start in range(0, size, STRIPE)]
    return Setting(nodes, stripes, uplink, nic, takes=_TAKES, origin_delay=_DELAY, peer_delay=_DELAY)


def measured(setting: Setting) -> tuple[float, int]:
    """Run a job; return the seconds of the last node at its pace, and the bytes that the Hub has sent until all had all."""
    repo = Repo("org/model")
    repo.commit({"model.safetensors": random_bytes(setting.size, 1)})
    with tempfile.TemporaryDirectory() as folder, LocalHub(repo) as hub, NodeProcesses(Path(folder)) as nodes:
        hub.set_pace(None, total=setting.uplink)
        names = [f"n{number}" for number in range(setting.nodes)]
        plan = make_plan("org/model", nodes=names, endpoint=hub.url, token=False, stripe_bytes=STRIPE)
        before = hub.body_bytes
        paces = {names[number]: int(setting.nic * SLOW_PACE) for number in setting.slow}
        with nodes.running(plan, rate=setting.nic, paces=paces) as started:
            results = {name: node.result(_LONGEST) for name, node in started.items()}
        failed = [result["error"] for result in results.values() if result["error"] is not None]
        if failed:
            raise RuntimeError(f"a node failed: {failed[0]}")
        last = max(result["seconds"] for name, result in results.items() if name not in paces)
        return last, hub.body_bytes - before


def slowed(rounds: int) -> bool:
    """Run jobs with and without a slow node in turn; return whether it delays the others little, and costs the Hub little."""
    level = replace(setting_of("uplink", size=SLOW_SIZE), takes=CASES["uplink"][1] * 1e6)
    setting = replace(level, slow=frozenset({NODES // 2}))
    pairs = [(measured(level), measured(setting)) for _ in range(rounds)]
    delay = median(with_it[0] / without[0] for without, with_it in pairs)
    nbytes = median(with_it[1] for _, with_it in pairs) / SLOW_SIZE
    told = ", ".join(f"{without[0]:.2f} and {with_it[0]:.2f}" for without, with_it in pairs)
    simulated = distributed(setting)
    print(
        f"slow: one of {NODES} nodes at a tenth of the pace: the others take {delay:.2f} x as long ({told} s), and the uplink carries "
        f"{nbytes:.3f} x the size; simulated {simulated.last / distributed(level).last:.2f} x and "
        f"{simulated.origin_bytes / SLOW_SIZE:.3f} x",
        flush=True,
    )
    return delay <= MOST_DELAY and nbytes <= MOST_BYTES


def main(argv: Sequence[str] | None = None) -> int:
    """Run and simulate all cases; 0 if they agree."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.real_swarm", description=__doc__)
    parser.add_argument("--case", action="append", choices=(*CASES, "slow"), help="may be repeated (all)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="runs, of which the median counts (%(default)s)"
    )
    given = parser.parse_args(argv)
    agree = True
    for case in given.case or (*CASES, "slow"):
        if case == "slow":
            agree = slowed(given.rounds) and agree
            continue
        setting = setting_of(case)
        begin = median(measured(setting_of(case, size=1))[0] for _ in range(given.rounds))
        runs = [measured(setting) for _ in range(given.rounds)]
        seconds, nbytes = (median(values) for values in zip(*runs, strict=True))
        outcome = distributed(setting)
        off = [seconds / (begin + outcome.last) - 1, nbytes / outcome.origin_bytes - 1]
        agree = agree and max(map(abs, off)) <= ALLOWED
        print(
            f"{case}: really {seconds:.2f} s, {begin:.2f} s of them until nodes begin, and {nbytes / SIZE:.3f} x the size over the "
            f"uplink; simulated {outcome.last:.2f} s and {outcome.origin_bytes / SIZE:.3f} x. "
            f"Off by {off[0]:+.0%} and {off[1]:+.0%}; the best is {setting.bound:.2f} s",
            flush=True,
        )
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
