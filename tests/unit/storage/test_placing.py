from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.storage import COMMIT, ETAG, names_below, needs_pipes, stage

from hf_haul.storage import hub_cache, local_folder, placing, sweeping
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.storage.placing import require_place


@pytest.mark.parametrize("occupied", [False, True])
def test_a_file_system_that_refuses_renames_gets_the_file_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, occupied: bool
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(18, "cross-device")

    source, target = stage(tmp_path / "a" / "source", b"new"), tmp_path / "b" / "target"
    target.parent.mkdir()
    if occupied:
        target.write_bytes(b"old")
    monkeypatch.setattr(placing.os, "replace", refuse)
    placing.replace_file(str(source), str(target))
    assert target.read_bytes() == b"new"
    assert names_below(tmp_path) == {"b/target"}


def test_a_move_that_fails_keeps_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = stage(tmp_path / "source", b"new"), stage(tmp_path / "target", b"old")
    rename = os.rename

    def refuse(a: str, b: str) -> None:
        if str(b) == str(target) and ".new" in str(a):
            raise OSError(5, "no")
        rename(a, b)

    monkeypatch.setattr(placing.os, "replace", lambda a, b: refuse("x.new", str(target)))
    monkeypatch.setattr(placing.os, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        placing.replace_file(str(source), str(target))
    assert source.read_bytes() == b"new"
    assert target.read_bytes() == b"old"
    assert names_below(tmp_path) == {"source", "target"}


@pytest.mark.parametrize("refused", [False, True], ids=["renames work", "renames are refused"])
def test_a_folder_is_never_replaced_by_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(18, "cross-device")

    source, theirs = stage(tmp_path / "source", b"new"), stage(tmp_path / "target" / "precious", b"theirs")
    if refused:
        monkeypatch.setattr(placing.os, "replace", refuse)
    with pytest.raises(IsADirectoryError, match="target"):
        placing.replace_file(str(source), str(theirs.parent))
    assert names_below(tmp_path) == {"source", "target/precious"}


@pytest.mark.skipif(os.name == "nt", reason="symlinks need rights there")
def test_a_link_to_a_folder_is_replaced_and_the_folder_is_not(tmp_path: Path) -> None:
    source, theirs = stage(tmp_path / "source", b"new"), stage(tmp_path / "folder" / "precious", b"theirs")
    link = tmp_path / "link"
    link.symlink_to(theirs.parent)
    placing.replace_file(str(source), str(link))
    assert link.read_bytes() == b"new"
    assert names_below(tmp_path) == {"link", "folder/precious"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("new/file", None),
        ("file", None),
        ("link", None),
        ("folder", IsADirectoryError),
        ("file/below", FileExistsError),
        ("file/far/below", FileExistsError),
        pytest.param("pipe", FileExistsError, marks=needs_pipes),
        ("n" * 256, OSError),
        ("new/" + "ж" * 128, OSError),
    ],
)
def test_where_no_file_can_be_is_known_before_it_is_fetched(
    tmp_path: Path, path: str, expected: type[OSError] | None
) -> None:
    stage(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    if "new" in path and expected is not None:
        (tmp_path / "new").mkdir()
    if path == "pipe":
        os.mkfifo(tmp_path / path)
    if expected is None:
        assert require_place(tmp_path / path) is os.path.lexists(tmp_path / path)
        return
    with pytest.raises(expected) as caught:
        require_place(tmp_path / path)
    if expected is FileExistsError:
        assert caught.value.filename == str(tmp_path / path.partition("/")[0])


@pytest.mark.parametrize("what", ["note", "branch", "link", "file without links", "copy for a local_dir"])
def test_a_kill_before_a_rename_leaves_at_the_most_what_is_swept(
    tmp_path: Path, local: LocalFolder, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = RepoFolder(str(tmp_path / "hub"), "models--org--name", symlinks=lambda: what == "link")
    folder.prepare()
    blob = str(stage(Path(folder.blob(ETAG))))
    local.copy_in(blob, "earlier.bin")
    pointer = folder.pointer(COMMIT, "a.bin")
    other = stage(tmp_path / "other")
    Path(pointer).parent.mkdir(parents=True, exist_ok=True)
    os.symlink(other, pointer)
    known = names_below(tmp_path)
    doings: dict[str, Callable[[], object]] = {
        "note": lambda: local.write_metadata("a.bin", COMMIT, ETAG),
        "branch": lambda: folder.write_ref("main", COMMIT),
        "link": lambda: folder.link(blob, pointer, over=True),
        "file without links": lambda: folder.link(blob, pointer, over=True),
        "copy for a local_dir": lambda: local.copy_in(blob, "a.bin"),
    }

    class Killed(BaseException):
        pass

    def die(*_args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        for module in (hub_cache, local_folder, placing):
            patch.setattr(module, "replace_file", die)
            patch.setattr(module, "discard", lambda _path: None)
        with pytest.raises(Killed):
            doings[what]()
    (left,) = names_below(tmp_path) - known
    monkeypatch.setattr(sweeping, "is_running", lambda _pid: False)
    sweeping.sweep((tmp_path / left).parent, {})
    assert os.path.lexists(tmp_path / left)  # somebody on another host may be at it
    os.utime(tmp_path / left, (1, 1), follow_symlinks=False)
    sweeping.sweep((tmp_path / left).parent, {})
    assert names_below(tmp_path) == known
    staged_in = {tmp_path / "hub" / "models--org--name" / "blobs", Path(local.metadata_path("a.bin")).parent}
    assert (tmp_path / left).parent in staged_in  # which downloads sweep


@pytest.mark.parametrize("killed_at", range(1, 6))
def test_a_kill_while_permissions_are_looked_at_leaves_at_the_most_what_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    calls = 0

    class Killed(BaseException):
        pass

    class Mortal:
        def __getattr__(self, name: str) -> Any:
            real = getattr(os, name)
            if name not in {"open", "unlink", "fstat", "close"}:
                return real

            def call(*args: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls >= killed_at:
                    raise Killed
                return real(*args)

            return call

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(placing, "os", Mortal())
        placing._probe_mode(str(tmp_path))
    names = [path.name for path in tmp_path.iterdir()]
    assert all(re.fullmatch(r"\.probe\.[0-9a-f]{8}\.haul\.incomplete", name) for name in names)
    assert len(names) == (killed_at == 2)
