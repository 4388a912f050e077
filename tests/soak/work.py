"""All that can be done with a hub, at once and for long: ``python -m tests.soak.work URL SOURCE PLACE SECONDS SEED``.

Threads download snapshots and files, run queues and cancel them, read and stream through ``haul://``, fork children
that do the same, and kill processes that download into the same cache. Each byte is compared with SOURCE. A summary
is printed as JSON; if something takes longer than it ever may, the stacks of all threads, and the exit code is 3.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import faulthandler
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

from hf_haul import HaulFileSystem, ParallelDownloadManager, hf_hub_download, snapshot_download
from hf_haul.manager import default_manager

HUNG: Final = 3  # exit code
_WRONG, _FAILED, _BROKE = 10, 11, 12  # exit codes of children
_LIMIT: Final = 180.0  # seconds that one thing may take, with a hub like this
_CHILD_LIMIT: Final = 90  # the same for what a child does
_SETTLE: Final = 60.0  # seconds in which all threads and descriptors have to go
_EPOCH: Final = 10.0  # seconds for which a cache is shared before there is a new one
_WARM_UP: Final = 60.0  # seconds after which memory must not grow any more
_RESTS: Final = 4  # moments of rest after that, the last at the end
_REST: Final = (
    20.0  # seconds in which what goes on behind the tasks ends, and threads that are idle, with their buffers
)
_PAUSE: Final = (
    0.02  # seconds between two things: who finds all in the cache must not keep the others from working
)
_COLLECT_AT: Final = 100  # allocations
_PIECE: Final = 1 << 16  # bytes
#: What nothing that a hub does may end in.
_OUR_FAULT: Final = (
    ArithmeticError, AssertionError, AttributeError, BufferError, LookupError, NameError, RuntimeError, SyntaxError,
    TypeError, ValueError, EntryNotFoundError, RepositoryNotFoundError, FileNotFoundError, MemoryError,
)  # fmt: skip
#: Errors of the hub's that happen to be one of those.
_ITS_FAULT: Final = (LocalEntryNotFoundError, json.JSONDecodeError)


class WrongBytesError(Exception):
    """Something arrived that is not what the repository has."""


@dataclass
class Truth:
    """What the repositories have."""

    folder: Path
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    sha256: dict[str, dict[str, str]] = field(default_factory=dict)
    compared: collections.Counter[str] = field(default_factory=collections.Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)  # guards ``compared``

    def __post_init__(self) -> None:
        for repo in self.folder.iterdir():
            found = {
                path.relative_to(repo).as_posix(): path.read_bytes()
                for path in repo.rglob("*")
                if path.is_file()
            }
            self.files[repo.name] = found
            self.sha256[repo.name] = {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}

    def check_file(self, repo: str, name: str, path: str | Path) -> int:
        """Compare a file, piece by piece lest it be these that the memory is measured of; returns its size."""
        at = 0
        with open(path, "rb", buffering=0) as file:
            while data := file.read(_PIECE):
                self.check(repo, name, at, data, kind="pieces of files")
                at += len(data)
        if at != len(self.files[repo][name]):
            raise WrongBytesError(f"{repo}/{name}: {at} bytes of {len(self.files[repo][name])}")
        self._count("files")
        return at

    def check(self, repo: str, name: str, start: int, data: bytes, *, kind: str = "reads") -> None:
        """Compare what was read of a file, from ``start``."""
        if data != self.files[repo][name][start : start + len(data)]:
            raise WrongBytesError(
                f"{repo}/{name} from {start}: {len(data)} bytes are not what they should be"
            )
        self._count(kind)

    def _count(self, kind: str) -> None:
        with self.lock:
            self.compared[kind] += 1

    def check_folder(self, repo: str, folder: str | Path) -> int:
        """Compare a whole snapshot; returns how many bytes it has."""
        root = Path(folder)
        found = {
            path.relative_to(root).as_posix()
            for path in root.rglob("*")
            if path.is_file() and ".cache" not in path.relative_to(root).parts
        }
        if found != self.files[repo].keys():
            raise WrongBytesError(f"{repo}: {sorted(found ^ self.files[repo].keys())} too many or too few")
        return sum(self.check_file(repo, name, root / name) for name in found)


class SharedPlaces:
    """Caches that several work in at once; each for a while, and removed when nobody is in it any more.

    Attributes:
        only: The one to stay in: of a child, for which its parent has it, and removes it.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self.only: Path | None = None
        self._lock = threading.Lock()
        self._users: collections.Counter[int] = collections.Counter()

    @contextlib.contextmanager
    def one(self) -> Iterator[Path]:
        """The cache of now."""
        if self.only is not None:
            yield self.only
            return
        with self._lock:
            epoch = int(time.monotonic() / _EPOCH)
            self._users[epoch] += 1
        try:
            yield self._base / f"shared-{epoch}"
        finally:
            with self._lock:
                self._users[epoch] -= 1
                over = not self._users[epoch] and epoch != int(time.monotonic() / _EPOCH)
            if over:
                shutil.rmtree(self._base / f"shared-{epoch}", ignore_errors=True)


class Soak:
    """The work, and what came of it.

    Locking: ``_lock`` guards the counts, ``_doing`` and ``_resting``.
    """

    def __init__(self, url: str, truth: Truth, place: Path, seed: str) -> None:
        self.url = url
        self.truth = truth
        self.place = place
        self.seed = seed
        self.over = threading.Event()
        self.shared = SharedPlaces(place)
        self._lock = threading.Lock()
        self._doing: dict[str, tuple[str, float]] = {}
        self._number = 0
        self.done: collections.Counter[str] = collections.Counter()
        self.bytes = 0
        self.errors: collections.Counter[str] = collections.Counter()
        self.faults: collections.Counter[str] = collections.Counter()
        self.wrong: collections.Counter[str] = collections.Counter()
        self.slowest: dict[str, float] = {}
        self._shown: set[str] = set()
        self._resting = False
        self.manager = ParallelDownloadManager(max_concurrent_downloads=8)
        self.mother: subprocess.Popen[str] | None = None

    # -- what is said about it

    def work(self, name: str, task: Callable[[random.Random], int]) -> None:
        """Do one thing again and again, on a thread of its own."""
        chance = random.Random(f"{self.seed} {threading.current_thread().name}")
        while not self.over.wait(_PAUSE):
            self._do(name, task, chance)

    def _do(self, name: str, task: Callable[[random.Random], int], chance: random.Random) -> None:
        me, start = threading.current_thread().name, time.monotonic()
        with self._lock:
            if self._resting:
                return
            self._doing[me] = (name, start)
        kind, nbytes = "", 0
        try:
            nbytes = task(chance)
        except WrongBytesError as error:
            with self._lock:
                self.wrong[f"{name}: {error}"] += 1
        except Exception as error:  # whatever it is, it is counted
            kind = type(error).__name__
            self._show_first(f"{name}: {kind}", error)
            if isinstance(error, _OUR_FAULT) and not isinstance(error, _ITS_FAULT):
                with self._lock:
                    self.faults[f"{name}: {''.join(traceback.format_exception(error))}"] += 1
        with self._lock:
            del self._doing[me]
            self.done[name if not kind else f"{name} (failed)"] += 1
            self.bytes += nbytes
            self.slowest[name] = max(self.slowest.get(name, 0.0), time.monotonic() - start)
            if kind:
                self.errors[f"{name}: {kind}"] += 1

    def _show_first(self, what: str, error: Exception) -> None:
        """For whoever wants to know why something failed that may."""
        with self._lock:
            shown, self._shown = what in self._shown, self._shown | {what}
        if not shown:
            print(f"FAILED {what}", *traceback.format_exception(error), sep="\n", file=sys.stderr, flush=True)

    def exit_if_hung(self) -> None:
        """Show all stacks and end the process if something takes longer than anything may."""
        now = time.monotonic()
        with self._lock:
            hung = [
                f"{what} on {who}, for {now - start:.0f} s"
                for who, (what, start) in self._doing.items()
                if now - start > _LIMIT
            ]
        if hung:
            print(f"HUNG: {hung}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(all_threads=True)
            os._exit(HUNG)

    @contextlib.contextmanager
    def rest(self) -> Iterator[None]:
        """Nothing is done in the block; what is under way ends before."""
        with self._lock:
            self._resting = True
        try:
            while self._doing:
                self.exit_if_hung()
                time.sleep(0.1)
            yield
        finally:
            with self._lock:
                self._resting = False

    def count(self, what: str) -> None:
        """Count something besides the tasks themselves."""
        with self._lock:
            self.done[what] += 1

    def new_place(self) -> Path:
        """A folder of one's own."""
        with self._lock:
            self._number += 1
            return self.place / f"own-{os.getpid()}-{self._number}"

    @contextlib.contextmanager
    def own_place(self) -> Iterator[Path]:
        """A folder of one's own, removed afterwards."""
        place = self.new_place()
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def hub(self, **more: Any) -> dict[str, Any]:
        return {"endpoint": self.url, "token": False, **more}

    # -- tasks; each returns how many bytes it has compared

    def snapshot(self, chance: random.Random) -> int:
        where = chance.choice(("cache_dir", "local_dir"))
        repo = chance.choice(("down", "down", "many"))
        options = self.hub(manager=chance.choice((None, self.manager)), force_download=chance.random() < 0.1)
        with self.own_place() as place:
            folder = snapshot_download(f"org/{repo}", **options, **{where: place})
            return self.truth.check_folder(repo, folder)

    def shared_snapshot(self, _: random.Random) -> int:
        with self.shared.one() as place:
            return self.truth.check_folder(
                "down", snapshot_download("org/down", cache_dir=place, **self.hub())
            )

    def one_file(self, chance: random.Random) -> int:
        repo = chance.choice(("down", "many"))
        name = chance.choice(sorted(self.truth.files[repo]))
        with self.shared.one() as place:
            path = hf_hub_download(f"org/{repo}", name, cache_dir=place, **self.hub())
            return self.truth.check_file(repo, name, path)

    def queue(self, chance: random.Random) -> int:
        """A queue that is paused, resumed and perhaps cancelled on its way."""
        place = self.new_place()
        names = chance.sample(sorted(self.truth.files["down"]), k=chance.randint(1, 4))
        specs = [
            SimpleNamespace(
                path=n, size=len(self.truth.files["down"][n]), sha256=self.truth.sha256["down"][n]
            )
            for n in names
        ]
        own = chance.random() < 0.3
        manager = ParallelDownloadManager(max_concurrent_downloads=4) if own else self.manager
        try:
            queue = manager.queue_model_download(
                "org/down",
                specs,
                f"{self.url}/org/down/resolve/main",
                place,
                progress_callback=lambda _: None,
            )
            for _ in range(chance.randint(0, 4)):
                manager.wait_for_model_completion(queue, chance.uniform(0, 0.5))
                manager.pause_downloads(queue)
                manager.get_model_queue_status(queue)
                manager.resume_downloads(queue)
            if chance.random() < 0.3:
                manager.cancel_model_download(queue)
            outcome = manager.wait_for_model_completion(queue, _LIMIT - 30)
            if outcome["timed_out"]:
                raise AssertionError(f"a queue hung: {manager.get_model_queue_status(queue)}")
            if not outcome["success"]:
                self.count("queues cancelled or failed")
            there = [name for name in names if (place / name).exists()]
            if outcome["success"] and len(there) != len(names):
                raise WrongBytesError(f"done, but only {there} of {names} are there")
            return sum(self.truth.check_file("down", name, place / name) for name in there)
        finally:
            if own:
                manager.shutdown()
            shutil.rmtree(place, ignore_errors=True)

    def read(self, chance: random.Random) -> int:
        """Ranges here and there."""
        fs = HaulFileSystem(endpoint=self.url, token=False)
        name = chance.choice([n for n in sorted(self.truth.files["reads"]) if n.endswith(".bin")])
        path, size = f"org/reads/{name}", len(self.truth.files["reads"][name])
        total = 0
        starts = [chance.randrange(size) for _ in range(chance.randint(1, 8))]
        stops = [min(size, start + chance.choice((1, 100, 20_000, 400_000))) for start in starts]
        if chance.random() < 0.3:
            for start, data in zip(starts, fs.cat_ranges([path] * len(starts), starts, stops), strict=True):
                if isinstance(data, Exception):
                    raise data
                self.truth.check("reads", name, start, data)
                total += len(data)
            return total
        file = fs.open(path, "rb")
        for start, stop in zip(starts, stops, strict=True):
            file.seek(start)
            data = file.read(stop - start)
            if len(data) != stop - start:
                raise WrongBytesError(f"{name} from {start}: {len(data)} bytes of {stop - start}")
            self.truth.check("reads", name, start, data)
            total += len(data)
        if chance.random() < 0.5:
            file.close()  # else whoever collects it
        return total

    def stream(self, chance: random.Random) -> int:
        """A whole file, from its start to its end, or half way."""
        fs = HaulFileSystem(endpoint=self.url, token=False)
        if chance.random() < 0.2:
            fs.invalidate_cache()
        name = chance.choice(sorted(self.truth.files["reads"]))
        size, total = len(self.truth.files["reads"][name]), 0
        stop = size if chance.random() < 0.7 else size // 2
        with fs.open(f"org/reads/{name}", "rb", block_size=chance.choice((None, 0, 1 << 16))) as file:
            while total < stop:
                data = file.read(chance.choice((1000, 1 << 16, 1 << 20)))
                if not data:
                    raise WrongBytesError(f"{name} ends at {total} of {size}")
                self.truth.check("reads", name, total, data)
                total += len(data)
        return total

    def fork(self, chance: random.Random) -> int:
        """A child that reads and downloads, whatever the other threads hold just now."""
        task = chance.choice((self.read, self.stream, self.one_file, self.queue, self.snapshot))
        with self.shared.one() as place:
            self._have_a_child(task, chance.random(), place)
        return 0

    def _have_a_child(self, task: Callable[[random.Random], int], seed: float, place: Path) -> None:
        pid = os.fork()
        if not pid:
            self.shared.only = place
            self._lock, self.truth.lock = threading.Lock(), threading.Lock()
            self._be_a_child(task, seed)
        deadline = time.monotonic() + _CHILD_LIMIT + 30
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                break
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGUSR1)  # it says where
                time.sleep(1)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise AssertionError(
                    f"a child hung before it could begin with {task.__name__}; see its traceback"
                )
            time.sleep(0.01)
        code = os.waitstatus_to_exitcode(status)
        if code == _WRONG:
            raise WrongBytesError(f"a child's {task.__name__}")
        if code not in (0, _FAILED):
            what = {1: "hung", _BROKE: "failed as nothing may"}.get(code, f"ended with {code}")
            raise AssertionError(f"a child {what} in {task.__name__}; see its traceback")
        self.count("children that failed as they may" if code else "children that did it")

    def _be_a_child(self, task: Callable[[random.Random], int], seed: float) -> None:
        faulthandler.dump_traceback_later(_CHILD_LIMIT, exit=True)  # then the code is 1
        code = _BROKE
        try:
            task(random.Random(seed))
            code = 0
        except WrongBytesError:
            traceback.print_exc()
            code = _WRONG
        except _ITS_FAULT:
            code = _FAILED
        except _OUR_FAULT:
            traceback.print_exc()
        except Exception:
            code = _FAILED
        finally:
            os._exit(code)

    def kill(self, chance: random.Random) -> int:
        """A process that downloads into the same cache is killed, and another one goes on."""
        assert self.mother is not None
        assert self.mother.stdin is not None
        assert self.mother.stdout is not None
        with self.shared.one() if chance.random() < 0.5 else self.own_place() as place:
            self.mother.stdin.write(f"{place}\n")
            self.mother.stdin.flush()
            pid = int(self.mother.stdout.readline())
            time.sleep(chance.uniform(0, 1.5))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.mother.stdin.write("reap\n")
            self.mother.stdin.flush()
            self.count(f"children {self.mother.stdout.readline().strip()}")
            return self.truth.check_folder(
                "down", snapshot_download("org/down", cache_dir=place, **self.hub())
            )

    @property
    def tasks(self) -> list[tuple[str, Callable[[random.Random], int]]]:
        """What is done, each on a thread of its own."""
        return [
            ("snapshot", self.snapshot),
            ("shared snapshot", self.shared_snapshot),
            ("file", self.one_file),
            ("queue", self.queue),
            ("queue", self.queue),
            ("read", self.read),
            ("read", self.read),
            ("stream", self.stream),
            ("fork", self.fork),
            ("fork", self.fork),
            ("kill", self.kill),
        ]


def be_a_mother(url: str) -> None:
    """Give birth to processes that download: forked from one that has all imported, and no thread."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            with contextlib.suppress(Exception):
                snapshot_download("org/down", cache_dir=line.strip(), endpoint=url, token=False)
            os._exit(0)
        print(pid, flush=True)
        sys.stdin.readline()
        status = os.waitpid(pid, 0)[1]
        print("killed" if os.WIFSIGNALED(status) else "that had ended before", flush=True)


# ---- what the process itself has


def memory() -> int:
    """Bytes of memory of our own, without what the C library keeps for later."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def threads() -> list[str]:
    """Names of all threads."""
    return sorted(thread.name for thread in threading.enumerate())


def descriptors() -> list[str]:
    """What is open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(found)


def memory_at_rest() -> int:
    """The least memory in some seconds in which nothing is asked for, after collections: what is kept."""
    until, least = time.monotonic() + _REST, sys.maxsize
    while time.monotonic() < until:
        gc.collect()
        least = min(least, memory())
        time.sleep(0.5)
    return least


class Growth:
    """Says what has grown since the first moment of rest, for whoever looks for a leak.

    ``SOAK_GROWTH=objects`` counts objects by type, ``SOAK_GROWTH=memory`` memory by where it was asked for, which
    makes all of it slow.
    """

    def __init__(self) -> None:
        self._what = os.environ.get("SOAK_GROWTH", "")
        self._before: Any = None

    def look(self) -> None:
        """Compare with the first time; call it at a moment of rest."""
        if self._what == "memory":
            snapshot = tracemalloc.take_snapshot()
            for each in snapshot.compare_to(self._before, "traceback")[:20] if self._before else ():
                print(each, *each.traceback.format(), sep="\n", file=sys.stderr)
            self._before = self._before or snapshot
        elif self._what:
            counts = collections.Counter(type(each).__qualname__ for each in gc.get_objects())
            for name, more in (counts - (self._before or counts)).most_common(30):
                print(f"GROWTH {name}: {more} more than {counts[name] - more}", file=sys.stderr)
            self._before = self._before or counts


def run(url: str, source: Path, place: Path, seconds: float, seed: str) -> dict[str, Any]:
    """Do it all; returns the summary."""
    truth = Truth(source)
    gc.collect()
    gc.freeze()
    threads_before, descriptors_before = threads(), descriptors()
    soak = Soak(url, truth, place, seed)
    soak.mother = subprocess.Popen(
        [sys.executable, "-m", "tests.soak.work", "mother", url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    gc.set_threshold(_COLLECT_AT, 1, 1)
    workers = [
        threading.Thread(target=soak.work, args=task, name=f"{task[0]} {number}", daemon=True)
        for number, task in enumerate(soak.tasks)
    ]
    warm = min(_WARM_UP, seconds / 3)
    moments = [warm + (seconds - warm) * number / _RESTS for number in range(_RESTS + 1)]
    start = time.monotonic()
    for worker in workers:
        worker.start()
    kept: list[int] = []
    growth = Growth()
    rested = 0.0  # the load lasts as long as was asked for
    for moment in moments:
        while time.monotonic() - start - rested < moment:
            soak.exit_if_hung()
            time.sleep(0.5)
        began = time.monotonic()
        with soak.rest():
            kept.append(memory_at_rest())
            growth.look()
            if moment == moments[-1]:
                soak.over.set()
        rested += time.monotonic() - began
    for worker in workers:
        worker.join()
    gc.set_threshold(700, 10, 10)
    _end(soak)
    wait_until = time.monotonic() + _SETTLE
    while time.monotonic() < wait_until and (
        len(threads()) > len(threads_before) or len(descriptors()) > len(descriptors_before)
    ):
        gc.collect()
        time.sleep(0.2)
    return {
        "seconds": round(time.monotonic() - start, 1),
        "seed": seed,
        "done": dict(sorted(soak.done.items())),
        "slowest": {name: round(value, 1) for name, value in sorted(soak.slowest.items())},
        "bytes": soak.bytes,
        "compared": dict(truth.compared),
        "errors": dict(soak.errors.most_common()),
        "our_faults": dict(soak.faults.most_common(20)),
        "wrong": dict(soak.wrong.most_common(20)),
        "collections": [each["collections"] for each in gc.get_stats()],
        "threads_left": _more(threads(), threads_before),
        "descriptors_left": _more(descriptors(), descriptors_before),
        "memory_after_warm_up": kept[0],
        "memory_at_the_end": kept[-1],
        "memory": [round(size / 2**20, 1) for size in kept],
        "seconds_rested": round(rested, 1),
    }


def _end(soak: Soak) -> None:
    """Let go of all that may be held on purpose."""
    faulthandler.dump_traceback_later(_LIMIT, exit=True)
    gc.unfreeze()
    gc.collect()  # files that were left open: what they had under way ends with their manager
    assert soak.mother is not None
    assert soak.mother.stdin is not None
    assert soak.mother.stdout is not None
    soak.mother.stdin.close()
    soak.mother.wait(30)
    soak.mother.stdout.close()
    soak.manager.shutdown()
    default_manager().shutdown()
    HaulFileSystem.clear_instance_cache()
    huggingface_hub.close_session()
    gc.collect()
    faulthandler.cancel_dump_traceback_later()


def _more(now: list[str], before: list[str]) -> list[str]:
    left = collections.Counter(now) - collections.Counter(before)
    return sorted(left.elements()) if len(now) > len(before) else []


def main() -> None:
    warnings.simplefilter("ignore")
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    if os.environ.get("SOAK_GROWTH") == "memory":
        tracemalloc.start(12)
    if sys.argv[1] == "mother":
        be_a_mother(sys.argv[2])
        return
    url, source, place, seconds, seed = sys.argv[1:]
    print(json.dumps(run(url, Path(source), Path(place), float(seconds), seed)), flush=True)


if __name__ == "__main__":
    main()
