"""A small, read-only Hub over folders, commits made in a program, or an existing Hub cache.

For sharing models on a local network, and for tests: it speaks to `huggingface_hub` as the real
Hub does, counts what it sends, and fails on demand::

    from hf_haul.localhub import LocalHub, Repo

    with LocalHub(Repo.from_folder("weights/tiny", "org/tiny")) as hub:
        snapshot_download("org/tiny", endpoint=hub.url)
"""

from __future__ import annotations

try:
    import aiohttp as _aiohttp  # noqa: F401  only to say early, and clearly, that it is missing
except ImportError as error:
    raise ImportError(
        'The local hub needs aiohttp, which is an optional extra: pip install "hf-haul[serve]"'
    ) from error

from hf_haul.localhub.access import Account
from hf_haul.localhub.objects import BytesContent, Content, DigestCache, FileContent
from hf_haul.localhub.options import HubOptions
from hf_haul.localhub.repository import Commit, Repo
from hf_haul.localhub.requestlog import RequestLog, RequestRecord
from hf_haul.localhub.server import LocalHub

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
]
