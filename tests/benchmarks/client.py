"""One download in a process of its own; prints what it took as JSON.

Started as a program, with the name of a function below and its arguments as JSON. Imports are over before the
clock starts: every tool here is a library, and whoever uses it has imported it once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
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
    import hf_haul.manager  # what a download would load at its beginning

    download = hf_haul.snapshot_download  # both packages load their modules at the first use of a name

    def work() -> dict[str, Any]:
        watch = FirstUsable(Path(cache_dir), first) if first else None
        download(repo_id, cache_dir=cache_dir, **options)
        return watch.result() if watch else {}

    return work


def haul_sources(
    repo_id: str, cache_dir: str, names: dict[str, list[str]] | None = None, **options: Any
) -> Work:
    """hf-haul's ``snapshot_download``, and what came from which source; with ``names`` as in :func:`haul_manager`."""
    import hf_haul
    import hf_haul.manager

    download = hf_haul.snapshot_download
    if names:
        resolve(names)

    def work() -> dict[str, Any]:
        told: dict[str, Any] = {}

        def note(event: Any) -> None:
            if event["ev"] == "done":
                told.update(event)

        download(repo_id, cache_dir=cache_dir, on_event=note, **options)
        return {"by_source": told["bytes_by_source"], "wasted": told["wasted"], "fetched": told["fetched"]}

    return work


def haul_many(repo_id: str, cache_dir: str, first: str, go_on: float, **options: Any) -> Work:
    """hf-haul's ``snapshot_download`` of a repository of very many files, until ``go_on`` seconds after the first is there.

    Says when pages came, and how far it was.
    """
    import hf_haul
    import hf_haul.manager
    from hf_haul.hub import repository

    download, list_pages = hf_haul.snapshot_download, repository.tree_pages
    pages: list[float] = []

    def noted(*args: Any, **given: Any) -> Any:
        for page in list_pages(*args, **given):
            pages.append(time.monotonic())
            yield page

    repository.tree_pages = noted

    def work() -> dict[str, Any]:
        base = memory_kib("VmRSS") / 1024
        manager = hf_haul.ParallelDownloadManager()
        began = time.monotonic()
        threading.Thread(
            target=lambda: download(repo_id, cache_dir=cache_dir, manager=manager, **options), daemon=True
        ).start()
        watch = FirstUsable(Path(cache_dir), [first])
        while watch.is_alive():
            watch.join(0.1)
        there, listed = time.monotonic(), memory_kib("VmHWM") / 1024
        time.sleep(go_on)
        stats = manager.get_download_stats()
        answer = {
            **_now(began),
            "base_mib": base,
            "seconds": there - began,
            "pages": len(pages),
            "seconds_of_pages": pages[-1] - began,
            "seconds_to_first": there - pages[-1],
            "peak_mib_at_first": listed,
            "files_done": stats["files_done"],
        }
        print(json.dumps(answer))
        sys.stdout.flush()
        os._exit(0)  # the other files are not part of the question

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


def haul_manager(
    urls: list[list[Any]], folder: str, names: dict[str, list[str]] | None = None, **options: Any
) -> Work:
    """hf-haul's manager over plain URLs: ``[path, size, sha256 or None, url]`` each.

    With ``names``, these names have these addresses, in this order.
    """
    from types import SimpleNamespace

    import hf_haul

    make_manager, done_state = hf_haul.ParallelDownloadManager, hf_haul.DownloadState.DONE
    specs = [SimpleNamespace(path=p, size=s, sha256=d, url=u) for p, s, d, u in urls]
    if names:
        resolve(names)

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
        return {"done": done, "seconds": seconds, "received": answer["bytes_downloaded"]}

    return work


def resolve(names: dict[str, list[str]]) -> None:
    """Have this process find these addresses for these names, in this order, and ask the system for all others."""
    ask = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> list[Any]:
        if host not in names or socket.AI_NUMERICHOST in (options.get("flags"), *args[4:5]):
            return list(ask(host, *args, **options))
        return [found for address in names[host] for found in ask(address, *args, **options)]

    socket.getaddrinfo = look_up


def nothing() -> Work:
    """Nothing; to see whether a process comes as far as this."""
    return lambda: None


def haul_queue(folder: str, files: int) -> Work:
    """Queue many files on a paused manager, and see how much memory they take."""
    import gc
    from types import SimpleNamespace

    import hf_haul

    manager = hf_haul.ParallelDownloadManager()
    manager.pause_downloads()

    def specs(count: int, name: str) -> list[Any]:
        return [
            SimpleNamespace(path=f"{name}/{n:05d}.bin", size=4096, sha256=f"{n:064x}") for n in range(count)
        ]

    manager.queue_model_download("warm", specs(100, "warm"), "http://127.0.0.1:9/files", folder)
    wanted = specs(files, "files")

    def work() -> dict[str, Any]:
        gc.collect()
        before = memory_kib("VmRSS")
        began = time.monotonic()
        manager.queue_model_download("bench", wanted, "http://127.0.0.1:9/files", folder)
        seconds = time.monotonic() - began
        gc.collect()
        grown = memory_kib("VmRSS") - before
        manager.shutdown(wait=False)
        return {"seconds": seconds, "bytes_per_file": grown * 1024 / files}

    return work


def haul_parts(folder: str, parts: int, files: int) -> Work:
    """One file of many parts, then many files of one, from a source that costs nothing; on this thread alone."""
    from hf_haul.config import Settings
    from hf_haul.engine.download_queue import ModelDownloadQueue
    from hf_haul.engine.plan import make_plan
    from hf_haul.engine.priority import DefaultPolicy
    from hf_haul.engine.scheduler import Scheduler
    from hf_haul.limiter import BandwidthLimiter
    from hf_haul.ranges import ByteRange
    from hf_haul.storage.destinations import FileDestination
    from hf_haul.task import DownloadPriority, FileRequest, RemoteFile

    part = 4096

    class Zeros:
        def __init__(self, want: ByteRange | None) -> None:
            self.range, self.total = want, None
            self.left = part if want is None else len(want)

        def readinto(self, buffer: memoryview) -> int:
            got = min(self.left, len(buffer))
            self.left -= got
            return got

        def close(self) -> None:
            pass

    class Nothing:
        version = None
        patience = 0.0

        def open(self, want: ByteRange | None, cancel_token: Any, *, fresh: bool = False) -> Zeros:
            return Zeros(want)

    settings = Settings(part_size=part, max_concurrent_downloads=4)

    def request(name: str, size: int) -> FileRequest:
        url = f"http://127.0.0.1:9/{name}"
        return FileRequest(
            RemoteFile(name, url, size=size), FileDestination(Path(folder) / name, url, None, size)
        )

    def work() -> dict[str, Any]:
        scheduler = Scheduler(settings, BandwidthLimiter(None), lambda _: Nothing(), threads=False)

        def submit(priority: DownloadPriority, requests: list[FileRequest]) -> Any:
            plan = make_plan(
                requests, model_id="bench", policy=DefaultPolicy(), settings=settings, created_at=time.time
            )
            queue = ModelDownloadQueue("bench", priority, max_concurrent_files=32)
            return scheduler.submit(queue, plan.files, None)

        late = submit(DownloadPriority.LOW, [request(f"{n:05d}.bin", part) for n in range(files)])
        first = submit(DownloadPriority.HIGH, [request("one.bin", part * parts)])
        began = time.monotonic()
        scheduler.drain()
        seconds = time.monotonic() - began
        for run in (first, late):
            if run.errors:
                raise RuntimeError(str(run.errors[0]))
        one = first.metrics.duration()
        return {
            "seconds": one,
            "seconds_per_part": one / parts,
            "seconds_per_file": (seconds - one) / files,
        }

    return work


def haul_stop(url: str, size: int, folder: str) -> Work:
    """Start and stop as told on stdin, one word a line."""
    from types import SimpleNamespace

    import hf_haul

    manager = hf_haul.ParallelDownloadManager()
    number = 0

    def start() -> str:
        nonlocal number
        number += 1
        specs = [SimpleNamespace(path=f"{number}.bin", size=size, url=url)]
        queue_id = manager.queue_model_download("bench", specs, url, folder)
        while not manager.get_model_queue_status(queue_id)["bytes_downloaded"]:
            time.sleep(0.005)
        return queue_id

    def work() -> dict[str, Any]:
        queue_id = ""
        for line in sys.stdin:
            word, at = line.strip(), time.monotonic()
            if word == "start":
                queue_id = start()
            elif word == "pause":
                manager.pause_downloads(queue_id)
            else:  # cancel, and the end of what was paused
                manager.cancel_model_download(queue_id)
                if word == "end":
                    manager.wait_for_model_completion(queue_id, 10.0)
                    for left in Path(folder).iterdir():
                        left.unlink()
            print(json.dumps({"at": at}), flush=True)
        manager.shutdown(wait=False)
        return {}

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


def bare(url: str, target: str, sha256: str) -> Work:
    """The least that does it; see :mod:`tests.benchmarks.bare`."""
    from tests.benchmarks.bare import fetch

    return lambda: fetch(url, target, sha256)


def bare_files(library: str, files: list[Any], folder: str) -> Work:
    """A loop over files; see :mod:`tests.benchmarks.bare_requests`."""
    from tests.benchmarks.bare_requests import LIBRARIES, fetch_files

    get = LIBRARIES[library]()
    return lambda: fetch_files(get, files, folder)


def bare_ranges(library: str, url: str, ranges: list[Any]) -> Work:
    """A loop over ranges; see :mod:`tests.benchmarks.bare_requests`."""
    from tests.benchmarks.bare_requests import LIBRARIES, fetch_ranges

    get = LIBRARIES[library]()
    return lambda: fetch_ranges(get, url, ranges)


def haul_ranges(path: str, ranges: list[Any]) -> Work:
    """``cat_ranges`` of hf-haul's filesystem."""
    import hf_haul

    fs = hf_haul.HaulFileSystem()
    starts, ends = zip(*ranges, strict=True)

    def work() -> None:
        found = fs.cat_ranges([path] * len(ranges), list(starts), list(ends))
        if [len(each) for each in found] != [stop - start for start, stop in ranges]:
            raise ValueError("ranges of another length")

    return work


def haul_verify(**arguments: Any) -> Work:
    """hf-haul's ``verify``; see :mod:`tests.benchmarks.verifying`."""
    from tests.benchmarks import verifying

    return verifying.haul_verify(**arguments)


def hub_verify(**arguments: Any) -> Work:
    """huggingface_hub's; see :mod:`tests.benchmarks.verifying`."""
    from tests.benchmarks import verifying

    return verifying.hub_verify(**arguments)


def hash_memory(**arguments: Any) -> Work:
    """No files at all; see :mod:`tests.benchmarks.verifying`."""
    from tests.benchmarks import verifying

    return verifying.hash_memory(**arguments)


def haul_shown(**arguments: Any) -> Work:
    """hf-haul's ``snapshot_download``, shown; see :mod:`tests.benchmarks.drawing`."""
    from tests.benchmarks import drawing

    return drawing.haul_shown(**arguments)


def _given(text: str) -> str:
    """An argument, or the contents of the file that ``@`` names."""
    return Path(text[1:]).read_text() if text.startswith("@") else text


def main() -> int:
    """Run what the command line names: a function, its arguments, and any number of ``--without MECHANISM``."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    parser = argparse.ArgumentParser()
    parser.add_argument("what")
    parser.add_argument("arguments")
    parser.add_argument("--without", action="append", default=[], metavar="MECHANISM")
    given = parser.parse_args()
    what, arguments = given.what, json.loads(_given(given.arguments))
    if given.without:
        from tests.benchmarks.switches import switch_off

        for mechanism in given.without:
            switch_off(mechanism)
    work = {
        "haul_snapshot": haul_snapshot,
        "haul_sources": haul_sources,
        "haul_timeline": haul_timeline,
        "haul_many": haul_many,
        "haul_manager": haul_manager,
        "haul_queue": haul_queue,
        "haul_parts": haul_parts,
        "haul_stop": haul_stop,
        "haul_shown": haul_shown,
        "hub_snapshot": hub_snapshot,
        "transfer": transfer,
        "bare": bare,
        "bare_files": bare_files,
        "bare_ranges": bare_ranges,
        "haul_ranges": haul_ranges,
        "haul_verify": haul_verify,
        "hub_verify": hub_verify,
        "hash_memory": hash_memory,
        "nothing": nothing,
    }[what](**arguments)
    print(json.dumps(measured(work)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
