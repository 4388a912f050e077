"""One repository onto many machines: each part fetched once, and the rest exchanged among them.

``plan`` says what a job consists of: a listing at one commit, the files that were chosen, the nodes. Its
blobs are cut into ``stripes``, each of which has a *home*: the node that fetches it from the origin.
``shares`` is the policy of one node: which stripe it fetches next, and from whom. It goes by what the others
announce (``known_nodes``, ``node_state``, with sets of stripes as ``bitmaps``), and by how far the ``homes``
are. ``assigner`` joins that to the engine. ``results`` is what became of each node, and how it crosses from
one machine to another.

On each node, ``serving`` answers the others, with what ``holdings`` finds of the blobs, in place or staged,
and ``polling`` asks them how far they are. Both live in one event loop, in a thread of its own
(``loop_thread``). ``job_node`` is what the node knows, for them and for its engine, ``node_files`` what it
has of the files, ``copies`` how a second file of the same bytes comes about. ``agent`` is all of it: the
node. Nodes that no scheduler started find each other by a list (``peer_list``), and come to one plan by
asking (``peer_plans``).

``distributing`` is ``distribute``, for clusters of Dask and Ray; ``distribution`` is what that comes to.
``census`` says which workers become nodes, and ``coordinator`` sees to it that each of these runs somewhere
until it has its files. ``control`` is what it needs of a scheduler; ``dask`` and ``ray`` are the two there
are. ``node_work`` is done on the workers, and ``progress`` tells of all nodes in one place.

May import everything below, and ``localhub``. What a scheduler or a server needs (dask, ray, aiohttp) is
imported by the modules that use it, when they are used: importing this package needs none of it.

Invariants kept here:

3. A node's files appear in its cache only verified, whoever sent their bytes.
6. The Hub's token goes to the Hub only; nodes know each other by a token of the job's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hf_haul.cluster.control import ControlLostError
    from hf_haul.cluster.distributing import distribute
    from hf_haul.cluster.distribution import Distribution, DistributionError
    from hf_haul.cluster.results import NodeError, NodeResult

__all__ = ["ControlLostError", "Distribution", "DistributionError", "NodeError", "NodeResult", "distribute"]

#: Where each public name is defined.
_HOMES: Final = {
    "ControlLostError": "control",
    "Distribution": "distribution",
    "DistributionError": "distribution",
    "NodeError": "results",
    "NodeResult": "results",
    "distribute": "distributing",
}


def __getattr__(name: str) -> Any:
    """Return a public name, and import its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
