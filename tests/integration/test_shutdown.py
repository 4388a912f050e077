"""The end of a manager: graceful or at once, from anywhere, in a forked child and with the interpreter."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import SMALL, WEIGHTS, Rig, serve_files
from tests.support.hub import hub_environment, run_python
from tests.support.waits import SECOND, WAITS, keep_waiting, our_threads, until

from hf_haul.config import KiB
from hf_haul.engine.verifier import Verifier
from hf_haul.manager import DownloadHandle, ParallelDownloadManager
from hf_haul.task import DownloadState

SIZE = 600 * KiB


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path, weights=SIZE) as made:
        yield made
        made.hub.requests.settle(2)


def open_sockets() -> set[str]:
    """Sockets of this process by inode."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.mark.parametrize("wait", WAITS)
def test_a_shutdown_ends_every_wait_and_leaves_no_thread(wait: str, tmp_path: Path) -> None:
    with keep_waiting(wait, tmp_path) as kept:
        started = time.monotonic()
        kept.manager.shutdown(wait=False)
        assert time.monotonic() - started < 2 * SECOND
        assert our_threads() == []
        assert kept.handle.wait(0)
        assert kept.handle.state is DownloadState.CANCELLED
        assert kept.manager.get_download_stats()["pool"]["open_connections"] == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts sockets in /proc")
@pytest.mark.parametrize("wait", [True, False], ids=["graceful", "at once"])
def test_no_socket_and_no_thread_is_left(wait: bool, tmp_path: Path) -> None:
    # In a process of its own, where no other test's sockets come and go.
    script = """
import json, os, sys, threading
from pathlib import Path
from tests.support.engine import SMALL, WEIGHTS, serve_files
from tests.integration.test_shutdown import open_sockets
from tests.support.waits import our_threads
folder = Path(sys.argv[1])
with serve_files(folder, weights=600 * 1024) as rig:
    rig.hub.set_latency(0.05)
    first = open_sockets()
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS), rig.request(SMALL)], model_id="m",
                                progress_callback=lambda p: None)
        manager.events.subscribe(lambda e: None)
        rig.hub.requests.wait_for(lambda log: len(log) >= 2)
        manager.shutdown(wait=sys.argv[2] == "True")
        rig.hub.requests.wait_for(lambda log: rig.hub.open_connections == 0, 5)
        print(json.dumps({"threads": our_threads(), "open": rig.hub.open_connections,
                          "sockets": len(open_sockets() - first), "done": handle.wait(0)}))
"""
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    done = run_python(script, env, str(tmp_path), str(wait))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"threads": [], "open": 0, "sockets": 0, "done": True}


def test_a_graceful_shutdown_finishes_what_was_asked_for(rig: Rig) -> None:
    manager = ParallelDownloadManager(settings=rig.settings)
    handle = manager.submit([rig.request(WEIGHTS), rig.request(SMALL)], model_id="m")
    manager.shutdown()
    assert handle.wait(0)
    assert handle.state is DownloadState.DONE
    assert rig.is_whole(WEIGHTS)
    assert rig.is_whole(SMALL)
    assert our_threads() == []


def test_a_shutdown_at_once_keeps_what_it_has_for_the_next_manager(rig: Rig) -> None:
    rig.hub.set_pace(None, total=300_000)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert until(lambda: handle.progress().bytes_transferred > SIZE // 4)
        manager.shutdown(wait=False)
        kept = handle.progress().bytes_done
        assert handle.state is DownloadState.CANCELLED
    assert kept > 0
    assert len(rig.left) == 1
    rig.hub.set_pace(None)
    outcome = rig.fetch(WEIGHTS)
    assert outcome.errors == {}
    assert outcome.progress.bytes_transferred == SIZE - kept
    assert rig.is_whole(WEIGHTS)


@pytest.mark.parametrize("order", [(True, True), (False, True), (True, False)])
def test_shutting_down_twice_is_harmless(rig: Rig, order: tuple[bool, bool]) -> None:
    manager = ParallelDownloadManager(settings=rig.settings)
    manager.submit([rig.request(SMALL)], model_id="m")
    for wait in order:
        manager.shutdown(wait=wait)
    assert our_threads() == []


def test_shutting_down_from_many_threads_is_harmless(rig: Rig) -> None:
    manager = ParallelDownloadManager(settings=rig.settings)
    manager.submit([rig.request(WEIGHTS)], model_id="m")
    threads = [threading.Thread(target=manager.shutdown, kwargs={"wait": i % 2 == 0}) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert our_threads() == []


def test_a_manager_that_did_nothing_shuts_down(rig: Rig) -> None:
    manager = ParallelDownloadManager(settings=rig.settings)
    manager.shutdown()
    assert our_threads() == []


def test_nothing_is_accepted_after_the_end_and_results_stay_readable(rig: Rig) -> None:
    with rig.manager() as manager:
        handle = manager.submit([rig.request(SMALL)], model_id="m")
        assert handle.wait(10)
        manager.shutdown()
        for ask in (
            lambda: manager.submit([rig.request(WEIGHTS)], model_id="m"),
            lambda: manager.add_download_task("m", SMALL, rig.url(SMALL), rig.folder / "again"),
            lambda: manager.open_source(rig.request(SMALL).remote),
        ):
            with pytest.raises(RuntimeError, match="shut down"):
                ask()
        assert manager.wait_for_model_completion(handle.queue_id)["success"] is True
        status = manager.get_model_queue_status(handle.queue_id)
        assert status is not None
        assert status["state"] == "done"
        assert manager.cancel_model_download(handle.queue_id) is False
        assert manager.get_download_stats()["queues"] == 0
    assert our_threads() == []


def test_nothing_new_is_accepted_while_a_graceful_shutdown_waits(rig: Rig) -> None:
    rig.hub.set_pace(None, total=200_000)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert until(lambda: handle.progress().bytes_transferred)
        ending = threading.Thread(target=manager.shutdown)
        ending.start()
        assert until(lambda: manager._scheduler._ending)
        with pytest.raises(RuntimeError, match="shut down"):
            manager.submit([rig.request(SMALL)], model_id="m")
        rig.hub.set_pace(None)
        ending.join(10)
        assert not ending.is_alive()
    assert rig.is_whole(WEIGHTS)


@pytest.mark.parametrize("when", ["before", "while it waits"])
def test_what_is_paused_does_not_hold_up_a_graceful_shutdown(rig: Rig, when: str) -> None:
    rig.hub.set_pace(None, total=200_000)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert until(lambda: handle.progress().bytes_transferred > 20_000)
        if when == "before":
            manager.pause_downloads()
        ending = threading.Thread(target=manager.shutdown)
        ending.start()
        if when != "before":
            assert until(lambda: manager._scheduler._ending)
            manager.pause_downloads()
        ending.join(2 * SECOND)
        assert not ending.is_alive()
        assert handle.wait(0)
        assert handle.state is DownloadState.CANCELLED
    assert rig.left
    assert our_threads() == []


def test_leaving_a_block_finishes_what_was_asked_for(rig: Rig) -> None:
    with ParallelDownloadManager(settings=rig.settings) as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
    assert handle.state is DownloadState.DONE
    assert rig.is_whole(WEIGHTS)


def test_leaving_a_block_by_an_exception_stops_at_once(rig: Rig) -> None:
    rig.hub.set_pace(None, total=100_000)
    handles: list[DownloadHandle] = []

    def leave() -> None:
        with ParallelDownloadManager(settings=rig.settings) as manager:
            handles.append(manager.submit([rig.request(WEIGHTS)], model_id="m"))
            assert until(lambda: handles[0].progress().bytes_transferred)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert handles[0].state is DownloadState.CANCELLED
    assert our_threads() == []


def test_nobody_waits_for_the_digest_of_a_file_that_was_cancelled(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Verifier.catch_up
    hashing, go_on = threading.Event(), threading.Event()

    def catch_up(self: Verifier, frontier: Any, read_into: Any, *, wait: bool) -> bool:
        def read_one_byte(offset: int, buffer: memoryview) -> int:
            hashing.set()
            assert go_on.wait(10)
            return int(read_into(offset, buffer[:1]))

        self.restart()
        return real(self, frontier, read_one_byte, wait=wait)

    monkeypatch.setattr(Verifier, "catch_up", catch_up)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert hashing.wait(10)
        assert handle.cancel()
        go_on.set()
        assert handle.wait(SECOND)
        assert handle.state is DownloadState.CANCELLED
        assert handle.progress().bytes_done == SIZE
    monkeypatch.undo()
    rig.hub.requests.clear()
    assert rig.fetch(WEIGHTS).errors == {}
    assert rig.is_whole(WEIGHTS)
    assert rig.sent(WEIGHTS) == 0


def test_an_idle_manager_keeps_no_thread_for_ever(rig: Rig) -> None:
    rig.tune(idle_workers=0.05)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(SMALL)], model_id="m")
        assert handle.wait(10)
        assert until(lambda: not our_threads(), 5)
        again = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert again.wait(10)
        assert rig.is_whole(WEIGHTS)


# ---- the process


AT_EXIT = """
import sys
from hf_haul.manager import ParallelDownloadManager, default_manager
class Spec:
    path, size = "model.safetensors", int(sys.argv[3])
manager = default_manager() if sys.argv[4] == "default" else ParallelDownloadManager()
import threading
moving = threading.Event()
def told(progress):
    if progress.bytes_downloaded:
        moving.set()
queue = manager.queue_model_download("m", [Spec], sys.argv[1], sys.argv[2], progress_callback=told)
manager.events.subscribe(lambda e: None)
assert moving.wait(20)
print("leaving")
if sys.argv[5] == "raises":
    raise SystemExit(3)
"""


@pytest.mark.parametrize("which", ["default", "own"])
@pytest.mark.parametrize("how", ["ends", "raises"])
def test_a_program_that_ends_in_the_middle_ends_soon_and_keeps_what_it_has(
    rig: Rig, tmp_path: Path, which: str, how: str
) -> None:
    rig.hub.options.lfs = "direct"
    rig.hub.set_pace(None, total=200_000)
    out = tmp_path / "out"
    started = time.monotonic()
    done = run_python(
        AT_EXIT, hub_environment(rig.hub, tmp_path / "home"), rig.url("").rstrip("/"), str(out), str(SIZE), which,
        how,
    )  # fmt: skip
    assert time.monotonic() - started < 20
    assert done.stdout == "leaving\n"
    assert done.returncode == (3 if how == "raises" else 0)
    assert done.stderr == ""
    assert [p.name.endswith(".incomplete") for p in out.iterdir()] == [True]


LATE = """
import atexit, sys, threading
import hf_haul
from hf_haul.filesystem import HaulFileSystem
when, home = sys.argv[1:]
doors = {
    "file": lambda: hf_haul.hf_hub_download("org/m", "config.json"),
    "snapshot": lambda: hf_haul.snapshot_download("org/m"),
    "local_dir": lambda: hf_haul.snapshot_download("org/m", local_dir=home + "/here"),
    "read": lambda: HaulFileSystem().cat_file("org/m/model.safetensors"),
    "get": lambda: HaulFileSystem().get_file("org/m/model.safetensors", home + "/got"),
}
def work():
    if when != "atexit":
        threading.main_thread().join()
    for name, door in doors.items():
        try:
            door()
            print(name)
        except BaseException as error:
            print(name, repr(error))
if when == "atexit":
    atexit.register(work)
else:
    threading.Thread(target=work).start()
"""


@pytest.mark.parametrize("when", ["after the main thread", "atexit"])
def test_downloads_work_when_the_program_is_over(rig: Rig, tmp_path: Path, when: str) -> None:
    done = run_python(LATE, hub_environment(rig.hub, tmp_path / "home"), when, str(tmp_path))
    assert done.stdout.split() == ["file", "snapshot", "local_dir", "read", "get"]
    assert done.stderr == ""


#: Python 3.12 and later warn of any fork of a process with threads.
FORK_IS_MEANT = "ignore:This process:DeprecationWarning"
FORK = """
import json, os, sys, threading, time
from hf_haul.manager import ParallelDownloadManager
url, out, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
class Spec:
    path = "model.safetensors"
Spec.size = size
seen = []
manager = ParallelDownloadManager()
manager.events.subscribe(lambda e: seen.append(e.kind))
moving = threading.Event()
queue = manager.queue_model_download("m", [Spec], url, out + "/parent", progress_callback=lambda p: moving.set())
single = manager.add_download_task("m", "b", url + "/" + Spec.path, out + "/single/b", size)
assert moving.wait(20)
pid = os.fork()
if pid == 0:
    result = {}
    try:
        result["unknown"] = [manager.get_model_queue_status(each) for each in (queue, single)]
        result["queues"] = manager.get_download_stats()["queues"]
        result["ok"] = manager.download_model_parallel("m", [Spec], url, out + "/child")["success"]
        manager.shutdown()
        result["threads"] = [t.name for t in threading.enumerate() if t.name.startswith("hf-haul-w")]
        result["events"] = seen.count("queue_done")
    except BaseException as error:
        result["error"] = repr(error)
    with open(out + "/child.json", "w") as file:
        json.dump(result, file)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert manager.wait_for_model_completion(queue, 30)["success"]
assert manager.wait_for_model_completion(single, 30)["success"]
manager.shutdown()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_downloads_with_the_manager_it_inherits_while_the_parent_goes_on(
    rig: Rig, tmp_path: Path
) -> None:
    rig.hub.options.lfs = "direct"
    rig.hub.set_pace(None, total=1_000_000)
    done = run_python(
        FORK,
        hub_environment(rig.hub, tmp_path / "home", PYTHONWARNINGS=FORK_IS_MEANT),
        rig.url("").rstrip("/"),
        str(tmp_path),
        str(SIZE),
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert json.loads((tmp_path / "child.json").read_text()) == {
        "unknown": [None, None], "queues": 0, "ok": True, "threads": [], "events": 1,
    }  # fmt: skip
    for path in ("parent/model.safetensors", "single/b", "child/model.safetensors"):
        assert (tmp_path / path).read_bytes() == rig.files[WEIGHTS]


HANDLES = """
import os, sys
from hf_haul.manager import ParallelDownloadManager
from hf_haul.storage.destinations import FileDestination
from hf_haul.task import FileRequest, RemoteFile
from pathlib import Path
manager = ParallelDownloadManager()
target = Path(sys.argv[2]) / "x"
handle = manager.submit([FileRequest(RemoteFile("x", sys.argv[1] + "/model.safetensors", int(sys.argv[3])),
                                     FileDestination(target, "v"))], model_id="m")
pid = os.fork()
if pid == 0:
    for ask in (handle.wait, handle.cancel, handle.pause, handle.resume, handle.progress, handle.errors):
        try:
            ask()
        except RuntimeError as error:
            assert "parent process" in str(error)
        else:
            os._exit(1)
    os._exit(0)
print(os.waitpid(pid, 0)[1])
assert handle.wait(20)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_parents_handle_refuses_to_hang_in_a_forked_child(rig: Rig, tmp_path: Path) -> None:
    rig.hub.options.lfs = "direct"
    done = run_python(
        HANDLES,
        hub_environment(rig.hub, tmp_path / "home", PYTHONWARNINGS=FORK_IS_MEANT),
        rig.url("").rstrip("/"),
        str(tmp_path),
        str(SIZE),
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
