from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from huggingface_hub import constants
from tests.support.cached_files import write
from tests.support.storage import SIZE, left_behind, put, stage

from hf_haul.hub.cleaning import CleaningPlan, CleanResult, clean
from hf_haul.storage import partial_files, sweeping
from hf_haul.storage.claiming import claim

SHA = "ab" * 32
OTHER = "cd" * 32


@pytest.fixture(autouse=True)
def local_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the test's folder is on, it is this host's."""
    for module in (sweeping, partial_files):
        monkeypatch.setattr(module, "keeps_writes", lambda _: True)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    (folder / "models--org--name/blobs").mkdir(parents=True)
    return folder


@pytest.fixture
def blobs(hub: Path) -> Path:
    return hub / "models--org--name/blobs"


def _age(path: Path, seconds: float) -> Path:
    at = time.time() - seconds
    os.utime(path, (at, at))
    return path


def _names(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


def _reasons(result: CleanResult) -> list[str]:
    return [kept.reason for kept in result.kept]


def test_everything_that_nobody_uses_goes_and_everything_else_stays(hub: Path, blobs: Path) -> None:
    left_behind(blobs, key=SHA)
    left_behind(blobs, key=OTHER)
    _age(stage(blobs / f"{SHA}.0123abcd.incomplete"), 90000)
    _age(stage(blobs / "tmp_1", b""), 3)
    _age(stage(hub / "models--org--name/tmp_2", b""), 3)
    _age(stage(blobs / ".probe.00000000.haul.incomplete", b""), 200)
    stays = [
        _age(stage(blobs / f"{OTHER}.0123abcd.incomplete"), 3600),
        write(blobs / ("ef" * 32)),
        write(hub / "models--org--name/refs/main", b"c"),
        write(hub / "models--org--name/snapshots/c/tmp_3"),
        write(hub / "models--org--name/snapshots/c/a.incomplete"),
        write(hub / "mine.incomplete"),
        write(hub / ".locks/models--org--name/x.lock", b""),
    ]
    with closing(claim(blobs, "99" * 32, SIZE)) as staged:
        put(staged, 0, 10)
        result = clean(hub)
        assert _names(hub) == sorted(path.relative_to(hub).as_posix() for path in [*stays, staged.path])
    assert len(result.removed) == 6
    assert {file.kind for file in result.removed} == {"staged", "huggingface_hub", "temporary"}
    assert result.bytes_freed == sum(file.bytes_on_disk for file in result.removed) > 0
    assert result.problems == ()
    theirs, fetched = sorted(_reasons(result))
    assert theirs.startswith("it is huggingface_hub's, has changed 1 hour ago")
    assert f"process {os.getpid()} on " in fetched
    assert "is fetching it" in fetched


def test_a_dry_run_says_the_same_and_removes_nothing(hub: Path, blobs: Path) -> None:
    left_behind(blobs, key=SHA)
    _age(stage(blobs / "tmp_1", b""), 3)
    before = _names(hub)
    planned = clean(hub, dry_run=True)
    assert (planned.dry_run, _names(hub)) == (True, before)
    done = clean(hub)
    assert [file.path for file in done.removed] == [file.path for file in planned.removed]
    assert (done.dry_run, done.bytes_freed) == (False, planned.bytes_freed)
    assert _names(hub) == []


def test_what_a_download_goes_on_from_can_be_kept(hub: Path, blobs: Path) -> None:
    kept = left_behind(blobs, key=SHA)
    left_behind(blobs, key=OTHER)
    whole = write(blobs / OTHER)  # it is in place: what is left over is of no use
    _age(stage(blobs / f"{'0' * 64}.haul.incomplete"), 60)  # nothing in it can be used
    result = clean(hub, keep_resumable=True)
    assert _names(blobs) == sorted([kept.name, whole.name])
    assert _reasons(result) == ["a download goes on from it"]


def test_what_has_changed_lately_can_be_kept(hub: Path, blobs: Path) -> None:
    new, old = left_behind(blobs, key=SHA), left_behind(blobs, key=OTHER)
    _age(old, 8 * 86400)
    result = clean(hub, older_than=7 * 86400)
    assert (new.exists(), old.exists()) == (True, False)
    assert _reasons(result) == ["it has changed 1 minute ago"]


def test_a_plan_removes_what_it_said_and_nothing_that_came_later(hub: Path, blobs: Path) -> None:
    first = left_behind(blobs, key=SHA)
    plan = CleaningPlan(hub)
    second = left_behind(blobs, key=OTHER)
    result = plan.carry_out()
    assert [file.path for file in result.removed] == [first]
    assert second.exists()


def test_what_has_come_into_use_since_the_plan_is_kept(hub: Path, blobs: Path) -> None:
    left_behind(blobs, key=SHA)
    plan = CleaningPlan(hub)
    with closing(claim(blobs, SHA, SIZE)) as staged:
        assert staged.resumed == 400
        result = plan.carry_out()
        assert staged.is_ours()
    assert result.removed == ()
    assert "is being fetched by another download of this process" in _reasons(result)[0]


def test_a_file_that_exists_for_a_moment_is_seen_for_long_enough_before_it_goes(
    hub: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + sum(waits))
    monkeypatch.setattr(time, "sleep", waits.append)
    stage(blobs / "tmp_1", b"")
    assert len(clean(hub).removed) == 1
    assert waits == [2.0]
    assert _names(hub) == []


def test_the_owner_on_another_host_is_named(hub: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_files, "keeps_writes", lambda _: False)
    path = _age(left_behind(blobs, key=SHA, owner={"boot": "other", "host": "node7"}), 3 * 3600)
    (reason,) = _reasons(clean(hub))
    assert "has changed 3 hours ago, by process 4194305 on node7, which cannot be seen from here" in reason
    _age(path, 90000)
    assert len(clean(hub).removed) == 1


def test_a_disk_that_refuses_is_a_problem_and_the_others_go(
    hub: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(hub / "models--org--other/blobs", key=SHA)
    path = left_behind(blobs, key=SHA)
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(source) == path:
            raise PermissionError(13, "Permission denied", str(source))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    result = clean(hub)
    assert [problem.path for problem in result.problems] == [path]
    assert result.problems[0].message == "Permission denied"
    assert [file.repo_id for file in result.removed] == ["org/other"]
    assert path.exists()


def test_links_lead_nowhere(hub: Path, blobs: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    victims = [left_behind(outside / "blobs", key=SHA), _age(stage(outside / "blobs/tmp_1"), 90000)]
    (hub / "models--org--linked").symlink_to(outside)
    (blobs.parent / "trees").symlink_to(outside / "blobs")
    (blobs / f"{SHA}.haul.incomplete").symlink_to(victims[0])
    (blobs / "tmp_9").symlink_to(victims[1])
    assert clean(hub).removed == ()
    assert all(victim.exists() for victim in victims)


def test_a_cache_that_is_itself_a_link_is_cleaned(hub: Path, blobs: Path, tmp_path: Path) -> None:
    left_behind(blobs, key=SHA)
    (tmp_path / "linked").symlink_to(hub)
    assert len(clean(cache_dir=tmp_path / "linked").removed) == 1


def test_a_cache_that_is_not_there_yet_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert clean() == CleanResult(tmp_path / "none", False, (), 0, (), ())
    with pytest.raises(FileNotFoundError):
        clean(tmp_path / "none")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can come into, unlike those of tests."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


_AS_ANOTHER_USER = """
import json, os, pwd, sys
from hf_haul.hub.cleaning import clean  # before, because Python itself may be root's alone
os.setgid(65534); os.setuid(65534)
result = clean(sys.argv[1])
print(json.dumps([[str(file.path) for file in result.removed], [[str(p.path), p.message] for p in result.problems]]))
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes another user")
def test_files_of_other_users_are_told_and_the_others_go(open_folder: Path) -> None:
    hub = open_folder / "hub"
    roots = left_behind(hub / "models--root--a/blobs", key=SHA)
    secret = left_behind(hub / "models--root--b/blobs", key=SHA)
    secret.chmod(0o600)
    mine = left_behind(hub / "models--nobody--c/blobs", key=SHA)
    for path in (mine, mine.parent):
        os.chown(path, 65534, 65534)
    done = subprocess.run([sys.executable, "-c", _AS_ANOTHER_USER, hub], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    removed, problems = json.loads(done.stdout)
    assert removed == [str(mine)]
    assert sorted(path for path, _ in problems) == sorted(map(str, (roots, secret)))
    assert all("belongs to root" in message for _, message in problems)
    assert roots.exists()
    assert secret.exists()
    assert not mine.exists()
