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

``census`` says which workers of a cluster become nodes, and ``coordinator`` sees to it that each of these
runs somewhere until it has its files. ``control`` is what it needs of a scheduler. ``node_work`` is done on
the workers, ``progress`` tells of all nodes in one place, and ``distribution`` is what it comes to.

May import everything below, and ``localhub``. What a scheduler or a server needs (dask, ray, aiohttp) is
imported by the modules that use it, when they are used: importing this package needs none of it.

Invariants kept here:

3. A node's files appear in its cache only verified, whoever sent their bytes.
6. The Hub's token goes to the Hub only; nodes know each other by a token of the job's own.
"""

from __future__ import annotations

__all__: list[str] = []
