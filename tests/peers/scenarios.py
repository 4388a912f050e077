"""What callers of huggingface_hub rely on, as calls that run through either door."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import os
import pickle
import shutil
import sys
import time
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ResolvedRevision, constants, file_download, get_session, set_client_factory
from huggingface_hub.utils import tqdm as hf_tqdm
from tests.peers.trial import Trial, scenario

from hf_haul.hub import asking
from hf_haul.localhub.testing.faults import Delay, Headers, Status

GIT = b"a file that git keeps\n"
LFS = bytes(range(256)) * 400
FILES = {"config.json": b"{}", "dir/deep/file.txt": GIT, "weights.bin": LFS, "empty.txt": b""}
NOBODY = "http://127.0.0.1:9"

patch: pytest.MonkeyPatch  # the scenario's own, undone after it


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Undo what a scenario changed in the process."""
    global patch
    with pytest.MonkeyPatch.context() as fresh:
        patch = fresh
        yield
    set_client_factory(_default_factory)


def _default_factory() -> Any:
    return huggingface_hub.utils._http.default_client_factory()


def offline() -> None:
    patch.setattr(constants, "HF_HUB_OFFLINE", True)


def no_sleep() -> list[float]:
    """Make upstream's waits and ours end at once."""
    waits: list[float] = []
    patch.setattr(time, "sleep", waits.append)
    return waits


def no_symlinks() -> None:
    patch.setattr(file_download, "are_symlinks_supported", lambda *_: False)


def sizeless() -> None:
    """Have the Hub's metadata say nothing about the size."""
    real = file_download.get_hf_file_metadata

    def ask(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        return type(found)(**{**vars(found), "size": None})

    patch.setattr(file_download, "get_hf_file_metadata", ask)


# ---- arguments and return values


@scenario(1)
def an_empty_subfolder_is_none(t: Trial) -> None:
    t.commit(FILES)
    t.file("empty", "config.json", subfolder="")
    t.note("urls", any("//" in r.url for r in t.records()))
    t.file("given", "file.txt", subfolder="dir/deep")
    t.file("nested", "deep/file.txt", subfolder="dir")
    t.tree("tree")


@scenario(2)
def odd_names_are_quoted_in_urls_and_kept_on_disk(t: Trial) -> None:
    name = "subfolder/to?/awful?filename%you:should,never.give"
    t.commit({name: GIT, "with space & #hash%20?.txt": GIT, "日本語/ü.txt": b"x"})
    t.repo.branch("refs/pr/1")
    t.file("file", name)
    t.file("of a pull request", name, revision="refs/pr/1")
    t.snapshot("snapshot", revision="refs/pr/1")
    t.tree("tree")


@scenario(3, 14)
def tokens_mean_what_they_say(t: Trial) -> None:
    t.repo.private = True
    t.commit(FILES)
    t.file("none stored, one required", "config.json", token=True)
    t.snapshot("snapshot, none stored, one required", token=True)
    patch.setenv("HF_TOKEN", "hf_me")
    t.file("forbidden", "config.json", token=False)
    t.snapshot("snapshot, forbidden", token=False)
    t.file("stored", "config.json")
    t.file("required", "dir/deep/file.txt", token=True)
    t.file("cached, forbidden", "config.json", token=False)
    t.snapshot("given", token="hf_me")
    t.snapshot("cached, snapshot, forbidden", token=False)
    t.snapshot("wrong", token="hf_wrong", cache_dir=t.home / "elsewhere")
    t.tree("tree")


@scenario(4)
def a_resolved_revision_is_not_resolved_again(t: Trial) -> None:
    commit = t.commit(FILES)
    revision = ResolvedRevision(resolved=commit, initial="main")
    t.commit({"config.json": b"newer"})
    t.snapshot("snapshot", revision=revision)
    t.note("info", len(t.records("info")))
    t.snapshot("pickled", revision=pickle.loads(pickle.dumps(revision)))
    t.file("file", "config.json", revision=copy.deepcopy(revision))
    t.tree("tree")


@scenario(5)
def the_environments_etag_timeout_wins(t: Trial) -> None:
    t.commit(FILES)
    t.file("first", "config.json")
    patch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    t.hub.faults.add(Delay(2), kind="resolve", method="HEAD", times=None)
    begin = time.monotonic()
    t.file("slow", "config.json", etag_timeout=60)
    t.note("did not wait", time.monotonic() - begin < 1.5)


@scenario(6)
def a_dry_run_tells_what_would_happen(t: Trial) -> None:
    commit = t.commit(FILES)
    for label, more in (("cache", {}), ("local_dir", {"local_dir": t.home / "local"})):
        t.file(f"{label}: file, nothing there", "weights.bin", dry_run=True, **more)
        t.note(f"{label}: nothing there", would(t, **more))
        t.snapshot(f"{label}: download", **more)
        t.note(f"{label}: all there", would(t, **more))
        t.note(f"{label}: all there, pinned", would(t, revision=commit, **more))
        t.note(f"{label}: all there, forced", would(t, force_download=True, **more))
        t.note(f"{label}: patterns", would(t, allow_patterns="*.bin", **more))
        t.file(f"{label}: file", "config.json", dry_run=True, **more)
        t.file(f"{label}: file, pinned", "config.json", dry_run=True, revision=commit, **more)
    (t.folder / "snapshots" / commit / "weights.bin").unlink()
    (t.home / "local" / "weights.bin").unlink()
    t.note("cache: pointer gone", would(t))
    t.note("local_dir: file gone", would(t, local_dir=t.home / "local", cache_dir=t.home / "empty"))
    t.snapshot("no repository", dry_run=True, endpoint=NOBODY, cache_dir=t.home / "empty")
    offline()
    t.snapshot("offline", dry_run=True)
    t.file("file, offline", "config.json", dry_run=True)


def would(t: Trial, **arguments: Any) -> Any:
    infos = t.api.snapshot_download(t.id, dry_run=True, **arguments)
    return t.plain(sorted(infos, key=lambda info: info.filename))


@scenario(
    6,
    differs={"tree": "we write nothing at all in a dry run; upstream notes the ref and makes folders"},
)
def a_dry_run_downloads_nothing(t: Trial) -> None:
    t.commit(FILES)
    would(t)
    would(t, local_dir=t.home / "local")
    t.tree("tree")
    if t.ours:
        assert list(t.home.iterdir()) == []


@scenario(7)
def paths_are_the_pointers_and_the_real_local_dir(t: Trial) -> None:
    commit = t.commit(FILES)
    t.snapshot("snapshot")
    t.snapshot("pinned", revision=commit)
    t.file("file", "dir/deep/file.txt")
    (t.home / "real").mkdir()
    os.symlink(t.home / "real", t.home / "link")
    t.snapshot("local_dir", local_dir=t.home / "link")
    t.snapshot("local_dir again", local_dir=str(t.home / "link" / ".." / "link"))
    t.file("file of local_dir", "dir/deep/file.txt", local_dir=t.home / "link")
    patch.chdir(t.home)
    t.snapshot("relative cache", cache_dir="relative")
    t.file("file in relative cache", "config.json", cache_dir="relative")
    t.snapshot("relative local_dir", local_dir="plain")
    t.snapshot("nothing matches", allow_patterns="nope", cache_dir="other")
    t.snapshot("path objects", cache_dir=Path("third"), allow_patterns=["*.json"])
    t.tree("tree")


@scenario(8)
def renamed_repositories_are_found_under_their_old_name(t: Trial) -> None:
    t.commit(FILES)
    old = t.id
    renamed = type(t.repo)("org/renamed")
    renamed.commit(FILES, "a commit")
    t.hub.add(renamed)
    t.hub.rename(old, "org/renamed", "model")
    t.snapshot("snapshot")
    t.file("file", "config.json", force_download=True)
    t.tree("tree")


@scenario(9)
def bad_arguments_are_refused_as_upstream_does(t: Trial) -> None:
    t.commit(FILES)
    for repo_id in ("a/b/c", "..", "-x", "a--b", "x" * 97, "org/.git"):
        t.call(f"snapshot {repo_id}", t.api.snapshot_download, repo_id)
        t.call(f"file {repo_id}", t.api.hf_hub_download, repo_id, "config.json")
    t.snapshot("proxies", proxies={"http": "http://x"})
    t.snapshot("unknown argument", nonsense=1)
    t.file("unknown argument to file", "config.json", nonsense=1)
    t.call("no file", t.api.hf_hub_download, t.id)


@scenario(10)
def types_and_endpoints(t: Trial) -> None:
    for kind in ("dataset", "space", "kernel"):
        repo = type(t.repo)(t.id, kind)
        repo.commit(FILES, "a commit")
        t.hub.add(repo)
        t.snapshot(kind, repo_type=kind)
        t.file(f"{kind} file", "config.json", repo_type=kind)
    t.snapshot("unknown type", repo_type="nonsense")
    t.file("file of unknown type", "x", repo_type="nonsense")
    t.commit(FILES)
    t.snapshot("other endpoint", endpoint=NOBODY)
    patch.setattr(constants, "ENDPOINT", NOBODY)
    t.snapshot("this endpoint", endpoint=t.hub.url, repo_type="dataset", force_download=True)
    t.tree("tree")


# ---- errors


@scenario(
    11,
    differs={
        "tree": "upstream makes the folders of a local_dir before it knows of a file to put there; we make a cache's blobs"
    },
)
def errors_have_upstreams_types(t: Trial) -> None:
    t.commit(FILES)
    gated = type(t.repo)("org/gated", gated="manual")
    gated.commit(FILES, "a commit")
    t.hub.add(gated)
    for name, id_ in (("no repository", "org/missing"), ("gated", "org/gated")):
        t.call(f"{name} snapshot", t.api.snapshot_download, id_, allow_patterns="config.json")
        t.call(f"{name} file", t.api.hf_hub_download, id_, "config.json")
        t.call(f"{name} file, token", t.api.hf_hub_download, id_, "config.json", token="hf_me")
    t.snapshot("missing revision", revision="nope")
    t.file("missing revision of file", "config.json", revision="nope")
    t.snapshot("missing commit", revision="0" * 40)
    t.file("missing file", "nope.json")
    t.file("missing file of local_dir", "nope.json", local_dir=t.home / "local")
    t.snapshot("not cached", local_files_only=True)
    t.file("file not cached", "config.json", local_files_only=True)
    t.tree("tree")


@scenario(11, newer=True)
def an_incomplete_snapshot_is_an_error_of_its_own(t: Trial) -> None:
    commit = t.commit(FILES)
    t.snapshot("part", allow_patterns="*.json")
    t.snapshot("whole, local", local_files_only=True)
    t.snapshot("same part, local", local_files_only=True, allow_patterns="*.json")
    t.snapshot("whole, unreachable", endpoint=NOBODY)
    t.snapshot("same part, unreachable", endpoint=NOBODY, allow_patterns="*.json")
    t.snapshot("pinned, unreachable", endpoint=NOBODY, revision=commit, allow_patterns="*.json")
    t.hub.faults.add(Status(403), kind="info", times=None)
    t.snapshot("whole, refused")
    offline()
    t.snapshot("whole, offline")


@scenario(12, 15, 20, 35)
def offline_means_offline(t: Trial) -> None:
    commit = t.commit(FILES)
    offline()
    t.snapshot("nothing there")
    t.file("no file there", "config.json")
    t.snapshot("pinned, nothing there", revision=commit)
    t.file("forced", "config.json", force_download=True)
    t.snapshot("local_dir, nothing there", local_dir=t.home / "local")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    t.file("forced and local", "config.json", force_download=True, local_files_only=True)
    t.snapshot("download")
    t.snapshot("download to local_dir", local_dir=t.home / "local2")
    offline()
    t.snapshot("there")
    t.snapshot("pinned", revision=commit)
    t.file("file", "config.json")
    t.file("missing file", "nope")
    t.file("forced again", "config.json", force_download=True)
    t.snapshot("local_dir", local_dir=t.home / "local2")
    t.file("file of local_dir", "config.json", local_dir=t.home / "local2")
    t.snapshot("empty local_dir", local_dir=t.home / "local3")
    t.note("asked", len(t.records()))


@scenario(13, 16, requests="any")
def a_hub_that_fails_is_replaced_by_the_cache(t: Trial) -> None:
    waits = no_sleep()
    commit = t.commit(FILES)
    t.snapshot("first")
    for label, fault in (
        ("busy", Status(503)),
        ("broken", Status(500)),
        ("forbidden", Status(403)),
        ("unauthorized", Status(401)),
        ("gated", Status(403, headers={"X-Error-Code": "GatedRepo"})),
        ("gone", Status(404, headers={"X-Error-Code": "RepoNotFound"})),
        ("revision gone", Status(404, headers={"X-Error-Code": "RevisionNotFound"})),
    ):
        rule = t.hub.faults.add(fault, times=None)
        t.snapshot(f"{label}: snapshot")
        t.snapshot(f"{label}: pinned snapshot", revision=commit)
        t.file(f"{label}: file", "config.json")
        t.file(f"{label}: missing file", "nope.json", cache_dir=t.home / "empty")
        t.snapshot(f"{label}: not cached", cache_dir=t.home / "empty")
        assert rule.hits
        t.hub.faults.clear()
    t.snapshot("unreachable", endpoint=NOBODY)
    t.file("file, unreachable", "config.json", endpoint=NOBODY)
    t.file("missing file, unreachable", "nope.json", endpoint=NOBODY)
    t.snapshot("unreachable, not cached", endpoint=NOBODY, cache_dir=t.home / "empty")
    t.file("forced, unreachable", "config.json", endpoint=NOBODY, force_download=True)
    t.note("waited", bool(waits))


@scenario(13)
def an_error_of_the_proxy_is_not_swallowed(t: Trial) -> None:
    t.commit(FILES)
    t.snapshot("first")
    http = asking.httpx

    def refuse(request: Any) -> Any:
        raise http.ProxyError("the proxy refuses")

    set_client_factory(lambda: http.Client(transport=http.MockTransport(refuse)))
    t.snapshot("snapshot")
    t.file("file", "config.json")


@scenario(
    16,
    differs={"waits": "upstream asks again at once after the first refusal; ours waits as that asks, too"},
)
def a_file_that_is_nowhere_is_asked_for_patiently(t: Trial) -> None:
    waits = no_sleep()
    t.commit(FILES)
    t.hub.faults.add(Status(503), kind="resolve", method="HEAD", times=2)
    t.file("file", "config.json")
    t.hub.faults.add(
        Status(429, headers={"RateLimit": '"api";r=0;t=7'}), kind="resolve", method="HEAD", times=2
    )
    t.file("limited", "weights.bin")
    t.note("waits", [wait for wait in waits if wait >= 1])


@scenario(16, newer=True)
def a_listing_that_fails_once_is_asked_for_again(t: Trial) -> None:
    no_sleep()
    t.commit(FILES)
    t.hub.faults.add(Status(503), kind="tree", times=1)
    t.snapshot("snapshot")
    t.tree("tree")


@scenario(
    17,
    differs={
        "other size": "upstream's OSError says 'Consistency check failed'; ours, an OSError too, names host and bytes"
    },
)
def a_body_of_the_wrong_size_is_an_os_error(t: Trial) -> None:
    no_sleep()
    t.commit(FILES)
    t.hub.faults.add(Headers({"X-Linked-Size": "999"}), kind="resolve", times=None)
    t.file("other size", "weights.bin")
    assert "builtins.OSError" in t.steps["other size"]["raised"]["kinds"]
    assert not list((t.folder / "snapshots").rglob("weights.bin"))


@scenario(17)
def a_file_of_unknown_size_is_downloaded(t: Trial) -> None:
    t.commit(FILES)
    sizeless()
    t.file("git", "dir/deep/file.txt")
    t.file("lfs", "weights.bin")
    t.file("local_dir", "weights.bin", local_dir=t.home / "local")
    t.tree("tree")


@scenario(18)
def a_fallback_to_the_cache_keeps_no_frames(t: Trial) -> None:
    t.commit(FILES)
    t.snapshot("first")

    class Held:
        pass

    def call(function: Any, *args: Any) -> Any:
        held = Held()
        function(*args, endpoint=NOBODY)
        return weakref.ref(held)

    gc.disable()
    try:
        snapshot = call(t.api.snapshot_download, t.id)
        file = call(t.api.hf_hub_download, t.id, "config.json")
        t.note("freed", [snapshot() is None, file() is None])
    finally:
        gc.enable()


# ---- cache layout


@scenario(19, 20, 21, 24, 29, requests="fewer")
def files_go_into_blobs_and_links(t: Trial) -> None:
    first = t.commit(FILES)
    t.file("file", "weights.bin")
    t.tree("one file")
    t.snapshot("snapshot")
    t.tree("snapshot tree")
    second = t.commit({"config.json": b'{"new": 1}', "copy.bin": LFS})
    t.repo.tag("v1", first)
    t.repo.branch("feature/x", second)
    t.snapshot("new commit")
    t.note("bodies", t.hub.requests.body_bytes < len(LFS))
    t.snapshot("tag", revision="v1")
    t.snapshot("branch", revision="feature/x")
    t.snapshot("short commit", revision=second[:8])
    t.tree("tree")
    found = huggingface_hub.scan_cache_dir(t.cache)
    t.note("scan", [t.plain(str(w)) for w in found.warnings])
    t.note("revisions", sorted(r.commit_hash for repo in found.repos for r in repo.revisions))


@scenario(20)
def without_symlinks_files_are_moved_or_copied(t: Trial) -> None:
    no_symlinks()
    t.commit(FILES)
    t.file("file", "weights.bin")
    t.snapshot("snapshot")
    t.commit({"copy.bin": LFS})
    # One worker: two of upstream's may move the one blob from under each other.
    t.snapshot("newer", max_workers=1)
    t.tree("tree")


@scenario(22, requests="equal")
def a_pinned_commit_costs_no_request(t: Trial) -> None:
    commit = t.commit(FILES)
    t.api.snapshot_download(t.id, revision=commit)
    t.snapshot("snapshot", revision=commit)
    t.file("file", "config.json", revision=commit)
    local = t.home / "local"
    t.api.snapshot_download(t.id, revision=commit, local_dir=local)
    t.snapshot("local_dir", revision=commit, local_dir=local)
    t.file("file of local_dir", "config.json", revision=commit, local_dir=local)
    t.snapshot("branch")


@scenario(
    23,
    differs={
        "tree": "upstream makes the folders of a local_dir before it knows that there is a file to put there"
    },
)
def a_missing_file_is_remembered(t: Trial) -> None:
    t.commit(FILES)
    t.file("missing", "sub/nope.json")
    cached = huggingface_hub.try_to_load_from_cache(t.id, "sub/nope.json")
    t.note("cached", cached is huggingface_hub.file_download._CACHED_NO_EXIST)
    t.file("missing again", "sub/nope.json")
    t.file("missing from local_dir", "other.json", local_dir=t.home / "local")
    t.tree("tree")


@scenario(23, 24)
def markers_and_refs_that_cannot_be_written_are_passed_over(t: Trial) -> None:
    t.commit(FILES)
    t.folder.mkdir(parents=True)
    (t.folder / ".no_exist").write_text("in the way")
    t.file("missing", "nope.json")
    shutil.rmtree(t.folder)
    t.folder.mkdir()
    (t.folder / "refs").write_text("in the way")
    t.snapshot("snapshot")
    t.file("file", "config.json")
    t.file("a new file", "config.json", cache_dir=t.cache, force_download=True)


@scenario(24)
def a_ref_is_rewritten_only_when_it_moves(t: Trial) -> None:
    t.commit(FILES)
    t.snapshot("first")
    ref = t.folder / "refs" / "main"
    inode = ref.stat().st_ino
    t.snapshot("same")
    t.file("file", "config.json")
    t.note("same inode", ref.stat().st_ino == inode)
    commit = t.commit({"new.txt": b"x"})
    t.snapshot("moved", allow_patterns="*.txt")
    t.note("moved to", ref.read_text() == commit)
    commit = t.commit({"newer.txt": b"y"})
    t.file("moved by a file", "newer.txt")
    t.note("moved on to", ref.read_text() == commit)


@scenario(25)
def a_complete_cache_needs_no_permission_to_write(t: Trial) -> None:
    commit = t.commit(FILES)
    t.snapshot("first")
    t.tree("before")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "read-only")

    for name in ("makedirs", "mkdir", "symlink", "replace", "rename"):
        patch.setattr(os, name, refuse)
    t.snapshot("snapshot")
    t.snapshot("pinned", revision=commit)
    t.file("file", "config.json")
    t.file("pinned file", "weights.bin", revision=commit)
    patch.undo()
    t.tree("after")


@scenario(26)
def the_umask_rules_permissions(t: Trial) -> None:
    t.commit(FILES)
    before = os.umask(0o037)
    try:
        t.snapshot("snapshot")
        t.snapshot("local_dir", local_dir=t.home / "local")
    finally:
        os.umask(before)
    t.tree("tree")


@scenario(27)
def leftovers_of_older_versions_do_no_harm(t: Trial) -> None:
    t.commit(FILES)
    entry = t.repo.head.tree.files["weights.bin"]
    blobs = t.folder / "blobs"
    blobs.mkdir(parents=True)
    for content in (b"half", LFS, LFS[::-1], b""):
        (blobs / f"{entry.etag}.incomplete").write_bytes(content)
        path = t.file(f"{len(content)} bytes {content[:1]!r}", "weights.bin", force_download=True)
        t.note(f"right {len(content)} {content[:1]!r}", Path(path).read_bytes() == LFS)
    for left in blobs.glob("*.incomplete"):
        left.unlink()
    t.tree("tree")


@scenario(28)
def listings_are_kept_and_used(t: Trial) -> None:
    commit = t.commit(FILES)
    kept = t.folder / "trees" / f"{commit}.json"
    t.snapshot("first", allow_patterns="*.json")
    t.note("kept", kept.exists())
    t.snapshot("other files of it")
    t.note("listed again", len(t.records("tree")))
    t.snapshot("local_dir", local_dir=t.home / "local")
    t.tree("tree")


@scenario(28)
def damaged_listings_are_passed_over(t: Trial) -> None:
    for number, text in enumerate(("{", '{"format_version": 99, "files": {}}', "")):
        commit = t.commit({"a.txt": str(number).encode()})
        kept = t.folder / "trees" / f"{commit}.json"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text)
        t.snapshot(f"number {number}")
        t.note(f"listed {number}", len(t.records("tree")))
    t.tree("tree")


@scenario(
    28,
    differs=dict.fromkeys(
        ("snapshot", "listed", "tree"),
        "one in no form that huggingface_hub ever kept is passed over as well; upstream fails with an AttributeError",
    ),
    requests="any",
)
def a_listing_of_no_known_form_is_passed_over(t: Trial) -> None:
    commit = t.commit({"a.txt": b"a"})
    kept = t.folder / "trees" / f"{commit}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("[]")
    t.snapshot("snapshot")
    t.note("listed", len(t.records("tree")))
    t.tree("tree")


@scenario(28, newer=True)
def redacted_listings_are_not_kept(t: Trial) -> None:
    t.commit({**FILES, "secret.bin": LFS[1:]}, xet_hashes={"secret.bin": "*" * 64})
    t.snapshot("snapshot")
    t.tree("tree")


@scenario(30, newer=True)
def the_shared_store_is_read_and_never_written(t: Trial) -> None:
    from huggingface_hub.utils import _shared_blobs

    xet = "5" * 64
    t.commit(FILES, xet_hashes={"weights.bin": xet})
    commit = t.repo.head.id
    patch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    # A blob as an earlier Xet download left it in the store.
    other = t.cache / "models--org--other" / "blobs" / t.repo.head.tree.files["weights.bin"].etag
    other.parent.mkdir(parents=True)
    other.write_bytes(LFS)
    assert _shared_blobs.publish_blob_to_shared_store(
        blob_path=str(other), xet_hash=xet, cache_dir=str(t.cache), expected_size=len(LFS)
    )
    t.note("dry run", would(t, allow_patterns="weights.bin"))
    t.snapshot("linked", revision=commit)
    t.note("bodies", t.hub.requests.body_bytes < len(LFS))
    t.file("file", "weights.bin")
    t.tree("tree")
    # Plain HTTP from here on: a forced download replaces the link, and the store stays as it was.
    patch.setattr(file_download, "is_xet_available", lambda: False)
    t.file("forced", "weights.bin", force_download=True)
    t.tree("after force")


@scenario(30, newer=True)
def an_unmarked_folder_is_no_shared_store(t: Trial) -> None:
    t.commit(FILES, xet_hashes={"weights.bin": "5" * 64})
    patch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    patch.setattr(file_download, "is_xet_available", lambda: False)
    (t.cache / "blobs" / "55").mkdir(parents=True)
    (t.cache / "blobs" / "55" / ("5" * 64)).write_bytes(LFS)
    t.snapshot("snapshot")
    t.tree("tree")


@scenario(31)
def names_that_leave_their_folder_are_refused(t: Trial) -> None:
    t.commit(FILES)
    for name in ("../x", "/etc/passwd", "C:\\x", "a/../../x", "\\\\host\\share", "C:x", "a\\..\\..\\x"):
        t.file(f"file {name}", name)
        t.file(f"local_dir {name}", name, local_dir=t.home / "local")
    t.tree("tree", t.cache)


# ---- local_dir


@scenario(33)
def a_local_dir_holds_plain_files_and_notes(t: Trial) -> None:
    t.commit(FILES)
    local = t.home / "local"
    t.snapshot("snapshot", local_dir=local)
    t.file("file", "dir/deep/file.txt", local_dir=local)
    t.tree("tree")
    shutil.rmtree(local / "dir")
    t.snapshot("folder removed", local_dir=local)
    t.file("single file", "dir/deep/file.txt", local_dir=t.home / "single")
    t.tree("tree after")


@scenario(
    33,
    differs={
        "tree": "upstream lets a repository overwrite the notes that say which files are verified; we leave such files out",
        "file": "an UnsafePathError with us",
    },
)
def a_repository_does_not_write_the_notes_of_a_local_dir(t: Trial) -> None:
    t.commit({**FILES, ".cache/huggingface/forged.txt": b"forged"})
    local = t.home / "local"
    t.snapshot("snapshot", local_dir=local)
    t.snapshot("offline", local_dir=local, local_files_only=True)
    t.tree("tree")
    t.file("file", ".cache/huggingface/forged.txt", local_dir=local)


def counted_bodies(t: Trial) -> int:
    """Bytes of all bodies that the hub has sent, once it has counted the last of them."""
    t.hub.requests.settle()
    return t.hub.body_bytes


def local_state(t: Trial, name: str, then: Any) -> None:
    """Bring a file of a local_dir into a state, then ask for it as a file and as part of a snapshot."""
    for way in ("file", "snapshot"):
        local = t.home / f"{name}-{way}"
        t.api.snapshot_download(t.id, local_dir=local, cache_dir=t.home / "unused")
        then(local)
        bodies = counted_bodies(t)
        if way == "file":
            t.file(f"{name}: file", "weights.bin", local_dir=local)
        else:
            t.snapshot(f"{name}: snapshot", local_dir=local, allow_patterns="weights.bin")
        t.note(f"{name}: {way} downloaded", counted_bodies(t) - bodies >= len(LFS))
        t.tree(f"{name}: {way} tree", local)


def notes_of(local: Path) -> Path:
    return local / ".cache" / "huggingface" / "download" / "weights.bin.metadata"


@scenario(34)
def the_states_of_a_local_file(t: Trial) -> None:
    t.commit(FILES)
    local_state(t, "nothing changed", lambda local: None)
    local_state(t, "notes gone", lambda local: notes_of(local).unlink())
    local_state(t, "notes damaged", lambda local: notes_of(local).write_text("nonsense"))
    local_state(t, "file gone", lambda local: (local / "weights.bin").unlink())

    def change_and_forget(local: Path) -> None:
        notes_of(local).unlink()
        (local / "weights.bin").write_bytes(b"mine")

    local_state(t, "other content, no notes", change_and_forget)

    def change_later(local: Path) -> None:
        path = local / "weights.bin"
        path.write_bytes(b"mine")
        os.utime(path, (time.time() + 100, time.time() + 100))

    local_state(t, "changed since", change_later)

    def change_unseen(local: Path) -> None:
        path = local / "weights.bin"
        path.write_bytes(b"mine")
        os.utime(path, (0, 0))

    local_state(t, "changed unseen", change_unseen)

    def older(local: Path) -> None:
        path = notes_of(local)
        lines = path.read_text().splitlines()
        path.write_text("\n".join(["0" * 40, *lines[1:]]) + "\n")

    local_state(t, "noted at another commit", older)

    def other_etag(local: Path) -> None:
        path = notes_of(local)
        lines = path.read_text().splitlines()
        path.write_text("\n".join(["0" * 40, "0" * 64, lines[2]]) + "\n")

    local_state(t, "noted with another etag", other_etag)


@scenario(34)
def a_file_of_the_cache_is_copied_to_a_local_dir(t: Trial) -> None:
    t.commit(FILES)
    t.snapshot("cache")
    bodies = counted_bodies(t)
    t.snapshot("local_dir", local_dir=t.home / "local")
    t.file("file", "weights.bin", local_dir=t.home / "single")
    t.note("downloaded", counted_bodies(t) - bodies > len(LFS))
    t.tree("tree")


@scenario(34)
def a_new_commit_replaces_only_what_changed_in_a_local_dir(t: Trial) -> None:
    t.commit(FILES)
    local = t.home / "local"
    t.snapshot("first", local_dir=local)
    t.commit({"config.json": b'{"new": 1}'})
    bodies = counted_bodies(t)
    t.snapshot("second", local_dir=local)
    t.file("file", "config.json", local_dir=local)
    t.note("downloaded", counted_bodies(t) - bodies > len(LFS))
    t.snapshot("forced", local_dir=local, force_download=True)
    t.tree("tree")


@scenario(35)
def local_files_only_takes_what_is_there(t: Trial) -> None:
    commit = t.commit(FILES)
    local = t.home / "local"
    t.snapshot("empty", local_dir=local, local_files_only=True)
    t.file("empty, file", "config.json", local_dir=local, local_files_only=True)
    t.snapshot("cache", revision=commit)
    t.snapshot("cache full, local_dir empty", local_dir=t.home / "other", local_files_only=True)
    local.mkdir(exist_ok=True)
    (local / "config.json").write_text("wrong")
    t.file("wrong content", "config.json", local_dir=local, local_files_only=True)
    t.snapshot("wrong content, snapshot", local_dir=local, local_files_only=True)
    shutil.rmtree(t.folder / "trees")
    t.snapshot("no listing", revision=commit, local_files_only=True)


@scenario(35, newer=True)
def a_pinned_commit_without_its_listing_is_taken_as_it_is(t: Trial) -> None:
    commit = t.commit(FILES)
    t.file("part", "config.json", revision=commit)
    offline()
    t.snapshot("offline", revision=commit)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    no_sleep()
    t.snapshot("unreachable", revision=commit, endpoint=NOBODY)


# ---- manners


@scenario(36)
def requests_say_who_asks(t: Trial) -> None:
    t.commit(FILES)
    more: dict[str, Any] = {
        "library_name": "lib",
        "library_version": "1.2",
        "user_agent": {"also": "this"},
        "headers": {"x-mine": "1"},
    }
    for label, call in (("snapshot", partial(t.snapshot, cache_dir=t.home / "s")), ("file", partial(t.file, filename="weights.bin"))):  # fmt: skip
        call(label, **more)
        for kind in ("info", "tree", "resolve"):
            sent = [
                (
                    r.headers.get("user-agent", "").partition("; hf_hub")[0],
                    r.headers.get("x-hf-download-counter"),
                    r.headers.get("x-mine"),
                )
                for r in t.records(kind)
            ]
            t.note(f"{label} {kind}", sorted(set(sent), key=repr))
        agents = {r.headers.get("user-agent", "") for r in t.records("resolve")}
        t.note(f"{label} agents", sorted("also/this" in agent for agent in agents))


@scenario(36)
def a_client_factory_of_the_users_is_used(t: Trial) -> None:
    t.commit(FILES)
    http = asking.httpx
    set_client_factory(lambda: http.Client(follow_redirects=True, headers={"x-client": "mine"}))
    t.snapshot("snapshot")
    t.note("asked through it", {r.headers.get("x-client") for r in t.records("info")} == {"mine"})
    assert get_session().headers["x-client"] == "mine"


@scenario(37)
def a_token_stays_with_the_hub(t: Trial) -> None:
    t.repo.private = True
    t.commit(FILES)
    for lfs in ("redirect", "direct"):
        t.hub.options.lfs = lfs
        t.snapshot(lfs, token="hf_me", cache_dir=t.home / lfs)
        t.note(f"{lfs}: storage", sorted({str(r.token) for r in t.records("cdn")}))
        t.note(f"{lfs}: hub", sorted({str(r.token) for r in t.records("resolve")}))


@scenario(39)
def bars_may_be_anything_that_imitates_tqdm(t: Trial) -> None:
    t.commit(FILES)

    class Plain:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            assert not {"name", "disable"} & kwargs.keys()
            self.total, self.n = kwargs.get("total"), 0
            self.format_dict: dict[str, Any] = {"rate": 0}
            made.append(self)

        def __enter__(self) -> Plain:
            return self

        def __exit__(self, *args: object) -> None: ...
        def __iter__(self) -> Iterator[Any]:
            return iter(())

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0

        def _nothing(self, *args: Any, **kwargs: Any) -> None: ...

        close = refresh = set_description = set_description_str = set_postfix_str = _nothing

    made: list[Plain] = []
    t.snapshot("a class", tqdm_class=Plain, cache_dir=t.home / "a")
    t.note("made", len(made) > 0)
    t.snapshot("a function", tqdm_class=lambda *a, **k: Plain(*a, **k), cache_dir=t.home / "b")
    t.snapshot("partial", tqdm_class=partial(Plain), cache_dir=t.home / "c")
    t.file("file", "weights.bin", tqdm_class=Plain, cache_dir=t.home / "d")
    t.snapshot("upstream's own", tqdm_class=hf_tqdm, cache_dir=t.home / "e")


@scenario(39)
def a_terminal_without_a_file_number_does_no_harm(t: Trial) -> None:
    t.commit(FILES)

    class Odd(io.StringIO):
        def fileno(self) -> int:
            return -1

    patch.setattr(sys, "stderr", Odd())
    t.snapshot("no number")
    patch.setattr(sys, "stderr", io.StringIO())
    t.file("no terminal", "config.json", force_download=True)


@scenario(39)
def an_error_of_a_bar_ends_the_call(t: Trial) -> None:
    t.commit(FILES)

    class Stop(Exception):
        pass

    class Mine(hf_tqdm):  # type: ignore[misc]  # upstream exports it without an __all__
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("disable", None)
            super().__init__(*args, file=io.StringIO(), **kwargs)

        def update(self, n: float | None = 1) -> None:
            raise Stop("stop here")

    t.file("file", "weights.bin", tqdm_class=Mine)


@scenario(40)
def a_full_disk_is_only_warned_about(t: Trial) -> None:
    t.commit(FILES)
    real = shutil.disk_usage

    def full(path: Any) -> Any:
        return real(path)._replace(free=10)

    patch.setattr(shutil, "disk_usage", full)
    result = t.api.hf_hub_download(t.id, "weights.bin")
    t.note("there", Path(result).read_bytes() == LFS)
