"""Builds the engine's request for a plain URL and a target path."""

from __future__ import annotations

from pathlib import Path

from hf_haul.storage.destinations import FileDestination
from hf_haul.storage.nodes import NodeDestination, is_node
from hf_haul.task import Destination, DownloadPriority, FileRequest, RemoteFile
from hf_haul.urls import without_signature

__all__ = ["request_url"]


def request_url(
    remote: RemoteFile,
    target: Path,
    *,
    same_size_will_do: bool,
    priority: DownloadPriority | None = None,
    fresh: bool = False,
) -> FileRequest:
    """Return the request for a file.

    Args:
        remote: The file.
        target: Where it goes; a device or a pipe is written into.
        same_size_will_do: Whether a file that is there counts as this one if it has the same size and no
            digest can tell.
        priority: Its urgency.
        fresh: Whether to fetch it anew, whatever is there.
    """
    version = remote.digest.value if remote.digest else remote.etag
    former: tuple[str, ...] = ()
    if not version:  # a link that was signed anew leads to the same bytes
        version = without_signature(remote.url)
        former = (remote.url,) if version != remote.url else ()
    size = remote.size if same_size_will_do else None
    into: Destination = (
        NodeDestination(target, version)
        if is_node(target)
        else FileDestination(target, version, remote.digest, size, former)
    )
    return FileRequest(remote, into, priority=priority, fresh=fresh)
