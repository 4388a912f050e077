"""Events as a download tells them."""

from __future__ import annotations

from typing import Any

T = 1_800_000_000.0


def event(ev: str, at: float = 0.0, **fields: Any) -> dict[str, Any]:
    """An event, ``at`` seconds after the beginning."""
    return {"v": 1, "t": T + at, "ev": ev, "repo_id": "org/model", **fields}


def plan(
    nbytes: int | None = 1000, files: int = 4, reused: int = 0, files_reused: int = 0, **more: Any
) -> dict[str, Any]:
    return event(
        "plan", bytes=nbytes, files=files, reused=reused, files_reused=files_reused, free_disk=None, **more
    )


def progress(done: int, total: int | None = 1000, at: float = 1.0, **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "rate": 0.0, "eta": None, "files_done": 0, "files_total": 4, "active": [], "active_files": 0, "connections": 0,
        "waits": [],
    }  # fmt: skip
    return event("progress", at, done=done, total=total, **{**fields, **more})


def waiting(message: str, until: float | None, reason: str = "rate_limit") -> dict[str, Any]:
    return {
        "reason": reason, "message": message, "until": None if until is None else T + until, "attempt": None,
        "attempts": None, "host": None,
    }  # fmt: skip


def ended(ev: str = "done", **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "fetched": 1000, "reused": 0, "wasted": 0, "seconds": 2.0, "rate": 500.0, "retries": 0, "files_fetched": 4,
        "files_reused": 0, "files_failed": 0,
    }  # fmt: skip
    if ev == "error":
        fields |= {"type": "HubError", "message": "no", "file": None, "hint": None}
    return event(ev, 2.0, **{**fields, **more})
