"""A small, read-only Hub over folders, commits made in a program, or an existing Hub cache.

For sharing models on a local network, and for tests: it speaks to `huggingface_hub` as the real
Hub does, counts what it sends, and fails on demand:

    from hf_haul.localhub import Account, LocalHub, Repo
    from hf_haul.localhub.faults import Cut

    repo = Repo.from_folder("weights/tiny", "org/tiny")  # or Repo("org/tiny") and .commit({...})
    repo.tag("v1")
    with LocalHub(repo, accounts=[Account("ann", "hf_ann")]) as hub:  # two ports, its own thread
        hub.set_pace(50e6)  # bytes per second of each connection
        cut = hub.faults.add(Cut(after=100_000), kind="cdn", path="*.safetensors", times=2)
        snapshot_download("org/tiny", endpoint=hub.url)
        assert cut.hits == 2
        assert all(request.token is None for request in hub.requests.of("cdn"))

What to look at: `Repo` (commits, tags, branches, ``refs/pr/1``; private, gated, disabled), `Account` (tokens
and what they open), `HubOptions` (where real hubs and mirrors differ; keyword arguments of `LocalHub`),
`LocalHub` (``url``, ``cdn_url``, ``requests``, ``faults``, ``limits``, ``set_pace``, ``set_latency``,
``expire_urls``, ``rename``, ``body_bytes``, ``open_connections``), `RequestLog` and `RequestRecord`,
`find_repos` (those of a folder or a Hub cache, which follow it), `share` and `serve` (the same, for the
machines around), and the module `hf_haul.localhub.faults`.

Inside, answers are values (`replies`): the routes compute them and do no I/O, faults change them,
and `sending` alone puts them on the wire, at a `pace`, with sendfile wherever nothing is in its way.

``server`` runs a hub and ``connections`` its connections; ``app`` takes one request from ``routing`` to its
answer, which ``routes_api``, ``routes_files`` and ``listings`` compute, ``access`` and ``hosts`` may
refuse, and ``requestlog`` notes. ``options`` and ``timings`` are how it behaves, ``signing`` makes its
links. What it serves: ``catalog`` holds each ``repository``, its ``trees`` and ``objects``; ``folder_repo``
and ``cache_repo`` follow the disk (``following``), in ``folders`` that ``discovery`` finds and
``confinement`` keeps to; ``sharing`` is all of this for other machines. ``site`` is what others add to a hub:
pages, a look at its requests, another hub to ask; ``arriving`` is what they fetch while it is sent.

It stands apart from the rest: of hf_haul it may import ``errors`` and ``config`` and nothing else, so that it
shares no mistake with the client. What makes it fail on purpose is in ``testing``.
"""

from __future__ import annotations

try:
    import aiohttp as _aiohttp  # noqa: F401  only to say early, and clearly, that it is missing
except ImportError as error:
    raise ImportError(
        'The local hub needs aiohttp, which is an optional extra: pip install "hf-haul[serve]"'
    ) from error

from hf_haul.localhub.access import Account
from hf_haul.localhub.discovery import find_repos
from hf_haul.localhub.objects import BytesContent, Content, DigestCache, FileContent
from hf_haul.localhub.options import HubOptions
from hf_haul.localhub.repository import Repo
from hf_haul.localhub.requestlog import RequestLog, RequestRecord
from hf_haul.localhub.server import LocalHub
from hf_haul.localhub.sharing import serve, share
from hf_haul.localhub.trees import Commit

__all__ = [
    "Account",
    "BytesContent",
    "Commit",
    "Content",
    "DigestCache",
    "FileContent",
    "HubOptions",
    "LocalHub",
    "Repo",
    "RequestLog",
    "RequestRecord",
    "find_repos",
    "serve",
    "share",
]
