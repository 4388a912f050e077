"""Devices and pipes as destinations."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
import threading
from pathlib import Path

import pytest
from tests.support.repos import random_bytes
from tests.support.waits import until

from hf_haul.errors import StopRequestedError
from hf_haul.storage.nodes import NodeDestination, is_node

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")

DATA = random_bytes(3_000_000, "nodes")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def stage(destination: NodeDestination, data: bytes = DATA) -> Path:
    staged = destination.staging_dir / f"{destination.staging_key}.haul.incomplete"
    staged.write_bytes(data)
    return staged


def test_a_node_is_what_bytes_are_written_into(tmp_path: Path, pipe: Path) -> None:
    file, folder, link, lost = (tmp_path / name for name in ("file", "folder", "link", "lost"))
    file.write_bytes(b"")
    folder.mkdir()
    link.symlink_to(pipe)
    lost.symlink_to(tmp_path / "nowhere")
    assert is_node(pipe)
    assert is_node(link)
    assert is_node(os.devnull)
    assert not any(is_node(each) for each in (file, folder, lost, tmp_path / "nothing"))


def test_a_pipe_gets_the_bytes_in_order_once_somebody_reads(pipe: Path) -> None:
    destination = NodeDestination(pipe, "v")
    staged = stage(destination)
    writing = threading.Thread(target=destination.publish, args=[staged])
    writing.start()
    assert pipe.read_bytes() == DATA
    writing.join(10)
    assert not staged.exists()
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)


@pytest.mark.parametrize("reader", ["nobody reads", "the reader has stopped reading"])
def test_a_cancel_ends_the_wait_for_who_reads(reader: str, pipe: Path) -> None:
    destination, cancelled, errors = NodeDestination(pipe, "v"), threading.Event(), []
    staged = stage(destination)

    def write() -> None:
        try:
            destination.publish(staged, cancelled.is_set)
        except StopRequestedError as error:
            errors.append(error)

    writing = threading.Thread(target=write)
    fd = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if reader != "nobody reads" else None
    try:
        writing.start()
        if fd is not None:
            assert until(lambda: _holds_bytes(fd))
        cancelled.set()
        writing.join(10)
        assert len(errors) == 1
        assert not staged.exists()
    finally:
        if fd is not None:
            os.close(fd)


def _holds_bytes(fd: int) -> bool:
    try:
        return len(os.read(fd, 10)) == 10
    except BlockingIOError:
        return False


def test_what_a_device_refuses_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    destination = NodeDestination(Path("/dev/full"), "v")
    staged = stage(destination)
    with pytest.raises(OSError, match="space") as caught:
        destination.publish(staged)
    assert caught.value.errno == errno.ENOSPC
    assert not staged.exists()


def test_a_socket_cannot_be_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # its path must be short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket")
        assert is_node("socket")
        with pytest.raises(OSError, match="socket") as caught:
            NodeDestination(Path("socket"))
        assert caught.value.errno == errno.ENXIO


def test_files_are_staged_where_nobody_else_can_look(pipe: Path, tmp_path: Path) -> None:
    destination = NodeDestination(pipe, "v")
    folder = destination.staging_dir
    assert folder.parent == tmp_path / "tmp"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert destination.staging_dir == folder
    others = [NodeDestination(pipe, "w"), NodeDestination(Path(os.devnull), "v")]
    assert len({each.staging_key for each in (destination, *others)}) == 3
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(PermissionError):
        _ = destination.staging_dir
