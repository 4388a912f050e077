"""Local Hubs in a process of their own: one JSON question per line on stdin, one answer per line on stdout."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.testing.faults import Corrupt, Status

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: Every how many bytes a source is wrong that sends wrong bytes.
_WRONG_EVERY: Final = 64 << 10


class HubProcess:
    """The hubs, and what can be asked of them."""

    def __init__(self) -> None:
        self.hubs: dict[str, LocalHub] = {}
        self.repos: list[Repo] = []
        self.folders: dict[str, Path] = {}
        self.sources: dict[str, LocalHub] = {}
        self.silent: list[socket.socket] = []

    def start(self, repos: dict[str, str], origins: dict[str, str]) -> dict[str, str]:
        """Start one hub for each origin; returns their URLs. ``own`` is the one that gives LFS files itself."""
        self.folders = {name: Path(folder) for name, folder in repos.items()}
        self.repos = [Repo.from_folder(folder, name) for name, folder in self.folders.items()]
        for name, origin in origins.items():
            self.hubs[name] = LocalHub(*self.repos, cdn_url=origin, log_size=1000).start()
        self.hubs["own"] = LocalHub(*self.repos, log_size=None).start()
        return {name: hub.url for name, hub in self.hubs.items()}

    def start_sources(self, sources: dict[str, dict[str, Any]]) -> dict[str, str]:
        """Start servers in place of those there are, each with all files; returns their URLs.

        ``pace`` is in bytes per second, ``lacks`` a pattern of paths that it does not have, ``wrong`` the length of
        the longest file of which it sends wrong bytes. One without a pace accepts connections and never answers.
        """
        for hub in self.sources.values():
            hub.close()
        for listener in self.silent:
            listener.close()
        self.sources, self.silent, urls = {}, [], {}
        for name, facts in sources.items():
            if "pace" not in facts:
                self.silent.append(socket.create_server(("127.0.0.1", 0)))
                urls[name] = f"http://127.0.0.1:{self.silent[-1].getsockname()[1]}"
                continue
            hub = LocalHub(*self.repos, lfs="direct", git_files="direct", log_size=1000).start()
            hub.set_pace(facts.get("each"), total=facts["pace"])
            if "lacks" in facts:
                hub.faults.add(Status(404), kind="resolve", path=facts["lacks"], times=None)
            for offset in range(0, facts.get("wrong", 0), _WRONG_EVERY):
                hub.faults.add(Corrupt(offset), kind="resolve", times=None)
            self.sources[name], urls[name] = hub, hub.url
        return urls

    def lfs_objects(self) -> dict[str, str]:
        """Paths of all LFS files by sha256."""
        return {
            entry.content.sha256(): str(self.folders[repo.repo_id] / path)
            for repo in self.repos
            for path, entry in repo.head.tree.files.items()
            if entry.is_lfs
        }

    def answer(self, question: dict[str, Any]) -> Any:
        """One question, one answer."""
        if "repos" in question:
            return self.start(question["repos"], question["origins"])
        if "sources" in question:
            return self.start_sources(question["sources"])
        if "lfs_objects" in question:
            return self.lfs_objects()
        own = self.hubs["own"]
        if "pace" in question:
            own.set_pace(question["pace"])
            return True
        if "clear" in question:
            own.requests.clear()
            return True
        if "kinds" in question:
            kinds: dict[str, int] = {}
            for record in own.requests:
                kinds[record.kind] = kinds.get(record.kind, 0) + 1
            return {"kinds": kinds, "redirected": sum(record.status in _REDIRECTS for record in own.requests)}
        if "last_byte" in question:
            return self.last_byte(question["last_byte"])
        raise ValueError(f"unknown question: {question}")

    def last_byte(self, still: float) -> dict[str, float]:
        """Wait until no byte has left for ``still`` seconds; when the last one did, on this machine's clock."""
        own = self.hubs["own"]
        seen, at = own.body_bytes, time.monotonic()
        began = at
        while time.monotonic() - at < still and time.monotonic() - began < 10:
            time.sleep(0.002)
            if own.body_bytes != seen:
                seen, at = own.body_bytes, time.monotonic()
        return {"at": at, "bytes": seen}


def main() -> int:
    """Answer until stdin ends."""
    hubs = HubProcess()
    for line in sys.stdin:
        print(json.dumps(hubs.answer(json.loads(line))), flush=True)
    hubs.start_sources({})
    for hub in hubs.hubs.values():
        hub.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
