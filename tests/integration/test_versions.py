"""What version 0.1.0 left staged is resumed, and both versions may work in one cache at once."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.hub import SRC, hub_environment, serve_repo
from tests.support.repos import contents

from hf_haul.config import MiB
from hf_haul.manager import ParallelDownloadManager
from hf_haul.ranges import ByteRange
from hf_haul.storage import adoption, ownership
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.claiming import claim
from hf_haul.storage.destinations import BlobDestination, FileDestination, LocalDirDestination
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.storage.staged_file import StagedFile
from hf_haul.storage.staged_names import scan_orphans
from hf_haul.storage.sweeping import sweep
from hf_haul.task import Destination

ROOT = Path(__file__).parents[2]
LEFT = json.loads((ROOT / "tests/support/left_by_0_1_0/files.json").read_text(encoding="utf-8"))
DATA = b"".join(b"%06d\n" % i for i in range(430))[:3000]
COMMIT, ETAG = "c" * 40, "e" * 64
URL = "https://storage.example/bucket/model.bin?versionId=7"
SIGNED = f"{URL}&X-Amz-Date=20260101T000000Z&X-Amz-Expires=600&X-Amz-Signature=5eed"


def _requested(folder: Path, url: str) -> Destination:
    """Where a manager puts what a URL leads to."""
    with ParallelDownloadManager() as manager:
        request = manager._request(
            "model.bin", url, folder / "model.bin", size=3000, digest=None, etag=None, priority=None
        )
    return request.destination


#: How this version calls what ``make.py`` had the other one stage.
PLACES: dict[str, Callable[[Path], Destination]] = {
    "a URL": lambda folder: _requested(folder, URL),
    "a signed URL": lambda folder: _requested(folder, SIGNED),
    "a digest": lambda folder: FileDestination(folder / "model.bin", ETAG),
    "a long name": lambda folder: FileDestination(folder / ("ж" * 110), URL),
    "a blob": lambda folder: BlobDestination(
        RepoFolder(str(folder), "models--org--m"), COMMIT, "model.bin", ETAG, 3000
    ),
    "a local_dir": lambda folder: LocalDirDestination(
        LocalFolder(str(folder)), "sub/model.bin", COMMIT, ETAG
    ),
}


def restore(folder: Path, case: str, way: str) -> list[Path]:
    """Put what was left to where it was left, long ago."""
    paths = []
    for name, packed in LEFT[case][way].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zlib.decompress(base64.b64decode(packed)))
        at = 0 if way == "let go of in order" else time.time() - 600
        os.utime(path, (at, at))
        paths.append(path)
    return paths


def claim_at(place: Destination, *, sequential: bool = False) -> StagedFile:
    found = scan_orphans(place.staging_dir)
    keys = (place.staging_key, *place.former_keys)
    return claim(
        place.staging_dir,
        place.staging_key,
        len(DATA),
        sequential=sequential,
        orphans=[path for key in keys for path in found.get(key, ())],
        former_keys=place.former_keys,
    )


@pytest.fixture(params=["of the host", "of another host"])
def owner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the other version ran: its processes are gone, or cannot be seen."""
    monkeypatch.setattr(adoption, "is_running", lambda _: False)  # the ids in names are those of its machine
    if request.param == "of the host":
        me = ownership.Owner("host-of-0.1.0", "boot-of-0.1.0", os.getpid(), "2", "pid:[1]")
        monkeypatch.setattr(ownership, "_me", me)
        monkeypatch.setattr(ownership, "_process_start", lambda pid: "2" if pid == os.getpid() else "")
    return str(request.param)


@pytest.mark.skipif(os.name == "nt", reason="the files were written on Linux")
@pytest.mark.usefixtures("owner")
@pytest.mark.parametrize(("case", "way"), [(case, way) for case in LEFT for way in LEFT[case]])
def test_what_the_other_version_left_is_resumed_and_nothing_of_it_stays(
    tmp_path: Path, case: str, way: str
) -> None:
    before = restore(tmp_path, case, way)
    place = PLACES[case](tmp_path)
    sequential = way.endswith("in order")
    staged = claim_at(place, sequential=sequential)
    missing = [] if way == "sealed" else [ByteRange(1000, 2000), ByteRange(2500, 3000)]
    assert staged.missing() == ([ByteRange(1000, 3000)] if sequential else missing)
    assert not [path for path in before if path.exists() and path != staged.path]
    for run in staged.missing():
        staged.write(run.start, memoryview(DATA)[run.start : run.stop])
        staged.record(run.start, run.stop)
    place.publish(staged.seal(durable=False))
    assert place.path.read_bytes() == DATA
    assert not list(tmp_path.rglob("*.incomplete"))


@pytest.mark.skipif(os.name == "nt", reason="the files were written on Linux")
@pytest.mark.parametrize("case", ["a signed URL", "a long name"])
def test_who_is_killed_while_it_renames_what_the_other_version_left_loses_nothing(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the name is of this version, and the header still of the other."""
    monkeypatch.setattr(adoption, "is_running", lambda _: False)
    (left,) = restore(tmp_path, case, "let go of")
    place = PLACES[case](tmp_path)
    left.rename(left.with_name(f"{place.staging_key}.00400001.haul.incomplete"))
    staged = claim_at(place)
    assert staged.resumed == 1500
    staged.delete()


@pytest.mark.skipif(sys.platform != "linux", reason="tells processes apart by /proc")
@pytest.mark.parametrize("case", ["a signed URL", "a long name"])
def test_what_the_other_version_is_fetching_is_waited_for_under_its_old_key(
    tmp_path: Path, case: str
) -> None:
    place = PLACES[case](tmp_path)
    (key,) = place.former_keys if case == "a signed URL" else place.former_keys[:1]
    theirs = claim(place.staging_dir, key, len(DATA))
    theirs.write(0, memoryview(DATA)[:1000])
    theirs.record(0, 1000)
    with pytest.raises(StagedElsewhereError):
        claim_at(place)
    theirs.close()
    staged = claim_at(place)
    assert staged.resumed == 1000
    staged.delete()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("owner")
@pytest.mark.parametrize("case", ["a signed URL", "a local_dir", "a blob"])
def test_finishing_removes_what_the_other_version_left_of_the_same_file(tmp_path: Path, case: str) -> None:
    for way in ("killed", "sealed"):
        restore(tmp_path, case, way)
    place = PLACES[case](tmp_path)
    keys = (place.staging_key, *place.former_keys)
    sweep(place.staging_dir, dict.fromkeys(keys, len(DATA)), place.replaces)
    assert not list(tmp_path.rglob("*.incomplete"))


_DOWNLOAD = """
import sys, hf_haul
from hf_haul.config import Settings
manager = hf_haul.ParallelDownloadManager(settings=Settings.from_environment())
try:
    print(hf_haul.__file__, hf_haul.snapshot_download("org/tiny", manager=manager, token=False))
finally:
    manager.shutdown(wait=False)
"""


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of version 0.1.0, out of the history of this repository."""
    folder = tmp_path_factory.mktemp("former")
    archive = subprocess.run(
        ["git", "archive", "12c4a5a", "src"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    if archive.returncode:
        pytest.skip("the history of the repository is not here")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder / "src"


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes, and has tar")
@pytest.mark.parametrize("killed", ["former", "current"])
def test_both_versions_at_once_in_one_cache_and_one_of_each_killed(
    tmp_path: Path, former: Path, killed: str
) -> None:
    size = 6 * MiB
    with serve_repo(tmp_path / "src", shards=1, shard_bytes=size) as served:
        served.hub.set_pace(3 * MiB)
        total = sum(path.stat().st_size for path in served.folder.rglob("*") if path.is_file())
        environment = hub_environment(
            served.hub,
            tmp_path / "home",
            HF_HAUL_PART_SIZE="256KiB",
            HF_HAUL_CHUNK_SIZE="64KiB",
            HF_HAUL_MAX_CONNECTIONS="4",
        )
        sources = {"former": former, "current": SRC}

        def start(version: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-c", _DOWNLOAD],
                env={**environment, "PYTHONPATH": str(sources[version])},
                stdout=subprocess.PIPE,
                text=True,
            )

        victim = start(killed)
        assert served.hub.requests.wait_for(lambda log: log.body_bytes > size // 4, 60)
        running = [start(version) for version in ("former", "current", "former", "current")]
        try:
            assert served.hub.requests.wait_for(lambda log: log.body_bytes > size // 2, 60)
            victim.kill()
            said = [process.communicate(timeout=120)[0].split() for process in running]
        finally:
            for process in (victim, *running):
                process.kill()
                process.communicate()
        assert [process.returncode for process in running] == [0] * 4
        assert [Path(line[0]).is_relative_to(former) for line in said] == [True, False, True, False]
        folders = {line[1] for line in said}
        assert len(folders) == 1
        assert contents(Path(folders.pop())) == served.contents
        assert not list((tmp_path / "home").rglob("*.incomplete"))
        assert served.hub.requests.body_bytes < total * 1.5
