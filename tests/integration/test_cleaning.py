"""Status and cleaning while others work: processes that fetch, adopt, publish, stand still, or are killed."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.children import Child, Nursery, job_for
from tests.support.engine import WEIGHTS, Rig, serve_files
from tests.support.hub import SRC, hub_environment
from tests.support.repos import random_bytes
from tests.support.storage import left_behind
from tests.support.waits import until

import hf_haul
import hf_haul.hub.status  # before a download is under way
from hf_haul.config import KiB, MiB
from hf_haul.storage import sweeping

SIZE = 16 * MiB


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path / "out", weights=SIZE) as rig:
        rig.hub.set_pace(MiB)  # of each connection
        rig.settings = replace(rig.settings, part_size=MiB, chunk_size=64 * KiB)
        yield rig


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("results")) as nursery:
        yield nursery


def _start(rig: Rig, nursery: Nursery, *pretend: str, **where: object) -> Child:
    """Have a child download the repository into a cache, or a folder, and wait until it has some bytes."""
    what = {"repo_id": "org/m", "endpoint": rig.hub.url, **where}
    job = job_for(rig, pretend=pretend, snapshot=what, part_size=MiB)
    return nursery.start(job)


def _has_some(folder: Path, nbytes: int = MiB) -> None:
    assert until(lambda: folder.exists() and hf_haul.status(folder).bytes_done >= nbytes, 20)


@pytest.mark.parametrize("to", ["cache_dir", "local_dir"])
def test_of_a_killed_download_it_is_told_what_to_type_and_that_goes_on(
    rig: Rig, nursery: Nursery, tmp_path: Path, to: str
) -> None:
    folder = tmp_path / "there"
    child = _start(rig, nursery, **{to: str(folder)})
    _has_some(folder)
    (file,) = hf_haul.status(folder).files
    assert (file.file, file.repo_id, file.bytes_total) == (WEIGHTS, "org/m", SIZE)
    assert (file.owner.state, file.owner.pid, file.command) == ("alive", child.pid, None)
    child.kill()
    (file,) = hf_haul.status(folder).files
    assert (file.owner.state, file.resumable) == ("dead", True)
    assert file.bytes_done >= MiB
    assert file.command is not None
    env = {**os.environ, "PYTHONPATH": str(SRC), "HF_ENDPOINT": rig.hub.url}
    words = [sys.executable, "-m", "hf_haul.cli", *shlex.split(file.command)[1:], "-v"]
    rig.hub.set_pace(None)
    done = subprocess.run(words, env=env, check=True, capture_output=True, text=True)
    assert f"{file.bytes_done} of {SIZE} bytes are here" in done.stderr
    assert hf_haul.status(folder).files == ()


@pytest.mark.parametrize(
    "pretend",
    [
        pytest.param((), id="where all can be seen"),
        pytest.param(("locks always succeed",), id="locks lie"),
        pytest.param(("another container",), id="another container"),
        pytest.param(("another container", "locks always succeed"), id="another container, locks lie"),
        pytest.param(("another host",), id="another host"),
        pytest.param(("another host", "locks always succeed"), id="another host, locks lie"),
    ],
)
@pytest.mark.parametrize("to", ["cache_dir", "local_dir"])
def test_whatever_is_cleaned_meanwhile_a_download_loses_nothing(
    rig: Rig,
    nursery: Nursery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    to: str,
    pretend: tuple[str, ...],
) -> None:
    if "locks always succeed" in pretend:
        monkeypatch.setattr("fcntl.flock", lambda *_: None)  # here as there: it is one file system
    folder = tmp_path / "there"
    folder.mkdir()
    rig.hub.set_pace(8 * MiB)
    child = _start(rig, nursery, *pretend, **{to: str(folder)})
    looks = 0
    while not child.result.exists():
        assert [file.path for file in hf_haul.clean(folder).removed if file.kind == "staged"] == []
        looks += 1
    assert "folder" in child.wait()
    assert looks > 10
    assert rig.hub.requests.settle()
    assert rig.sent(WEIGHTS) == SIZE
    assert hf_haul.status(folder).files == ()


def test_what_a_stopped_process_holds_stays_until_it_is_killed(
    rig: Rig, nursery: Nursery, tmp_path: Path
) -> None:
    folder = tmp_path / "there"
    child = _start(rig, nursery, cache_dir=str(folder))
    _has_some(folder)
    child.stop()
    result = hf_haul.clean(folder)
    assert result.removed == ()
    (kept,) = result.kept
    assert kept.reason.startswith(f"process {child.pid} on ")
    child.kill()
    result = hf_haul.clean(folder)
    assert [file.file for file in result.removed] == [WEIGHTS]
    assert result.bytes_freed >= MiB
    assert not list(folder.rglob("*.incomplete"))


def test_many_small_files_are_published_under_a_cleaners_eyes(tmp_path: Path, nursery: Nursery) -> None:
    more = {f"small/{i}.txt": random_bytes(2000, i) for i in range(400)}
    with serve_files(tmp_path / "out", weights=MiB, more=more) as rig:
        folder = tmp_path / "there"
        folder.mkdir()
        child = _start(rig, nursery, cache_dir=str(folder))
        while not child.result.exists():
            hf_haul.clean(folder)
        snapshot = Path(child.wait()["folder"])
        assert {path: (snapshot / path).read_bytes() for path in rig.files} == rig.files
        assert rig.hub.requests.settle()
        assert {path: rig.sent(path) for path in rig.files} == {
            path: len(rig.files[path]) for path in rig.files
        }


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere we do not know which file systems are this host's"
)
@pytest.mark.parametrize("to", ["cache_dir", "local_dir"])
def test_what_huggingface_hub_is_fetching_is_seen_by_its_lock_and_goes_when_it_was_killed(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setattr(sweeping, "keeps_writes", lambda _: True)
    folder = tmp_path / "there"
    code = f"import huggingface_hub as h; h.hf_hub_download('org/m', {WEIGHTS!r}, {to}={str(folder)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=hub_environment(rig.hub, tmp_path / "home")
    ) as child:
        assert until(lambda: folder.exists() and hf_haul.status(folder).files, 20)
        (file,) = hf_haul.status(folder).files
        assert (file.kind, file.owner.state, file.resumable) == ("huggingface_hub", "alive", False)
        os.utime(file.path, (1, 1))  # as if nothing came for long
        (kept,) = hf_haul.clean(folder).kept
        assert kept.reason == "a process is using it"
        child.kill()
    assert until(lambda: not rig.hub.open_connections)
    os.utime(file.path, (1, 1))
    (removed,) = hf_haul.clean(folder).removed
    assert removed.path == file.path
    assert not file.path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such terminals there")
@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_at_a_terminal_it_asks_and_without_one_it_removes_nothing(
    tmp_path: Path, answer: str, code: int
) -> None:
    import pty  # not there on Windows

    path = left_behind(tmp_path / "hub/models--org--name/blobs")
    words = [sys.executable, "-W", "error", "-m", "hf_haul.cli", "clean", str(tmp_path / "hub")]
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(
        words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (done.returncode, path.exists()) == (2, True)
    assert "1 file" in done.stdout
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        said = b""
        while b"[y/N] " not in said:
            said += os.read(ours, 4096)
        assert path.exists()
        os.write(ours, f"{answer}\n".encode())
        with contextlib.suppress(OSError):  # the other end is closed
            while data := os.read(ours, 4096):
                said += data
        assert child.wait(20) == code
    os.close(ours)
    assert path.exists() == (answer == "n")
    assert (b"removed 1 file" in said) == (answer == "y")


_RACE = """
import os, sys, time
from pathlib import Path
from tests.support.storage import DATA, SIZE, left_behind, put
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.claiming import claim
from hf_haul.storage.partial_files import partial_files
from hf_haul.storage.staged_file import StagedLostError
from hf_haul.storage.removal import StillInUseError, remove_partial
from hf_haul.storage.staged_names import scan_orphans
from hf_haul.storage.staging_places import staging_places

folder = Path(sys.argv[1])

if sys.argv[3] == "lie":
    import fcntl
    fcntl.flock = lambda *_: None

def fetch():
    while True:
        try:
            staged = claim(folder, "etag", SIZE, orphans=scan_orphans(folder).get("etag"))
            resumed = staged.resumed > 0
            for run in staged.missing():
                put(staged, run.start, run.stop)
            os.rename(staged.seal(durable=False), folder / "final")
            return 10 if resumed else 11
        except StagedElsewhereError:
            pass
        except StagedLostError:
            assert sys.argv[3] == "lie"
            staged.close()

def clean():
    found = [each for place in staging_places(folder) for each in partial_files(place)]
    freed = 0
    for each in found:
        try:
            freed += remove_partial(each)
        except StillInUseError:
            pass
    return 20 if freed else 21

def start(what, ready):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.close(ready[1])
        os.read(ready[0], 1)  # until all are there
        code = what()
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)

counts = {}
for turn in range(int(sys.argv[2])):
    left_behind(folder)
    ready = os.pipe()
    pids = [start(what, ready) for what in (fetch, clean, clean)]
    os.close(ready[0])
    os.close(ready[1])
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert 1 not in codes, (turn, codes)
    assert (folder / "final").read_bytes() == DATA, (turn, codes)
    (folder / "final").unlink()
    assert list(folder.iterdir()) == [], (turn, codes, list(folder.iterdir()))
    assert codes[1:] != [20, 20], "removed twice"
    assert sys.argv[3] == "lie" or not (codes[0] == 10 and 20 in codes), "resumed from what was removed"
    for code in codes:
        counts[code] = counts.get(code, 0) + 1
print(*sorted(counts))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that start at once")
@pytest.mark.parametrize("locks", ["tell the truth", "lie"])
def test_of_who_adopts_and_who_cleans_one_gets_the_file_and_the_download_arrives(
    tmp_path: Path, locks: str
) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": f"{SRC}{os.pathsep}{SRC.parent}"}
    words = [sys.executable, "-W", "error", "-c", _RACE, str(folder), "300", locks]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {"10", "21"} <= set(done.stdout.split()), "the cleaners always won"
    assert {"11", "20"} <= set(done.stdout.split()), "the cleaners never won"
