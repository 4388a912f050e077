"""Answers that no Hub gives, and some that mirrors, proxies and storages give all the same."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import itertools
import json
import logging
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import hf_hub_download as upstream_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from tests.support.raw_hub import RawAnswer, RawHub
from tests.support.repos import random_bytes

from hf_haul.config import KiB, Settings, Timings
from hf_haul.errors import (
    IntegrityError,
    RangeRefusedError,
    SourceChangedError,
    TransferError,
    UnsafePathError,
)
from hf_haul.filesystem import HaulFileSystem
from hf_haul.hub import tokens
from hf_haul.hub.acceleration import accelerate
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.manager import ParallelDownloadManager
from hf_haul.task import Digest

CONFIG, WEIGHTS = "config.json", "model.bin"
FILES = {CONFIG: b'{"a": 1}\n', WEIGHTS: random_bytes(300_000, "odd answers")}
SETTINGS = Settings(
    part_size=64 * KiB, first_retry_wait=0.0, max_retry_wait=0.01, max_retries=3, stall_timeout=5.0, durable=False,
    timings=Timings(file_changes=0.0, refused_links=0.0),
)  # fmt: skip


@pytest.fixture
def hub() -> Iterator[RawHub]:
    with RawHub(dict(FILES)) as hub:
        yield hub


@pytest.fixture
def manager() -> Iterator[ParallelDownloadManager]:
    with ParallelDownloadManager(settings=SETTINGS) as manager:
        yield manager


class Doors:
    """Every way to a file of the hub."""

    def __init__(self, hub: RawHub, manager: ParallelDownloadManager, folder: Path) -> None:
        self.hub, self.manager, self.folder = hub, manager, folder

    def snapshot(self, name: str) -> bytes:
        root = snapshot_download(
            "org/m", endpoint=self.hub.url, cache_dir=self.folder, token=False, manager=self.manager, allow_patterns=[name]
        )  # fmt: skip
        return (Path(root) / name).read_bytes()

    def file(self, name: str) -> bytes:
        path = hf_hub_download(
            "org/m", name, endpoint=self.hub.url, cache_dir=self.folder, token=False, manager=self.manager
        )
        return Path(path).read_bytes()

    def accelerated(self, name: str) -> bytes:
        with accelerate(manager=self.manager):
            path = upstream_download("org/m", name, endpoint=self.hub.url, cache_dir=self.folder, token=False)
        return Path(path).read_bytes()

    def task(self, name: str, **known: Any) -> bytes:
        target = self.folder / "task" / name
        task = self.manager.add_download_task("g", name, self.hub.file_url(name), target, **known)
        self.raise_first(self.manager.wait_for_model_completion(task, 30))
        return target.read_bytes()

    def specs(self, name: str, **known: Any) -> bytes:
        spec = SimpleNamespace(path=name, url=self.hub.file_url(name), **known)
        result = self.manager.download_model_parallel("g", [spec], self.hub.url, self.folder / "specs")
        self.raise_first(result)
        return (self.folder / "specs" / name).read_bytes()

    def haul(self, name: str) -> bytes:
        fs = HaulFileSystem(endpoint=self.hub.url, token=False, skip_instance_cache=True)
        fs.manager = self.manager
        with fs.open(f"org/m/{name}") as file:
            data: bytes = file.read()
        assert fs.cat_file(f"org/m/{name}") == data
        return data

    @staticmethod
    def raise_first(result: dict[str, Any]) -> None:
        assert not result["timed_out"]
        for failed in result["failed_files"]:
            raise RuntimeError(failed["error"])


@pytest.fixture
def doors(hub: RawHub, manager: ParallelDownloadManager, tmp_path: Path) -> Doors:
    return Doors(hub, manager, tmp_path)


def digest_of(name: str) -> Digest:
    data = FILES[name]
    return Digest("sha256", hashlib.sha256(data).hexdigest())


# ---- sizes


def says_nothing_is_there(answer: RawAnswer) -> None:
    """Sizes of 0 wherever metadata tell one; the bytes themselves are as ever."""
    if answer.kind in {"tree", "paths-info"}:
        entries = json.loads(answer.body)
        for each in entries:
            each["size"] = 0
            if "lfs" in each:
                each["lfs"]["size"] = 0
        answer.body = json.dumps(entries).encode()
    elif answer.method == "HEAD":
        answer.set("Content-Length" if answer.status == 200 else "X-Linked-Size", "0")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("door", ["snapshot", "file", "haul"])
def test_a_file_announced_with_no_bytes_whose_digest_says_otherwise_comes_whole(
    doors: Doors, door: str, name: str
) -> None:
    doors.hub.tune = says_nothing_is_there
    assert getattr(doors, door)(name) == FILES[name]


@pytest.mark.parametrize("door", ["task", "specs"])
def test_a_size_of_nothing_that_a_caller_gives_beside_a_digest_is_learned_anew(
    doors: Doors, door: str
) -> None:
    assert getattr(doors, door)(WEIGHTS, size=0, digest=digest_of(WEIGHTS)) == FILES[WEIGHTS]


@pytest.mark.parametrize("door", ["task", "specs"])
@pytest.mark.parametrize(
    ("name", "data"), [(WEIGHTS, FILES[WEIGHTS]), ("empty.bin", b"")], ids=["not empty", "empty"]
)
def test_with_a_digest_of_neither_it_is_an_error(doors: Doors, door: str, name: str, data: bytes) -> None:
    doors.hub.files[name] = data
    with pytest.raises(RuntimeError, match=r"IntegrityError.*digest does not match"):
        getattr(doors, door)(name, size=0, digest=Digest("sha256", "ab" * 32))


@pytest.mark.parametrize("size", [0, 7, 10**9])
@pytest.mark.parametrize("door", ["task", "specs"])
def test_a_size_that_is_not_that_of_the_answer_is_an_error_that_says_who_gave_it(
    doors: Doors, door: str, size: int
) -> None:
    with pytest.raises(
        RuntimeError, match=f"says it has 300000 bytes, expected {size}, as the caller announced"
    ):
        getattr(doors, door)(WEIGHTS, size=size)


def test_a_size_that_the_hub_tells_wrongly_is_an_error_that_names_the_hub(doors: Doors) -> None:
    def tune(answer: RawAnswer) -> None:
        if answer.kind == "resolve":
            answer.set("X-Linked-Size", "999")

    doors.hub.tune = tune
    with pytest.raises(
        SourceChangedError, match=rf"{WEIGHTS}: .*300000 bytes, expected 999, as {doors.hub.url} announced"
    ):
        doors.file(WEIGHTS)


@pytest.mark.parametrize("encoding", ["gzip", " GZIP", "br"])
def test_a_size_told_of_an_encoded_body_is_learned_from_the_bytes(doors: Doors, encoding: str) -> None:
    def tune(answer: RawAnswer) -> None:
        if answer.method == "HEAD":  # though identity was asked for
            answer.set("Content-Encoding", encoding)
            answer.set("Content-Length", "29")

    doors.hub.tune = tune
    assert doors.file(CONFIG) == FILES[CONFIG]


def test_a_file_of_unknown_size_is_read_by_ranges_once_its_source_tells(doors: Doors) -> None:
    def tune(answer: RawAnswer) -> None:
        if answer.kind in {"tree", "paths-info"}:  # redacted: HEAD is asked, which does not say a size
            entries = json.loads(answer.body)
            for each in entries:
                each.update(oid="*", lfs=None)
            answer.body = json.dumps(entries).encode()
        elif answer.method == "HEAD":
            answer.set("X-Linked-Size", None)

    doors.hub.tune = tune
    assert doors.haul(WEIGHTS) == FILES[WEIGHTS]


def test_a_file_whose_size_nobody_tells_cannot_be_read_by_ranges_and_says_so(doors: Doors) -> None:
    def tune(answer: RawAnswer) -> None:
        says_nothing_is_there(answer)
        if answer.kind == "cdn":
            answer.status, answer.body = 200, FILES[WEIGHTS]
            answer.set("Content-Range", None)
            answer.set("Transfer-Encoding", "chunked")
            answer.body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(FILES[WEIGHTS]), FILES[WEIGHTS])

    doors.hub.tune = tune
    with pytest.raises(TransferError, match=rf"{WEIGHTS}: .* does not report its size"):
        doors.haul(WEIGHTS)
    assert doors.file(WEIGHTS) == FILES[WEIGHTS]


# ---- a storage that takes long


@pytest.mark.parametrize("door", ["snapshot", "file", "haul"])
def test_nobody_waits_for_the_answer_of_a_storage_to_learn_where_it_is(doors: Doors, door: str) -> None:
    """The redirect tells; else a file of a slow storage would take one answer's time more."""
    together, numbers = threading.Barrier(2, timeout=20), itertools.count()

    def tune(answer: RawAnswer) -> None:
        if answer.kind == "cdn" and next(numbers) < 2:
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait()

    doors.hub.files[WEIGHTS] = random_bytes(4_000_000, "slow storage")
    doors.manager = stack = ParallelDownloadManager(settings=replace(SETTINGS, part_size=1_000_000))
    doors.hub.tune = tune
    with stack:
        assert getattr(doors, door)(WEIGHTS) == doors.hub.files[WEIGHTS]
    assert not together.broken


@pytest.mark.parametrize("door", ["snapshot", "haul"])
def test_a_storage_that_is_not_there_is_forgotten(doors: Doors, door: str) -> None:
    """The next redirect may lead to one that is."""
    numbers = itertools.count()

    def tune(answer: RawAnswer) -> None:
        if answer.kind == "resolve" and answer.method == "GET" and next(numbers) < 2:
            answer.set("Location", "http://localhost:1/nobody-there")

    doors.hub.tune = tune
    assert getattr(doors, door)(WEIGHTS) == FILES[WEIGHTS]


# ---- etags that look like digests


def name_versions(make: Callable[[bytes], str], *, listing: str = "right") -> Callable[[RawAnswer], None]:
    """Have the etags of files be what ``make`` makes of them; the listing may be ``right``, ``wrong``, ``odd`` or ``none``."""

    def tune(answer: RawAnswer) -> None:
        if answer.kind in {"resolve", "cdn"} and answer.path in FILES:
            etag = f'"{make(FILES[answer.path])}"'
            linked = any(name == "X-Linked-Etag" for name, _ in answer.headers)
            answer.set("X-Linked-Etag" if linked else "ETag", etag)
        elif answer.kind == "paths-info" and listing == "none":
            answer.status, answer.body = 404, b""
        elif answer.kind == "paths-info" and listing != "right":
            entries = json.loads(answer.body)
            for each in entries:
                each["oid"] = "c" * 40 if listing == "wrong" else "*"
                if "lfs" in each:
                    each["lfs"]["oid"] = "c" * 64 if listing == "wrong" else "*"
            answer.body = json.dumps(entries).encode()

    return tune


def sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def name40(data: bytes) -> str:
    return hashlib.sha1(b"a name of %d" % len(data)).hexdigest()


def name64(data: bytes) -> str:
    return hashlib.sha256(b"a name of %d" % len(data)).hexdigest()


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_an_etag_that_is_the_plain_sha1_is_right_at_once(doors: Doors, name: str) -> None:
    doors.hub.tune = name_versions(sha1, listing="none")
    assert doors.file(name) == FILES[name]
    assert doors.hub.count("paths-info", "POST") == 0
    assert doors.hub.sent == len(FILES[name])


@pytest.mark.parametrize("make", [name40, name64])
@pytest.mark.parametrize(("door", "name"), [("file", CONFIG), ("file", WEIGHTS), ("accelerated", CONFIG)])
def test_an_etag_that_is_no_digest_of_the_bytes_gives_way_to_the_listings(
    doors: Doors, door: str, name: str, make: Callable[[bytes], str]
) -> None:
    doors.hub.tune = name_versions(make)
    assert getattr(doors, door)(name) == FILES[name]
    assert doors.hub.count("paths-info", "POST") == 1
    assert doors.hub.sent == len(FILES[name])


@pytest.mark.parametrize("make", [name40, name64])
@pytest.mark.parametrize(("door", "name"), [("file", WEIGHTS), ("accelerated", CONFIG)])
def test_bytes_that_neither_etag_nor_listing_bear_out_are_not_published(
    doors: Doors, door: str, name: str, make: Callable[[bytes], str]
) -> None:
    doors.hub.tune = name_versions(make, listing="wrong")
    with pytest.raises(IntegrityError, match=name):
        getattr(doors, door)(name)
    assert doors.hub.count("paths-info", "POST") == 1


@pytest.mark.parametrize("listing", ["none", "odd"])
@pytest.mark.parametrize("make", [name40, name64])
def test_where_no_digest_is_to_be_had_an_etag_is_a_name_and_that_is_said(
    doors: Doors, make: Callable[[bytes], str], listing: str, caplog: pytest.LogCaptureFixture
) -> None:
    doors.hub.tune = name_versions(make, listing=listing)
    assert doors.file(WEIGHTS) == FILES[WEIGHTS]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"{WEIGHTS} is not checked: its etag {make(FILES[WEIGHTS])}" in warnings[0]
    assert doors.hub.url in warnings[0]
    assert doors.hub.count("paths-info", "POST") == 1


def test_a_hub_that_cannot_be_asked_for_a_moment_bears_nothing_out(doors: Doors) -> None:
    def tune(answer: RawAnswer) -> None:
        name_versions(name64)(answer)
        if answer.kind == "paths-info":
            answer.status, answer.body = 503, b""

    doors.hub.tune = tune
    with pytest.raises(IntegrityError):
        doors.file(WEIGHTS)


@pytest.mark.parametrize("make", [name40, name64])
def test_the_hubs_own_etags_are_what_they_look_like(
    doors: Doors, monkeypatch: pytest.MonkeyPatch, make: Callable[[bytes], str]
) -> None:
    monkeypatch.setattr(tokens, "_HUB_ENDPOINTS", (doors.hub.url,))
    doors.hub.tune = name_versions(make)
    with pytest.raises(IntegrityError):
        doors.file(WEIGHTS)
    assert doors.hub.count("paths-info", "POST") == 0


def redact_listing(answer: RawAnswer) -> None:
    if answer.kind == "tree":
        entries = json.loads(answer.body)
        for each in entries:
            each["oid"] = "*"
            if "lfs" in each:
                each["lfs"]["oid"] = "*"
        answer.body = json.dumps(entries).encode()


@pytest.mark.parametrize(
    ("make", "listing", "whole"),
    [(sha1, "none", True), (name64, "right", True), (name64, "none", True), (name64, "wrong", False)],
)
def test_reads_take_etags_as_downloads_do(
    doors: Doors, make: Callable[[bytes], str], listing: str, whole: bool
) -> None:
    tune = name_versions(make, listing=listing)

    def tune_all(answer: RawAnswer) -> None:
        redact_listing(answer)
        tune(answer)

    doors.hub.tune = tune_all
    fs = HaulFileSystem(endpoint=doors.hub.url, token=False, skip_instance_cache=True)
    fs.manager = doors.manager
    if whole:
        assert fs.cat_file(f"org/m/{WEIGHTS}") == FILES[WEIGHTS]
    else:
        with pytest.raises(IntegrityError):
            fs.cat_file(f"org/m/{WEIGHTS}")


# ---- encodings that nobody asked for


def encode(method: Callable[[bytes], bytes], name: str, *kinds: str) -> Callable[[RawAnswer], None]:
    """Encode every body of a file, as some proxies do, parts of files included."""

    def tune(answer: RawAnswer) -> None:
        if (
            answer.kind in (kinds or ("resolve", "cdn"))
            and answer.status in {200, 206}
            and answer.method == "GET"
        ):
            answer.body = method(answer.body)
            answer.set("Content-Encoding", name)

    return tune


@pytest.mark.parametrize("door", ["snapshot", "file", "haul"])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize(
    ("method", "encoding"), [(gzip.compress, "gzip"), (gzip.compress, "X-GZIP"), (zlib.compress, "deflate")]
)
def test_an_encoding_that_nobody_asked_for_is_undone(
    doors: Doors, door: str, name: str, method: Callable[[bytes], bytes], encoding: str
) -> None:
    doors.hub.tune = encode(method, encoding)
    assert getattr(doors, door)(name) == FILES[name]


def test_it_is_undone_where_only_the_size_is_known(doors: Doors) -> None:
    doors.hub.tune = encode(gzip.compress, "gzip")
    assert doors.task(WEIGHTS, size=len(FILES[WEIGHTS])) == FILES[WEIGHTS]


@pytest.mark.parametrize("size", [7, 10**6])
def test_what_is_undone_has_to_have_the_size_that_is_known(doors: Doors, size: int) -> None:
    doors.hub.tune = encode(gzip.compress, "gzip")
    with pytest.raises(RuntimeError, match=WEIGHTS):
        doors.task(WEIGHTS, size=size)
    assert not (doors.folder / "task" / WEIGHTS).exists()


def test_bytes_that_are_damaged_in_it_are_not_published(doors: Doors) -> None:
    doors.hub.tune = encode(lambda data: gzip.compress(data[:-1] + b"?"), "gzip")
    with pytest.raises(IntegrityError):
        doors.file(WEIGHTS)


@pytest.mark.parametrize(
    ("known", "encoding", "words"),
    [
        pytest.param({}, "gzip", "give its digest or its size", id="nothing to check it by"),
        pytest.param(
            {"size": len(FILES[WEIGHTS])}, "br", "encoded as 'br'.* cannot be decoded", id="unknown"
        ),
        pytest.param({}, "aws-chunked", "if the file is meant to be so, give its digest", id="no encoding"),
        pytest.param({"size": len(FILES[WEIGHTS])}, "gzip, gzip", "cannot be decoded", id="twice"),
    ],
)
def test_an_encoding_that_cannot_be_undone_or_checked_is_an_error_that_says_so(
    doors: Doors, known: dict[str, Any], encoding: str, words: str
) -> None:
    doors.hub.tune = encode(gzip.compress, encoding)
    with pytest.raises(RuntimeError, match=words):
        doors.task(WEIGHTS, **known)


@pytest.mark.parametrize("encoding", ["aws-chunked", "utf-8", "br"])
def test_where_only_a_digest_is_known_it_decides_of_what_cannot_be_undone(
    doors: Doors, encoding: str
) -> None:
    doors.hub.tune = encode(lambda data: data, encoding)
    known = {"size": None, "sha256": digest_of(WEIGHTS).value}
    assert doors.specs(WEIGHTS, **known) == FILES[WEIGHTS]
    doors.hub.tune = encode(lambda data: data[::-1], encoding)
    (doors.folder / "specs" / WEIGHTS).unlink()
    with pytest.raises(RuntimeError, match="digest does not match"):
        doors.specs(WEIGHTS, **known)


def test_a_file_that_its_storage_keeps_encoded_is_taken_as_it_is(doors: Doors) -> None:
    def tune(answer: RawAnswer) -> None:
        if answer.kind in {"resolve", "cdn"}:
            answer.set("Content-Encoding", "gzip")

    packed = gzip.compress(FILES[WEIGHTS])
    doors.hub.files.update({"packed.bin": packed})
    doors.hub.tune = tune
    for door in ("snapshot", "file", "haul"):
        assert getattr(doors, door)("packed.bin") == packed
    assert max(doors.hub.count("cdn"), 0) > 3, "it was read by ranges"


def test_compressed_by_the_storage_only_it_is_undone_in_one_stream(doors: Doors) -> None:
    doors.hub.tune = encode(gzip.compress, "gzip", "cdn")
    assert doors.file(WEIGHTS) == FILES[WEIGHTS]


# ---- interim answers, refusals, and patience without an end


@pytest.mark.parametrize("door", ["snapshot", "file", "haul"])
def test_who_is_willing_to_wait_for_ever_downloads_all_the_same(doors: Doors, door: str) -> None:
    settings = replace(SETTINGS, give_up_after=math.inf, stall_timeout=math.inf)
    with ParallelDownloadManager(settings=settings) as doors.manager:
        assert getattr(doors, door)(WEIGHTS) == FILES[WEIGHTS]


@pytest.mark.parametrize("status", ["103 Early Hints", "102 Processing", "100 Continue", "199 Odd"])
def test_interim_answers_are_passed_over(doors: Doors, status: str) -> None:
    def tune(answer: RawAnswer) -> None:
        answer.before = f"HTTP/1.1 {status}\r\nLink: </style.css>; rel=preload\r\n\r\n".encode() * 2

    doors.hub.tune = tune
    for door in ("snapshot", "file", "haul"):
        assert getattr(doors, door)(WEIGHTS) == FILES[WEIGHTS]


@pytest.mark.parametrize("door", ["snapshot", "file", "haul"])
@pytest.mark.parametrize("status", [404, 403, 410, 500])
def test_the_error_of_a_file_that_its_storage_refuses_names_it(doors: Doors, door: str, status: int) -> None:
    def tune(answer: RawAnswer) -> None:
        if answer.kind == "cdn":
            answer.status, answer.body, answer.headers = status, b"", []

    doors.hub.tune = tune
    with pytest.raises((HfHubHTTPError, TransferError, EntryNotFoundError)) as caught:
        getattr(doors, door)(WEIGHTS)
    assert WEIGHTS in str(caught.value)
    assert "X-Amz" not in str(caught.value)


def test_a_range_of_fewer_bytes_than_it_says_is_not_asked_for_again_for_every_few(doors: Doors) -> None:
    def tune(answer: RawAnswer) -> None:
        if answer.kind == "cdn" and answer.status == 206:
            answer.body = answer.body[:2]

    doors.hub.tune = tune
    assert doors.file(WEIGHTS) == FILES[WEIGHTS]
    assert doors.hub.count("cdn") < 50


def test_a_copy_of_names_that_lead_out_of_their_folder_is_refused(doors: Doors, tmp_path: Path) -> None:
    doors.hub.files["a/../../x"] = b"x"
    fs = HaulFileSystem(endpoint=doors.hub.url, token=False, skip_instance_cache=True)
    fs.manager = doors.manager
    with pytest.raises(UnsafePathError, match="outside the destination"):
        fs.get("org/m", str(tmp_path / "got"), recursive=True)
    assert not (tmp_path / "x").exists()


def test_a_range_that_is_refused_names_the_file(doors: Doors) -> None:
    def tune(answer: RawAnswer) -> None:
        if answer.kind == "cdn":
            answer.status, answer.body = 416, b""
            answer.set("Content-Range", None)

    doors.hub.tune = tune
    with pytest.raises((RangeRefusedError, TransferError), match=WEIGHTS):
        doors.file(WEIGHTS)


@pytest.mark.parametrize("call", ["pwrite", "ftruncate"])
@pytest.mark.parametrize("door", ["snapshot", "file", "accelerated"])
def test_the_error_of_a_disk_names_the_file(
    doors: Doors, monkeypatch: pytest.MonkeyPatch, door: str, call: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        getattr(doors, door)(WEIGHTS)
    assert WEIGHTS in f"{caught.value} {getattr(caught.value, '__notes__', '')}"
