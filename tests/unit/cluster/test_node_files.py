"""What one node has of the files of a plan, and the call that brings the rest."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hf_haul.cluster.holdings import NotHeldError
from hf_haul.cluster.node_files import NodeFiles, planned_call
from hf_haul.cluster.plan import JobPlan
from hf_haul.cluster.stripes import Stripes
from hf_haul.hub.call_options import CallOptions
from hf_haul.hub.metadata import ListedFile
from hf_haul.hub.snapshot_call import ReadySnapshot
from hf_haul.hub.upstream_cache import read_tree
from hf_haul.ranges import ByteRange
from hf_haul.storage.claiming import claim

FILES = {"a.bin": bytes(range(256)) * 10, "b.bin": b"b" * 1500, "twin.bin": b"b" * 1500, "empty.txt": b""}
COMMIT = "c" * 40


def listed(data: bytes) -> ListedFile:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if not data:
        return ListedFile(0, git)
    return ListedFile(len(data), git, hashlib.sha256(data).hexdigest(), len(data))


def plan_of(*selection: str, complete: bool = True) -> JobPlan:
    return JobPlan(
        job_id="job-1",
        endpoint="http://127.0.0.1:9",  # nobody is asked
        repo_type="model",
        repo_id="org/m",
        revision="main",
        commit=COMMIT,
        files={path: listed(data) for path, data in FILES.items()},
        selection=selection or tuple(FILES),
        stripe_bytes=1000,
        nodes=("n0", "n1"),
        complete=complete,
    )


class World:
    """A node that has been told its plan."""

    def __init__(self, folder: Path, plan: JobPlan, *, local_dir: bool = False) -> None:
        self.cache = folder / "cache"
        self.plan, self.stripes = plan, Stripes.of(plan)
        self.call = planned_call(
            plan,
            options=CallOptions(sources=()),
            cache_dir=str(self.cache),
            local_dir=str(folder / "plain") if local_dir else None,
            token=False,
            endpoint=None,
        )
        ready: Any = self.call.prepare()
        assert isinstance(ready, ReadySnapshot)
        self.ready = ready
        self.files = NodeFiles(plan, self.call, self.stripes)

    def look(self) -> list[int]:
        """The stripes that are here."""
        return sorted(self.files.look(self.ready.requests))

    def publish(self, path: str) -> None:
        request = next(each for each in self.ready.requests if each.remote.path == path)
        staged = request.destination.staging_dir / "x"
        staged.write_bytes(FILES[path])
        request.destination.publish(staged)

    def read(self, path: str, start: int, stop: int) -> bytes:
        etag = hashlib.sha256(FILES[path]).hexdigest()
        with closing(self.files.holdings.open(etag, ByteRange(start, stop))) as held:
            held.file.seek(start)
            return held.file.read(stop - start)


@pytest.mark.parametrize("local_dir", [False, True])
def test_all_that_is_planned_is_requested_and_nobody_is_asked_for_it(tmp_path: Path, local_dir: bool) -> None:
    world = World(tmp_path, plan_of(), local_dir=local_dir)
    assert sorted(request.remote.path for request in world.ready.requests) == sorted(FILES)
    assert world.ready.commit == COMMIT
    assert world.look() == []


def test_only_the_selection_is_requested(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of("b.bin"))
    assert [request.remote.path for request in world.ready.requests] == ["b.bin"]
    assert world.stripes.count == 2


@pytest.mark.parametrize("complete", [True, False])
def test_the_listing_is_cached_if_it_is_the_hubs_own_and_the_branch_is_noted(
    tmp_path: Path, complete: bool
) -> None:
    world = World(tmp_path, plan_of("b.bin", complete=complete))
    root = world.cache / "models--org--m"
    kept = read_tree(str(root), COMMIT)
    assert (kept is not None) == complete
    if kept is not None:
        assert dict(kept) == world.plan.files
    assert (root / "refs" / "main").read_text() == COMMIT


@pytest.mark.parametrize("local_dir", [False, True])
def test_what_is_in_place_is_here_and_handed_out(tmp_path: Path, local_dir: bool) -> None:
    before = World(tmp_path, plan_of(), local_dir=local_dir)
    for path in ("a.bin", "b.bin"):
        before.publish(path)
    world = World(tmp_path, plan_of(), local_dir=local_dir)
    if local_dir:  # without its metadata a file there counts as nobody's
        assert before.read("a.bin", 10, 20) == FILES["a.bin"][10:20]
        return
    assert world.look() == [0, 1, 2, 3, 4]
    assert world.read("a.bin", 10, 20) == FILES["a.bin"][10:20]
    assert world.read("twin.bin", 0, 1500) == FILES["b.bin"]


def test_what_an_earlier_session_left_is_here_before_its_file_is_opened(tmp_path: Path) -> None:
    first = World(tmp_path, plan_of())
    request = next(each for each in first.ready.requests if each.remote.path == "a.bin")
    data = FILES["a.bin"]
    staged = claim(request.destination.staging_dir, request.destination.staging_key, len(data))
    for start, stop in [(0, 1000), (1200, len(data))]:
        staged.write(start, memoryview(data)[start:stop])
        staged.record(start, stop)
    staged.close()
    world = World(tmp_path, plan_of())
    assert world.look() == [0, 2]  # of the middle one some is missing
    assert world.read("a.bin", 0, 1000) == data[:1000]
    assert world.read("a.bin", 2000, len(data)) == data[2000:]
    with pytest.raises(NotHeldError):
        world.read("a.bin", 1000, 1500)


def test_sums_by_source_call_the_origin_by_the_hubs_address(tmp_path: Path) -> None:
    assert World(tmp_path, plan_of("b.bin")).files.origin == "http://127.0.0.1:9"
