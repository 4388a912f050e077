"""Local Hubs in a process of their own: one JSON question per line on stdin, one answer per line on stdout."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from hf_haul.localhub import LocalHub, Repo

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class HubProcess:
    """The hubs, and what can be asked of them."""

    def __init__(self) -> None:
        self.hubs: dict[str, LocalHub] = {}
        self.repos: list[Repo] = []
        self.folders: dict[str, Path] = {}

    def start(self, repos: dict[str, str], origins: dict[str, str]) -> dict[str, str]:
        """Start one hub for each origin; returns their URLs. ``own`` is the one that gives LFS files itself."""
        self.folders = {name: Path(folder) for name, folder in repos.items()}
        self.repos = [Repo.from_folder(folder, name) for name, folder in self.folders.items()]
        for name, origin in origins.items():
            self.hubs[name] = LocalHub(*self.repos, cdn_url=origin, log_size=1000).start()
        self.hubs["own"] = LocalHub(*self.repos, log_size=None).start()
        return {name: hub.url for name, hub in self.hubs.items()}

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
    for hub in hubs.hubs.values():
        hub.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
