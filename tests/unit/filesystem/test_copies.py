"""Copies to disk: which file goes where, who is told of it, and what is left after a failure."""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.implementations.memory import MemoryFileSystem
from tests.support.sources import FakeTransport, make_reads

from hf_haul.config import Settings
from hf_haul.errors import IntegrityError, UnsafePathError
from hf_haul.filesystem.copies import CallbackReport, PairCollector, PartialCopyMarker, download, stream_into
from hf_haul.filesystem.target import Target
from hf_haul.reading.extents import Extents
from hf_haul.task import Digest, DownloadProgress, DownloadState, FileRequest, RemoteFile

DATA = b"some bytes"
DIGEST = Digest("sha256", hashlib.sha256(DATA).hexdigest())


def target(name: str = "org/m/a", lpath: str = "out/a", *, digest: Digest | None = DIGEST) -> Target:
    remote = RemoteFile(name, f"https://hub.test/{name}", len(DATA), digest)
    explain = lambda _path, _commit, error: LookupError("explained") if "gone" in str(error) else None  # noqa: E731  short
    repository: Any = SimpleNamespace(repo_id="org/m", explain=explain)
    return Target(name, lpath, repository, name.rpartition("/")[2], "c" * 40, remote, {})


def progress(name: str, nbytes: int, status: DownloadState = DownloadState.RUNNING) -> DownloadProgress:
    return DownloadProgress("task", "org/m", name, nbytes, len(DATA), 0.0, None, status)


class Recorder(Callback):
    """Writes down what it is told, and what its branches are."""

    def __init__(self, name: str = "", log: list[tuple[str, str, int]] | None = None) -> None:
        super().__init__()
        self.name = name
        self.log: list[tuple[str, str, int]] = [] if log is None else log

    def set_size(self, size: int) -> None:
        self.log.append((self.name, "size", size))

    def relative_update(self, inc: int = 1) -> None:
        self.log.append((self.name, "update", inc))

    def branched(self, path_1: str, path_2: str, **kwargs: Any) -> Callback:
        return Recorder(f"{path_1} -> {path_2}", self.log)

    def close(self) -> None:
        self.log.append((self.name, "close", 0))


# ---- what a callback is told


def test_each_file_has_a_branch_of_its_size_and_the_callback_counts_files() -> None:
    callback = Recorder()
    report = CallbackReport([target("a", "x"), target("b", "y")], callback, branch=True)
    with report:
        report.tell(deque([progress("a", 4), progress("a", 4), progress("a", 10, DownloadState.DONE)]))
        report.tell(deque([progress("a", 10)]))  # late, and of no file under way
        report.finish()
    assert callback.log == [
        ("a -> x", "size", 10), ("a -> x", "update", 4), ("a -> x", "update", 6), ("a -> x", "close", 0), ("", "update", 1),
        ("b -> y", "size", 10), ("b -> y", "update", 10), ("b -> y", "close", 0), ("", "update", 1),
    ]  # fmt: skip


def test_without_branches_the_callback_counts_bytes() -> None:
    callback = Recorder()
    report = CallbackReport([target("a")], callback, branch=False)
    with report:
        report.tell(deque([progress("a", 4)]))
        report.finish()
    assert callback.log == [("", "update", 4), ("", "update", 6)]


def test_a_file_that_goes_to_two_names_is_counted_twice() -> None:
    callback = Recorder()
    report = CallbackReport([target("a", "x"), target("a", "y")], callback, branch=True)
    with report:
        report.finish()
    assert callback.log[-1] == ("", "update", 2)


def test_branches_are_closed_where_a_download_ends_early() -> None:
    callback = Recorder()
    report = CallbackReport([target("a", "x")], callback, branch=True)
    with report:
        report.tell(deque([progress("a", 4)]))
    assert callback.log[-1] == ("a -> x", "close", 0)


# ---- which file goes where


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    fs = MemoryFileSystem(skip_instance_cache=True)
    fs.pipe({"/copies/model/a": b"a", "/copies/model/sub/b": b"b"})
    yield fs
    fs.rm("/copies", recursive=True)


def test_fsspec_decides_which_file_goes_where_and_none_is_copied(
    memory: MemoryFileSystem, tmp_path: Path
) -> None:
    collector = PairCollector(memory)
    collector.collect("/copies/model", str(tmp_path / "new"), recursive=True)
    files = {name: Path(lpath).relative_to(tmp_path).as_posix() for name, lpath in collector.pairs}
    assert {name: files[name] for name in files if memory.isfile(name)} == {
        "/copies/model/a": "new/a",
        "/copies/model/sub/b": "new/sub/b",
    }
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_leads_out_is_refused_as_unsafe() -> None:
    class Evil(PairCollector):
        def expand_path(self, *_: Any, **__: Any) -> list[str]:
            raise ValueError("the file is outside the destination")

    with pytest.raises(UnsafePathError, match="outside the destination"):
        Evil(MemoryFileSystem()).collect("/x", "out", recursive=True)


def test_another_error_of_fsspecs_stays_what_it_is() -> None:
    class Odd(PairCollector):
        def expand_path(self, *_: Any, **__: Any) -> list[str]:
            raise ValueError("maxdepth must be at least 1")

    with pytest.raises(ValueError, match="maxdepth") as caught:
        Odd(MemoryFileSystem()).collect("/x", "out", recursive=True)
    assert not isinstance(caught.value, UnsafePathError)


# ---- folders that are not filled yet


@pytest.mark.parametrize(
    ("rpath", "lpath", "expected"),
    [
        pytest.param("org/m", "out", True, id="a folder"),
        pytest.param("org/m/", "out", False, id="what is in it"),
        pytest.param("org/m/*", "out", False, id="a pattern"),
        pytest.param("org/m", "out/", False, id="into"),
        pytest.param("org/m", ["out"], False, id="a list"),
    ],
)
def test_the_mark_is_for_calls_that_depend_on_what_exists(rpath: str, lpath: Any, expected: bool) -> None:
    assert PartialCopyMarker.depends(rpath, lpath) is expected


def test_a_folder_that_a_get_made_is_marked_until_it_is_filled(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = PartialCopyMarker("hub/org/m", str(folder))
    assert not first.resumes()
    first.begin([str(folder / "a")])
    assert [path.name for path in folder.iterdir()] == [".haul-get.incomplete"]
    again = PartialCopyMarker("hub/org/m", str(folder))
    assert again.resumes()
    assert not PartialCopyMarker("hub/org/other", str(folder)).resumes()
    again.begin([])
    again.end()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("exists", [True, False], ids=["it was there", "a file has the mark's name"])
def test_a_folder_of_somebody_elses_is_not_marked(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "out"
    mark = folder / ".haul-get.incomplete"
    if exists:
        folder.mkdir()
    marker = PartialCopyMarker("hub/org/m", str(folder))
    marker.begin([str(folder / "a"), *([] if exists else [os.fspath(mark)])])
    assert not mark.exists()
    folder.mkdir(exist_ok=True)
    mark.write_bytes(b"a file of the repository")
    marker.end()
    assert mark.exists()


# ---- downloads


class Handle:
    """A download that is done after two looks, or fails after one."""

    def __init__(self, failures: list[tuple[str, BaseException]]) -> None:
        self.failures = failures
        self.looks = 0
        self.cancelled = False

    def wait(self, timeout: float | None = None) -> bool:
        self.looks += 1
        return timeout is None or self.looks > 1

    def errors(self) -> list[tuple[str, BaseException]]:
        return self.failures

    def cancel(self) -> bool:
        self.cancelled = True
        return True


class Manager:
    def __init__(self, *failures: tuple[str, BaseException]) -> None:
        self.settings = Settings(durable=False)
        self.handle = Handle(list(failures))
        self.requests: list[FileRequest] = []
        self.progress_callback: Callable[[DownloadProgress], None] | None = None

    def submit(self, requests: list[FileRequest], *, model_id: str, progress_callback: Any) -> Handle:
        assert model_id == "org/m"
        self.requests = requests
        self.progress_callback = progress_callback
        return self.handle


def run(manager: Any, *targets: Target, callback: Callback = DEFAULT_CALLBACK) -> None:
    download(manager, list(targets), CallbackReport(targets, callback, branch=True))


def test_nothing_to_copy_is_no_download() -> None:
    manager = Manager()
    run(manager)
    assert manager.requests == []


def test_of_two_files_for_one_path_the_last_is_fetched(tmp_path: Path) -> None:
    manager = Manager()
    lpath = str(tmp_path / "new/a")
    run(
        manager, target("one", lpath), target("two", f"{tmp_path}/new/../new/a"), target("b", f"{tmp_path}/b")
    )
    assert [request.remote.path for request in manager.requests] == ["two", "b"]
    assert (tmp_path / "new").is_dir()


def test_a_file_of_the_right_size_counts_only_where_its_digest_is_known(tmp_path: Path) -> None:
    manager = Manager()
    run(manager, target("a", f"{tmp_path}/a"), target("b", f"{tmp_path}/b", digest=None))
    assert [(each.destination.digest, each.destination.size) for each in manager.requests] == [  # type: ignore[attr-defined]  # a file's
        (DIGEST, 10),
        (None, None),
    ]


def test_progress_is_collected_only_for_a_callback(tmp_path: Path) -> None:
    manager = Manager()
    run(manager, target("a", f"{tmp_path}/a"))
    assert manager.progress_callback is None
    callback = Recorder()
    run(manager, target("a", f"{tmp_path}/a"), callback=callback)
    assert manager.progress_callback is not None
    assert callback.log[-1] == ("", "update", 1)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        pytest.param(OSError("gone"), LookupError, id="as huggingface_hub would"),
        pytest.param(OSError("other"), OSError, id="as it is"),
        pytest.param(KeyboardInterrupt(), KeyboardInterrupt, id="no Exception"),
    ],
)
def test_the_first_failure_ends_the_download_and_is_raised(
    tmp_path: Path, error: BaseException, raised: type[BaseException]
) -> None:
    manager = Manager(("b", error))
    callback = Recorder()
    with pytest.raises(raised):
        run(manager, target("a", f"{tmp_path}/a"), target("b", f"{tmp_path}/b"), callback=callback)
    assert manager.handle.cancelled
    assert ("", "update", 1) not in callback.log, "no file is there"


# ---- open files


def served(data: bytes = DATA) -> Extents:
    """Memory for files all of which have the same bytes."""
    transport = FakeTransport(data)
    reads, _ = make_reads(transport)
    reads._open_transport = lambda _remote: transport
    return Extents(reads)


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


def test_an_open_file_is_filled_from_where_it_stands_and_left_there() -> None:
    outfile, callback = io.BytesIO(b"head"), Recorder()
    outfile.seek(4)
    stream_into(outfile, target(), served(), callback)
    assert outfile.getvalue() == b"head" + DATA
    assert outfile.tell() == 4
    assert callback.log == [("", "size", 10), ("", "update", 10)]


def test_a_file_that_cannot_seek_is_only_written_to() -> None:
    outfile = Pipe()
    stream_into(outfile, target(), served(), DEFAULT_CALLBACK)
    assert outfile.tell() == len(DATA)


def test_an_open_file_that_got_other_bytes_is_an_error() -> None:
    with pytest.raises(IntegrityError):
        stream_into(io.BytesIO(), target(), served(b"SOME BYTES"), DEFAULT_CALLBACK)
