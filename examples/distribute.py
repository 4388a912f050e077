"""Download a repository onto all machines of a Dask cluster, each part from the Hub once.

    python examples/distribute.py org/model --scheduler tcp://head:8786
    python examples/distribute.py              # shows it on this machine: three workers, and a Hub of its own

Needs the extra "dask": pip install "hf-haul[dask]". The workers need the same version of hf-haul.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from hf_haul.cluster import Distribution, distribute
from hf_haul.localhub import LocalHub, Repo

SIZE = 16 << 20  # bytes of the file that is shown


def show(event: Mapping[str, Any]) -> None:
    """Print how far all nodes together are, and how each of them ends."""
    node = event.get("node")
    if node is None and event["ev"] == "progress":
        print(f"{event['done']} of {event['total']} bytes at {event['rate'] / 1e6:.0f} MB/s")
    elif node is not None and event["ev"] in {"done", "error"}:
        print(f"{node}: {event.get('message', 'done')}")


@contextmanager
def three_workers() -> Iterator[tuple[Client, dict[str, Any]]]:
    """Yield a cluster on this machine, and what `distribute` has to be told to use it."""
    with tempfile.TemporaryDirectory() as folder:
        repo = Repo("acme/tiny")
        repo.commit({"model.safetensors": os.urandom(SIZE), "config.json": b"{}"})
        with (
            LocalHub(repo) as hub,
            LocalCluster(
                n_workers=3, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0
            ) as cluster,
            Client(cluster) as client,
        ):
            # Workers of one machine are one node, unless each has a cache of its own.
            own = {"per": "worker", "cache_dir": Path(folder, "{node}")}
            yield client, {"endpoint": hub.url, "token": False, **own}


def tell(found: Distribution) -> None:
    """Print what became of each node, and what the Hub had to send."""
    for name, result in found.nodes.items():
        print(f"{name}: {result.origin_bytes} bytes from the Hub, {result.peer_bytes} from other nodes")
        print(f"  {result.error or result.path}")
    print(f"the Hub sent {found.origin_bytes} bytes to {len(found.nodes)} nodes")


def main() -> int:
    """Return 0 if every node has its files."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("repo_id", nargs="?")
    options.add_argument("--scheduler", help="the address of Dask's scheduler")
    arguments = options.parse_args()
    if arguments.scheduler is None:
        with three_workers() as (client, more):
            found = distribute(client, "acme/tiny", on_event=show, **more)
    else:
        with Client(arguments.scheduler) as client:
            found = distribute(client, arguments.repo_id, on_event=show)
    tell(found)
    return 1 if found.errors else 0


if __name__ == "__main__":
    sys.exit(main())
