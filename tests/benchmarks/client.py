"""One download in a process of its own; prints what it took as JSON.

Started as a program, with the name of a function below and its arguments as JSON. Imports are over before the
clock starts: every tool here is a library, and whoever uses it has imported it once.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[], dict[str, Any] | None]


def memory_kib(what: str) -> int:
    """A line of this process's status: ``VmRSS`` or ``VmHWM``, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1])
    return 0


def measured(work: Work) -> dict[str, Any]:
    """Do it, and say what it took."""
    base = memory_kib("VmRSS")
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    extra = work() or {}
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": extra.pop("seconds", seconds),
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "peak_mib": memory_kib("VmHWM") / 1024,
        "base_mib": base / 1024,
        "context_switches": after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw,
        **extra,
    }


def haul_snapshot(repo_id: str, cache_dir: str, first: list[str] | None = None, **options: Any) -> Work:
    """hf-haul's ``snapshot_download``; with ``first``, when those files were there."""
    import hf_haul

    download = hf_haul.snapshot_download  # both packages load their modules at the first use of a name

    def work() -> dict[str, Any]:
        watch = FirstUsable(Path(cache_dir), first) if first else None
        download(repo_id, cache_dir=cache_dir, **options)
        return watch.result() if watch else {}

    return work


def haul_timeline(repo_id: str, cache_dir: str, stop_after: float) -> Work:
    """The same with default settings, noting how far it is five times a second; ends after ``stop_after`` seconds."""
    import hf_haul

    download = hf_haul.snapshot_download

    def work() -> dict[str, Any]:
        manager = hf_haul.ParallelDownloadManager()
        thread = threading.Thread(
            target=lambda: download(repo_id, cache_dir=cache_dir, manager=manager), daemon=True
        )
        began = time.monotonic()
        thread.start()
        timeline = []
        while thread.is_alive() and time.monotonic() - began < stop_after:
            thread.join(0.2)
            stats = manager.get_download_stats()
            limits = {name: each["limit"] for name, each in stats["sources"].items()}
            timeline.append(
                [time.monotonic() - began, stored_bytes(Path(cache_dir)), stats["connections"], limits]
            )
        print(json.dumps({**_now(began), "timeline": timeline}))
        sys.stdout.flush()
        os._exit(0)  # the rest of the file is not part of the question

    return work


def _now(began: float) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": time.monotonic() - began,
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "peak_mib": memory_kib("VmHWM") / 1024,
        "base_mib": 0.0,
    }


def haul_manager(urls: list[list[Any]], folder: str, **options: Any) -> Work:
    """hf-haul's manager over plain URLs: ``[path, size, sha256 or None, url]`` each."""
    from types import SimpleNamespace

    import hf_haul

    make_manager, done_state = hf_haul.ParallelDownloadManager, hf_haul.DownloadState.DONE
    specs = [SimpleNamespace(path=p, size=s, sha256=d, url=u) for p, s, d, u in urls]

    def work() -> dict[str, Any]:
        done: dict[str, float] = {}
        began = time.monotonic()

        def note(progress: hf_haul.DownloadProgress) -> None:
            if progress.status is done_state:
                done.setdefault(progress.file_path, time.monotonic() - began)

        with make_manager(**options) as manager:
            answer = manager.download_model_parallel("bench", specs, "http://unused", folder, note)
            seconds = time.monotonic() - began
        if not answer["success"]:
            raise RuntimeError(str(answer["failed_files"][:3]))
        return {"done": done, "seconds": seconds}

    return work


def hub_snapshot(repo_id: str, cache_dir: str, first: list[str] | None = None, **options: Any) -> Work:
    """huggingface_hub's own ``snapshot_download``."""
    import huggingface_hub

    download = huggingface_hub.snapshot_download

    def work() -> dict[str, Any]:
        watch = FirstUsable(Path(cache_dir), first) if first else None
        download(repo_id, cache_dir=cache_dir, **options)
        return watch.result() if watch else {}

    return work


def transfer(url: str, target: str, connections: int) -> Work:
    """hf_transfer: ``connections`` ranges of 10 MiB at once."""
    import hf_transfer

    def work() -> None:
        hf_transfer.download(
            url=url,
            filename=target,
            max_files=connections,
            chunk_size=10 * 1024 * 1024,
            parallel_failures=3,
            max_retries=5,
        )

    return work


def stored_bytes(folder: Path) -> int:
    """Bytes on disk below ``folder``: what was written, also into the middle of a file."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                stat = os.lstat(os.path.join(base, name))
            except OSError:
                continue
            total += stat.st_blocks * 512
    return total


class FirstUsable(threading.Thread):
    """Notes how many bytes are on disk when the files that a loader reads first are in place."""

    def __init__(self, cache: Path, names: list[str]) -> None:
        super().__init__(daemon=True)
        self._cache = cache
        self._missing = set(names)
        self._seconds: float | None = None
        self._stored: int | None = None
        self._began = time.monotonic()
        self.start()

    def run(self) -> None:
        while self._missing:
            for snapshot in self._cache.glob("*/snapshots/*"):
                self._missing = {name for name in self._missing if not (snapshot / name).exists()}
            if self._missing:
                time.sleep(0.002)
        self._seconds = time.monotonic() - self._began
        self._stored = stored_bytes(self._cache)

    def result(self) -> dict[str, Any]:
        """Seconds, and bytes on disk at that moment."""
        self.join(1.0)
        return {"first_usable_seconds": self._seconds, "first_usable_stored": self._stored}


def _given(text: str) -> str:
    """An argument, or the contents of the file that ``@`` names."""
    return Path(text[1:]).read_text() if text.startswith("@") else text


def main() -> int:
    """Run what the command line names."""
    what, arguments = sys.argv[1], json.loads(_given(sys.argv[2]))
    work = {
        "haul_snapshot": haul_snapshot,
        "haul_timeline": haul_timeline,
        "haul_manager": haul_manager,
        "hub_snapshot": hub_snapshot,
        "transfer": transfer,
    }[what](**arguments)
    print(json.dumps(measured(work)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
