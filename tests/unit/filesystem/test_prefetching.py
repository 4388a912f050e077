"""What a program has fetched before it reads it: in which order, and what its handle says."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.support.repos import random_bytes
from tests.support.sources import FakeTransport, make_reads

from hf_haul.config import Settings
from hf_haul.filesystem.prefetching import Prefetch, prefetch
from hf_haul.reading.extents import Extents
from hf_haul.reading.range_source import RangeSource

DATA = random_bytes(100_000, "prefetching")


class Files:
    """A filesystem of files in memory, over one connection, whose requests wait for ``gate``."""

    def __init__(self, *names: str) -> None:
        self.gate = threading.Event()
        self.order: list[str] = []
        self.transports = [
            FakeTransport(DATA, gate=self.gate, on_open=lambda name=name: self.order.append(name))  # type: ignore[misc]  # a default is bound early
            for name in names
        ]
        settings = Settings(first_retry_wait=0.0, max_retries=0, max_read_connections=1)
        reads, sources = make_reads(*self.transports, settings=settings)
        self.sources = dict(zip(names, sources, strict=True))
        self.extents = Extents(reads)

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        return {"name": path, "type": "file"}

    def source_of(self, path: str, revision: str | None = None) -> tuple[None, RangeSource] | None:
        del revision
        return None if path == "bucket" else (None, self.sources[path])

    def fetch(self, wanted: Any, priority: Any = "normal") -> Prefetch:
        return prefetch(self, wanted, priority, None)


def test_what_is_urgent_goes_before_what_is_read_ahead_and_that_before_what_is_not() -> None:
    files = Files("running", "low", "ahead", "normal", "high")
    handles = [files.fetch("running")]
    assert files.transports[0].wait_for_requests(1)
    handles.append(files.fetch("low", "low"))
    files.extents.prefetch(files.sources["ahead"], [(0, 1000)], part=1000, owner=object())
    handles += [files.fetch("normal"), files.fetch("high", "high")]
    files.gate.set()
    assert all(handle.wait(10) for handle in handles)
    assert files.order == ["running", "high", "ahead", "normal", "low"]


def test_a_handle_is_done_when_all_has_come() -> None:
    files = Files("a", "b")
    handle = files.fetch(["a", ("b", 10, 20)])
    assert not handle.done
    assert not handle.wait(0)
    files.gate.set()
    assert handle.wait(10)
    assert handle.done
    assert (handle.nbytes, handle.left_out) == (len(DATA) + 10, 0)
    assert files.transports[1].asked == [(10, 20)]


def test_what_is_cancelled_is_not_fetched_and_what_runs_is_ended() -> None:
    files = Files("running", "waiting")
    handle = files.fetch(["running", "waiting"])
    assert files.transports[0].wait_for_requests(1)
    handle.cancel()
    assert handle.wait(10)
    assert handle.done
    assert files.order == ["running"]
    assert files.transports[0].sent == 0


def test_what_fails_ends_a_handle_without_an_error() -> None:
    files = Files("a")
    files.transports[0].faults = [OSError("gone")]
    files.gate.set()
    handle = files.fetch("a")
    assert handle.wait(10)
    assert handle.done


def test_what_is_in_no_repository_is_refused() -> None:
    with pytest.raises(ValueError, match="bucket is in a bucket"):
        Files("a").fetch("bucket")
