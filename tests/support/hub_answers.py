"""What a Hub answers, for tests without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import hf_api
from huggingface_hub.errors import (
    HfHubHTTPError,
)
from huggingface_hub.file_download import HfFileMetadata
from huggingface_hub.utils import hf_raise_for_status

from hf_haul.hub import asking, listing, tokens
from hf_haul.hub.repository import Repository

SHA = "a" * 40
SHA256 = "b" * 64
XET = "c" * 64
REDACTED = "*" * 64
ENDPOINT = "http://hub.test:8080"
http: Any = asking.httpx  # httpx or httpx2, whichever huggingface_hub speaks


def repository(**changes: Any) -> Repository:
    return Repository("org/name", **{"endpoint": ENDPOINT, "token": "hf_secret", **changes})


def response(
    status: int = 200, body: Any = None, url: str = ENDPOINT, method: str = "GET", **headers: str
) -> Any:
    return http.Response(
        status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        content=body if isinstance(body, bytes) else json.dumps(body).encode() if body else b"",
        request=http.Request(method, url),
    )


def error_of(status: int, url: str = ENDPOINT, **headers: str) -> Exception:
    with pytest.raises(HfHubHTTPError) as caught:
        hf_raise_for_status(response(status, url=url, **headers))
    return caught.value


def item(path: str, **more: Any) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": 7, "oid": SHA, **more}


class Pages:
    """Answers tree requests in order, and keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    def __call__(self, url: str, *, params: Any, headers: dict[str, str], **_: Any) -> Any:
        self.asked.append((url, params))
        self.headers.append(headers)
        return self.answers.pop(0)


def next_page(url: str) -> dict[str, str]:
    return {"Link": f'<{url}>; rel="next"'}


def serve(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any], Any]) -> list[Any]:
    """Have all that is asked through huggingface_hub's client answered by ``answer``; returns the requests."""
    asked: list[Any] = []

    def respond(request: Any) -> Any:
        asked.append(request)
        return answer(request)

    client = http.Client(transport=http.MockTransport(respond))
    for module in (listing, tokens):
        monkeypatch.setattr(module, "get_session", lambda: client)
    return asked


def serve_all(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Any], Any]) -> list[Any]:
    """As :func:`serve`, for huggingface_hub's own requests, too."""
    asked = serve(monkeypatch, answer)
    monkeypatch.setattr(hf_api, "get_session", listing.get_session)
    return asked


def head(commit: str | None = SHA, etag: str | None = SHA256, size: int | None = 5) -> HfFileMetadata:
    return HfFileMetadata(commit_hash=commit, etag=etag, location="http://x", size=size, xet_file_data=None)


class Waits:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def ask() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return ask
