"""Pages of a lab server: is it well, what does it do, in the words of Prometheus and for people."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from hf_haul.config import parse_rate
from hf_haul.lab.exposition import CONTENT_TYPE, Metric, expose, histogram
from hf_haul.lab.lab import Lab
from hf_haul.localhub.following import FollowingRepo
from hf_haul.localhub.replies import Refusal, Reply, json_reply, text_reply
from hf_haul.localhub.routes_api import home
from hf_haul.localhub.site import Page, PageRequest

__all__ = ["CONTROL", "STATUS", "pages_of"]

#: Where the page asks for what it shows, and where it says what is to be done.
STATUS: Final = "/haul/v1/status"
CONTROL: Final = "/haul/v1/control"

_HOLDINGS_FOR: Final = 5.0  # seconds for which a look at the cache counts
_MOST_REPOS: Final = 500  # shown
_REALM: Final = {"WWW-Authenticate": 'Bearer realm="hf-haul serve"'}


def pages_of(lab: Lab) -> Mapping[str, Page]:
    """Return the pages of a lab server, by their paths."""
    status = _Status(lab)
    return {
        "/": lambda request: _front(lab, request),
        "/health": lambda request: _health(lab, request),
        "/metrics": lambda request: _metrics(lab, request),
        STATUS: status,
        CONTROL: lambda request: _control(lab, request),
    }


def _require_account(request: PageRequest) -> None:
    """Refuse a request without the token, where one is asked for.

    Raises:
        Refusal: It has none.
    """
    if request.asks_token and request.account is None:
        raise Refusal(
            401, "This needs the token of the server, as 'Authorization: Bearer ...'.", None, _REALM
        )


def _require_method(request: PageRequest, *methods: str) -> None:
    if request.method not in methods:
        raise Refusal(
            405, f"{request.path} takes {' and '.join(methods)} only.", None, {"Allow": ", ".join(methods)}
        )


# -- for people


def _front(lab: Lab, request: PageRequest) -> Reply:
    """Answer with the page for a browser, and with a few lines for all others."""
    _require_method(request, "GET", "HEAD")
    if "text/html" in request.headers.get("Accept", ""):
        html, policy = _page()
        reply = text_reply(html, content_type="text/html")
        reply.headers["Content-Security-Policy"] = policy
        reply.headers["Referrer-Policy"] = "no-referrer"
        reply.headers["X-Content-Type-Options"] = "nosniff"
        reply.headers["Cache-Control"] = "no-store"
        return reply
    hub = lab.hub
    repos = [] if hub is None else hub.catalog.all()
    if hub is not None:
        hub.catalog.look_again()
        repos = [repo for repo in hub.catalog.all() if hub.accounts.can_see(repo, request.account)]
    return home(repos)


@cache
def _page() -> tuple[str, str]:
    """Return the page, and the policy that lets its own script and style run and nothing else."""
    html = resources.files("hf_haul.lab").joinpath("status.html").read_text("utf-8")
    digests = {
        kind: base64.b64encode(hashlib.sha256(_inside(html, kind).encode()).digest()).decode()
        for kind in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src 'sha256-{digests['script']}'; style-src 'sha256-{digests['style']}';"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _inside(html: str, kind: str) -> str:
    found = re.search(f"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
    assert found is not None
    return found[1]


class _Status:
    """Answers with all that the page shows."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._held: tuple[float, list[dict[str, Any]]] = (0.0, [])

    def __call__(self, request: PageRequest) -> Reply:
        """Answer a request."""
        _require_method(request, "GET")
        _require_account(request)
        lab = self._lab
        fetches, kept = lab.fetches, lab.kept
        reply = json_reply(
            {
                "url": None if lab.hub is None else lab.hub.url,
                "began": lab.began,
                "now": time.time(),
                "upstream": None if lab.lookups is None else lab.lookups.status(),
                "cache": self._holdings(),
                "kept": None
                if kept is None
                else {
                    "files": len(kept),
                    "bytes": kept.total,
                    "most": kept.most,
                    "evicted_files": kept.evicted_files,
                    "evicted_bytes": kept.evicted_bytes,
                },
                "fetching": [] if fetches is None else [_fetching(each) for each in fetches],
                "sending": lab.traffic.active(),
                "totals": lab.traffic.totals(),
                "paused": False if fetches is None else fetches.paused,
                "limits": {
                    "in": None if fetches is None else fetches.manager.max_bandwidth_bps,
                    "out": None if lab.hub is None else lab.hub.max_bytes_per_s,
                },
                "controls": request.asks_token,
            }
        )
        reply.headers["Cache-Control"] = "no-store"
        return reply

    def _holdings(self) -> list[dict[str, Any]]:
        when, held = self._held
        if self._lab.hub is not None and time.monotonic() - when > _HOLDINGS_FOR:
            repos = sorted(self._lab.hub.catalog.all(), key=lambda repo: repo.repo_id)[:_MOST_REPOS]
            held = [
                {
                    "repo": repo.repo_id,
                    "type": repo.repo_type,
                    "commits": [
                        {
                            "commit": each.commit,
                            "names": each.names,
                            "files": each.files,
                            "listed": each.listed,
                        }
                        for each in (repo.holdings() if isinstance(repo, FollowingRepo) else ())
                    ],
                }
                for repo in repos
            ]
            self._held = (time.monotonic(), held)
        return held


def _fetching(fetch: Any) -> dict[str, Any]:
    progress = fetch.handle.progress()
    return {
        "id": fetch.handle.queue_id,
        "repo": fetch.repo_id,
        "path": fetch.name,
        "size": fetch.size,
        "done": progress.bytes_done,
        "rate": progress.speed_bps,
        "connections": progress.connections,
        "state": progress.state.value,
        "waiting": fetch.waiting,
        "seconds": time.time() - fetch.began,
    }


# -- steering


def _control(lab: Lab, request: PageRequest) -> Reply:
    """Pause, resume, cancel, or limit."""
    _require_method(request, "POST")
    if not request.asks_token:
        raise Refusal(
            403,
            "Whoever can reach this server could steer it: start it with a token (--token-file) for that.",
        )
    _require_account(request)
    try:
        asked = json.loads(request.body.decode("utf-8"))
        action = asked["action"]
        done = _ACTIONS[action](lab, asked)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        names = ", ".join(sorted(_ACTIONS))
        raise Refusal(400, f'not understood: {error}; write {{"action": one of {names}, ...}}') from error
    return json_reply({"done": done})


def _pause(lab: Lab, asked: Mapping[str, Any]) -> bool:
    del asked
    return lab.fetches is not None and lab.fetches.pause()


def _resume(lab: Lab, asked: Mapping[str, Any]) -> bool:
    del asked
    return lab.fetches is not None and lab.fetches.resume()


def _cancel(lab: Lab, asked: Mapping[str, Any]) -> bool:
    return lab.fetches is not None and lab.fetches.cancel(str(asked["id"]))


def _limit(lab: Lab, asked: Mapping[str, Any]) -> bool:
    rate = parse_rate(str(asked["rate"]))
    if asked["of"] == "in" and lab.fetches is not None:
        lab.fetches.manager.max_bandwidth_bps = rate
        return True
    if asked["of"] == "out" and lab.hub is not None:
        lab.hub.set_pace(None, total=rate)
        return True
    return False


_ACTIONS: Final[Mapping[str, Callable[[Lab, Mapping[str, Any]], bool]]] = {
    "pause": _pause,
    "resume": _resume,
    "cancel": _cancel,
    "limit": _limit,
}


# -- for programs


def _health(lab: Lab, request: PageRequest) -> Reply:
    """Answer whether it serves; of the other Hub only whether it answered, as no token is asked for here."""
    _require_method(request, "GET", "HEAD")
    upstream = None
    if lab.lookups is not None:
        upstream = "away" if lab.lookups.last_error else "ok"
    return json_reply({"status": "ok", "upstream": upstream, "seconds": round(time.time() - lab.began, 3)})


def _metrics(lab: Lab, request: PageRequest) -> Reply:
    _require_method(request, "GET", "HEAD")
    _require_account(request)
    return text_reply(expose(_all_metrics(lab)), content_type=CONTENT_TYPE)


def _all_metrics(lab: Lab) -> list[Metric]:
    requests, sent, running = lab.traffic.counts()
    metrics = [
        Metric("hf_haul_start_time_seconds", "gauge", "When the server began, since 1970.", lab.began),
        Metric(
            "hf_haul_requests_total",
            "counter",
            "Requests that were answered, by route and status; 0 where the client had gone.",
            {(kind, str(status)): count for (kind, status), count in requests.items()},
            ("route", "status"),
        ),
        Metric("hf_haul_requests_running", "gauge", "Requests that are being answered.", running),
        Metric(
            "hf_haul_sent_bytes_total",
            "counter",
            "Body bytes sent in answers that are over: of files that were here, and of those fetched meanwhile.",
            {("here",): sent.get("here", 0), ("fetched",): sent.get("fetched", 0)},
            ("source",),
        ),
        histogram(
            "hf_haul_request_duration_seconds", "How long answers took, in seconds.", *lab.traffic.durations()
        ),
    ]
    if lab.hub is not None:
        metrics.append(
            Metric("hf_haul_connections_open", "gauge", "Connections of clients.", lab.hub.open_connections)
        )
        metrics.append(
            Metric(
                "hf_haul_repositories", "gauge", "Repositories that are served.", len(lab.hub.catalog.all())
            )
        )
    return metrics + _upstream_metrics(lab)


def _upstream_metrics(lab: Lab) -> list[Metric]:
    if lab.fetches is None or lab.lookups is None or lab.kept is None:
        return []
    stats = lab.fetches.manager.get_download_stats()
    under_way = list(lab.fetches)
    return [
        Metric("hf_haul_upstream_lookups_total", "counter", "Times the upstream was asked for a revision.", lab.lookups.asked),
        Metric("hf_haul_upstream_up", "gauge", "Whether the upstream answered when last asked.", int(lab.lookups.last_error is None)),
        Metric("hf_haul_upstream_bytes_total", "counter", "Bytes that came from the upstream.", stats["total_bytes_downloaded"]),
        Metric("hf_haul_fetches_total", "counter", "Files that the upstream was asked for.", lab.fetches.begun),
        Metric("hf_haul_fetches_failed_total", "counter", "Of these, files that could not be had.", lab.fetches.failed),
        Metric("hf_haul_fetches_running", "gauge", "Files that are being fetched.", len(under_way)),
        Metric("hf_haul_fetches_waiting_clients", "gauge", "Answers that wait for files being fetched.", sum(each.waiting for each in under_way)),
        Metric("hf_haul_kept_bytes", "gauge", "Bytes of fetched files that are kept.", lab.kept.total),
        Metric("hf_haul_kept_files", "gauge", "Fetched files that are kept.", len(lab.kept)),
        Metric("hf_haul_evicted_bytes_total", "counter", "Bytes of fetched files removed to make room.", lab.kept.evicted_bytes),
        Metric("hf_haul_evicted_files_total", "counter", "Fetched files removed to make room.", lab.kept.evicted_files),
    ]  # fmt: skip
