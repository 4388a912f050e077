"""What goes wrong between us and a Hub, one row each: what may pass does not fail a download, what lasts does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import PART, SMALL, TOKEN, WEIGHTS, Rig, serve_files
from tests.support.hub import make_certificate
from tests.support.repos import random_bytes

from hf_haul.errors import (
    CertificateError,
    HttpStatusError,
    IntegrityError,
    RetriesExhaustedError,
    SourceChangedError,
)
from hf_haul.localhub.faults import (
    ChangedEtag,
    Corrupt,
    Cut,
    Delay,
    Fault,
    GzipBody,
    Headers,
    Html,
    IgnoreRange,
    Redirects,
    Reset,
    Stall,
    Status,
    TooLong,
    Trickle,
    WrongRange,
    WrongTotal,
)

MIDDLE = 3 * PART + 100


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path / "out") as rig:
        yield rig
        rig.hub.faults.release()


def busy(status: int, **more: Any) -> Status:
    return Status(status, b"busy", **more)


ON_CDN: dict[str, Any] = {"kind": "cdn", "covers": MIDDLE}
AT_START: dict[str, Any] = {"kind": "cdn", "covers": 0}
ON_RESOLVE: dict[str, Any] = {"kind": "resolve", "path": WEIGHTS}

PASSING = [
    pytest.param(Reset(), ON_CDN, id="reset before the headers"),
    pytest.param(Reset(), ON_RESOLVE, id="reset before the redirect"),
    pytest.param(Reset(after=10_000), ON_CDN, id="reset in the body"),
    pytest.param(Reset(after=0), ON_CDN, id="reset after the headers"),
    pytest.param(Cut(after=10_000), ON_CDN, id="body cut short"),
    pytest.param(Cut(after=0), ON_CDN, id="no body"),
    pytest.param(Cut(after=10_000), {**ON_CDN, "times": 5}, id="body cut short five times"),
    pytest.param(TooLong(5000), ON_CDN, id="body too long"),
    pytest.param(TooLong(5000), {"kind": "cdn", "times": 20}, id="every body too long"),
    pytest.param(Stall(after=10_000), ON_CDN, id="body stalls"),
    pytest.param(Stall(after=0), ON_CDN, id="body stalls at its start"),
    pytest.param(Stall(after=20_000), {"kind": "cdn", "times": 4}, id="four bodies stall"),
    pytest.param(Delay(3600), ON_CDN, id="no headers"),
    pytest.param(Delay(3600), ON_RESOLVE, id="no redirect"),
    *(
        pytest.param(busy(status), where, id=f"{status} on {name}")
        for status in (408, 425, 429, 500, 502, 503, 504)
        for name, where in (("resolve", ON_RESOLVE), ("CDN", ON_CDN))
    ),
    pytest.param(busy(503), {**ON_CDN, "times": 6}, id="503 six times"),
    pytest.param(busy(503, retry_after=0), {**ON_CDN, "times": 3}, id="Retry-After: 0"),
    pytest.param(Status(403, b"<Error/>"), ON_CDN, id="403 of a signed URL"),
    pytest.param(Status(401), ON_CDN, id="401 of a signed URL"),
    pytest.param(Status(400), ON_CDN, id="400 of a signed URL"),
    pytest.param(Status(404), ON_CDN, id="404 in the middle"),
    pytest.param(IgnoreRange(), ON_CDN, id="200 instead of 206, once in the middle"),
    pytest.param(IgnoreRange(), AT_START, id="200 instead of 206, once at the start"),
    pytest.param(IgnoreRange(), {"kind": "cdn", "times": None}, id="200 instead of 206, always"),
    pytest.param(WrongRange(1000), ON_CDN, id="206 with another range"),
    pytest.param(WrongRange(-1000), ON_CDN, id="206 with a range from before"),
    pytest.param(WrongRange(1000), {"kind": "cdn", "times": None}, id="206 with another range, always"),
    pytest.param(WrongRange(1000, admits=False), ON_CDN, id="206 with other bytes than it says"),
    pytest.param(Headers({"Content-Range": None}), ON_CDN, id="206 without saying which range"),
    pytest.param(Headers({"Content-Range": "bytes 5-1/2"}), ON_CDN, id="206 with nonsense for a range"),
    pytest.param(Status(416), ON_CDN, id="416"),
    pytest.param(WrongTotal(123), ON_CDN, id="wrong total"),
    pytest.param(WrongTotal(123), ON_RESOLVE, id="wrong size in the redirect"),
    pytest.param(ChangedEtag(), ON_RESOLVE, id="wrong etag in the redirect"),
    pytest.param(ChangedEtag(), {**ON_CDN, "times": None}, id="etag differs between parts, with a digest"),
    pytest.param(GzipBody(), ON_CDN, id="gzip on a ranged body"),
    pytest.param(Html(), ON_CDN, id="a web page instead of the bytes"),
    pytest.param(Html(), ON_RESOLVE, id="a web page instead of the redirect"),
    pytest.param(Corrupt(MIDDLE), ON_CDN, id="a wrong byte, once"),
    pytest.param(Corrupt(0), {"kind": "cdn", "covers": 0}, id="the first byte wrong, once"),
]


@pytest.mark.parametrize(("fault", "where"), PASSING)
def test_a_fault_that_passes_fails_nothing_and_leaves_nothing(
    rig: Rig, fault: Fault, where: dict[str, Any]
) -> None:
    rule = rig.hub.faults.add(fault, **where)
    outcome = rig.fetch(WEIGHTS, SMALL)
    assert outcome.errors == {}
    assert rule.hits
    assert rig.is_whole(WEIGHTS)
    assert rig.is_whole(SMALL)
    assert rig.left == []
