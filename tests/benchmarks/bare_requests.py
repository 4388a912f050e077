"""The least that sends requests one after the other, over ``requests``, urllib3 and ``http.client``."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

__all__ = ["LIBRARIES", "fetch_files", "fetch_ranges"]

#: Answers a GET with its status, where it leads to, and its body.
Get = Callable[[str, Mapping[str, str]], tuple[int, "str | None", bytes]]


def _over_requests() -> Get:
    import requests

    session = requests.Session()

    def get(url: str, headers: Mapping[str, str]) -> tuple[int, str | None, bytes]:
        answer = session.get(url, headers=headers, allow_redirects=False, timeout=30)
        return answer.status_code, answer.headers.get("Location"), answer.content

    return get


def _over_urllib3() -> Get:
    import urllib3

    pool = urllib3.PoolManager()

    def get(url: str, headers: Mapping[str, str]) -> tuple[int, str | None, bytes]:
        answer = pool.request("GET", url, headers=headers, redirect=False, retries=False, timeout=30)
        return answer.status, answer.headers.get("Location"), answer.data

    return get


def _over_http_client() -> Get:
    connections: dict[str, http.client.HTTPConnection] = {}

    def get(url: str, headers: Mapping[str, str]) -> tuple[int, str | None, bytes]:
        parts = urlsplit(url)
        if parts.netloc not in connections:
            connections[parts.netloc] = http.client.HTTPConnection(parts.netloc, timeout=30)
        connection = connections[parts.netloc]
        connection.request("GET", url.partition(parts.netloc)[2], headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Location"), answer.read()

    return get


#: What makes a way to ask, by the name of the library.
LIBRARIES: Final[Mapping[str, Callable[[], Get]]] = {
    "requests": _over_requests,
    "urllib3": _over_urllib3,
    "http.client": _over_http_client,
}


def fetch_files(get: Get, files: Sequence[tuple[str, str, str]], folder: str) -> None:
    """Fetch files, follow their redirects, check their digests, and write them.

    Args:
        get: Asks.
        files: Path, URL and git digest of each.
        folder: Where they go.

    Raises:
        ValueError: The bytes have another digest.
    """
    for path, url, oid in files:
        status, location, body = get(url, {})
        while location is not None and status in {301, 302, 303, 307, 308}:
            url = urljoin(url, location)
            status, location, body = get(url, {})
        if hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest() != oid:
            raise ValueError(f"{path}: other bytes")
        target = Path(folder, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)


def fetch_ranges(get: Get, url: str, ranges: Sequence[tuple[int, int]]) -> None:
    """Fetch ranges of a file.

    Raises:
        ValueError: An answer is of another length.
    """
    for start, stop in ranges:
        status, _, body = get(url, {"Range": f"bytes={start}-{stop - 1}"})
        if status != 206 or len(body) != stop - start:
            raise ValueError(f"{url}: answered {status} with {len(body)} bytes")
