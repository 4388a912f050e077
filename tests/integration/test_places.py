"""Where a file may be copied to, with ``get`` and with ``local_path``: what ``cp`` would do there."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.repos import random_bytes
from tests.support.waits import until

import hf_haul
from hf_haul.config import Settings
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub import LocalHub, Repo
from hf_haul.manager import ParallelDownloadManager

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")

DATA = random_bytes(3_000_001, "places")
NAME = "org/m/big.bin"
SETTINGS = Settings(first_retry_wait=0.01, max_retry_wait=0.05, max_retries=3, durable=False)

Copy = Callable[[Path], None]


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    repo = Repo("org/m")
    repo.commit({"big.bin": DATA, "small.txt": b"hello\n"}, "first")
    with LocalHub(repo, lfs="redirect") as hub:
        yield hub


@pytest.fixture
def manager() -> Iterator[ParallelDownloadManager]:
    with ParallelDownloadManager(settings=SETTINGS) as manager:
        yield manager


@pytest.fixture(params=["get_file", "get", "get a list", "local_path", "local_path without a digest"])
def copy(request: pytest.FixtureRequest, hub: LocalHub, manager: ParallelDownloadManager) -> Copy:
    """Copies the file to a place, in one of the ways there are."""
    fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
    fs.manager = manager

    def by_task(place: Path) -> None:
        digest = fs.info(NAME)["lfs"]["sha256"] if request.param == "local_path" else None
        task = manager.add_download_task("m", "big.bin", fs.url(NAME), place, digest=digest)
        outcome = manager.wait_for_model_completion(task, 60)
        if not outcome["success"]:
            raise OSError(outcome["failed_files"])

    ways: dict[str, Copy] = {
        "get_file": lambda place: fs.get_file(NAME, str(place)),
        "get": lambda place: fs.get(NAME, str(place)),
        "get a list": lambda place: fs.get([NAME], [str(place)]),
    }
    return ways.get(request.param, by_task)


def test_a_pipe_is_written_into_in_order(copy: Copy, tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    copy(pipe)
    reader.join(10)
    assert got == [DATA]
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_device_stays_a_device(copy: Copy, tmp_path: Path) -> None:
    device = tmp_path / "device"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        with device.open("wb") as file:
            file.write(b"x")
    except OSError:  # only root may, and not everywhere
        device = Path(os.devnull)
    copy(device)
    assert stat.S_ISCHR(os.lstat(device).st_mode)
    assert len(os.listdir(tmp_path)) == (device.parent == tmp_path)


def test_a_link_to_a_device_leads_there(copy: Copy, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(os.devnull)
    copy(link)
    assert link.is_symlink()
    assert stat.S_ISCHR(os.stat(link).st_mode)


def test_a_socket_is_refused_as_cp_does(copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # its path must be short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket")
        with pytest.raises(OSError, match="socket") as caught:
            copy(Path("socket"))
        assert caught.value.errno in {errno.ENXIO, errno.EOPNOTSUPP}
        assert stat.S_ISSOCK(os.lstat("socket").st_mode)


def test_a_pipe_in_a_local_dir_stays_and_nothing_is_fetched_for_it(hub: LocalHub, tmp_path: Path) -> None:
    pipe = tmp_path / "big.bin"
    os.mkfifo(pipe)
    hub.requests.clear()
    with pytest.raises(FileExistsError, match="pipe"):
        hf_haul.snapshot_download("org/m", endpoint=hub.url, token=False, local_dir=tmp_path)
    with pytest.raises(FileExistsError, match="pipe"):
        hf_haul.hf_hub_download("org/m", "big.bin", endpoint=hub.url, token=False, local_dir=tmp_path)
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)
    assert not hub.requests.of("cdn")


@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_is_no_place_for_a_file(
    copy: Copy, tmp_path: Path, linked: bool, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "folder"
    (folder / "big.bin" / "kept").mkdir(parents=True)
    place = folder / "big.bin"
    if linked:
        (folder / "link").symlink_to(place)
        place = folder / "link"
    if request.node.callspec.params["copy"] == "get":  # by fsspec's rule, and cp's, it goes into the folder
        copy(place)
        assert (place / "big.bin").read_bytes() == DATA
    else:
        with pytest.raises(IsADirectoryError):
            copy(place)
    assert (folder / "big.bin" / "kept").is_dir()
    assert place.is_symlink() == linked


@pytest.mark.parametrize("there", [True, False], ids=["a file is there", "nothing is there yet"])
def test_a_link_is_followed_to_its_target(copy: Copy, tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    target, first, second = tmp_path / "far" / "target", tmp_path / "first", tmp_path / "second"
    if there:
        target.write_bytes(b"old")
        target.chmod(0o640)
    second.symlink_to(target)
    first.symlink_to("second")
    copy(first)
    assert os.readlink(first) == "second"
    assert os.readlink(second) == str(target)
    assert target.read_bytes() == DATA
    assert os.listdir(target.parent) == ["target"]
    assert not there or stat.S_IMODE(target.stat().st_mode) == 0o640


def test_links_in_a_circle_are_an_error(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        copy(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_nothing_is_written_through_a_link_to_a_blob(copy: Copy, tmp_path: Path) -> None:
    """Invariant 3."""
    cache = tmp_path / "models--org--m"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "main").mkdir(parents=True)
    blob, pointer = cache / "blobs" / ("a" * 64), cache / "snapshots" / "main" / "big.bin"
    blob.write_bytes(b"the blob's own")
    pointer.symlink_to(f"../../blobs/{'a' * 64}")
    copy(pointer)
    assert blob.read_bytes() == b"the blob's own"
    assert pointer.read_bytes() == DATA


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o400])
def test_a_file_that_is_replaced_keeps_its_permissions(copy: Copy, tmp_path: Path, mode: int) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"old")
    place.chmod(mode)
    copy(place)
    assert place.read_bytes() == DATA
    assert stat.S_IMODE(place.stat().st_mode) == mode


def test_a_file_of_another_user_stays_theirs(copy: Copy, tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"old")
    place.chmod(0o600)
    try:
        os.chown(place, 12345, 12345)
    except OSError:
        pytest.skip("only root may")
    copy(place)
    found = place.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 12345, 0o600)


def test_a_new_file_gets_the_permissions_of_new_files(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"")
    copy(tmp_path / "file")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_cancel_does_not_wait_for_who_reads_a_pipe(
    hub: LocalHub, manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    url = f"{hub.url}/org/m/resolve/main/small.txt"
    task = manager.add_download_task("m", "small.txt", url, pipe, 6)
    assert until(lambda: (manager.get_model_queue_status(task) or {}).get("bytes_done") == 6)
    started = time.monotonic()
    assert manager.cancel_model_download(task)
    assert manager.wait_for_model_completion(task, 60)["state"] == "cancelled"
    assert time.monotonic() - started < 1.0
