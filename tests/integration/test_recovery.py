"""What goes wrong between us and a Hub, one row each: what may pass does not fail a download, what lasts does."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from tests.support.engine import PART, SMALL, TOKEN, WEIGHTS, Rig, serve_files
from tests.support.hub import make_certificate
from tests.support.repos import random_bytes

from hf_haul.config import Settings
from hf_haul.errors import (
    CertificateError,
    HttpStatusError,
    IntegrityError,
    RetriesExhaustedError,
    SourceChangedError,
    TransferError,
)
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.localhub import Account, LocalHub
from hf_haul.localhub.testing.faults import (
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
from hf_haul.transports import http

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


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(busy(408), id="408"),
        pytest.param(busy(429, retry_after=0.01), id="429, Retry-After"),
        pytest.param(busy(429, headers={"RateLimit": '"api";r=0;t=0'}), id="429, RateLimit"),
        pytest.param(busy(500), id="500"),
        pytest.param(busy(502), id="502"),
        pytest.param(busy(503), id="503"),
        pytest.param(busy(504), id="504"),
        pytest.param(Html(), id="HTML instead of JSON"),
        pytest.param(Reset(), id="reset"),
        pytest.param(Cut(after=10), id="cut short"),
        pytest.param(Delay(3600), id="no answer"),
    ],
)
@pytest.mark.parametrize("kind", ["info", "tree"])
def test_a_fault_in_the_listing_that_passes_fails_no_snapshot(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, kind: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    rig.tune(ask_again=(0.01,) * 5)
    rule = rig.hub.faults.add(fault, kind=kind)
    with rig.manager() as manager:
        folder = snapshot_download(
            "org/m",
            cache_dir=tmp_path / "cache",
            endpoint=rig.hub.url,
            token=False,
            manager=manager,
        )
    assert rule.hits == 1
    assert (Path(folder) / WEIGHTS).read_bytes() == rig.files[WEIGHTS]
    assert (Path(folder) / SMALL).read_bytes() == rig.files[SMALL]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(busy(429, retry_after=0.01), id="429"),
        pytest.param(busy(500), id="500"),
        pytest.param(Reset(), id="reset"),
        pytest.param(Delay(3600), id="no answer"),
    ],
)
def test_a_fault_in_the_metadata_that_passes_fails_no_download_of_a_file(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    rig.tune(ask_again=(0.01,) * 5)
    rule = rig.hub.faults.add(fault, kind="resolve*", method="HEAD")
    with rig.manager() as manager:
        path = hf_hub_download(
            "org/m",
            SMALL,
            cache_dir=tmp_path / "cache",
            endpoint=rig.hub.url,
            token=False,
            manager=manager,
        )
    assert rule.hits == 1
    assert Path(path).read_bytes() == rig.files[SMALL]


# -- rows with something of their own


@pytest.mark.parametrize("fault", [Stall(after=20_000), Delay(3600)], ids=["stalls", "says nothing"])
def test_every_connection_that_stalls_after_some_bytes_still_brings_the_file(rig: Rig, fault: Fault) -> None:
    rig.hub.faults.add(fault, kind="cdn", times=6)
    outcome = rig.fetch(WEIGHTS, give_up_after=60.0, max_retries=20, first_byte_timeout=0.5)
    assert outcome.errors == {}
    assert rig.is_whole(WEIGHTS)


def test_bytes_that_came_before_a_stall_are_kept(rig: Rig) -> None:
    rig.hub.faults.add(Stall(after=30_000), kind="cdn", times=None, when=lambda record: record.range != "")
    # A read asks for more than ever comes, and no attempt gets further than 30,000 bytes.
    outcome = rig.fetch(WEIGHTS, max_retries=2, chunk_size=PART, enable_adaptive_chunking=False)
    assert outcome.errors == {}
    assert rig.is_whole(WEIGHTS)


def test_a_crawling_connection_is_given_up_for_another(rig: Rig) -> None:
    rig.tune(warm_up=0.5)
    rule = rig.hub.faults.add(Trickle(200.0), kind="cdn", covers=MIDDLE)
    started = time.monotonic()
    # A single connection at a time: nobody is there to help out.
    outcome = rig.fetch(WEIGHTS, max_concurrent_downloads=1, stall_timeout=5.0)
    assert outcome.errors == {}
    assert rule.hits == 1
    assert rig.is_whole(WEIGHTS)
    assert time.monotonic() - started < 20


def test_after_a_long_fault_each_new_attempt_gets_its_full_time(rig: Rig) -> None:
    """A part that is old is not therefore slow: its latest attempt is what counts."""
    rig.tune(warm_up=0.5)
    rig.hub.faults.add(Stall(after=0), kind="cdn", times=3)
    slow = rig.hub.faults.add(Delay(0.6), kind="cdn", nth=4, times=None)
    outcome = rig.fetch(WEIGHTS, max_concurrent_downloads=1, stall_timeout=1.0, part_size=10 * PART)
    assert outcome.errors == {}
    assert outcome.progress.retries == 3
    assert slow.hits == 1


def test_near_the_end_a_crawling_connection_is_overtaken(rig: Rig) -> None:
    rig.tune(worth_hedging=0.3)
    rig.hub.faults.add(Trickle(2000.0), kind="cdn", covers=MIDDLE)  # 32 s for its part
    started = time.monotonic()
    outcome = rig.fetch(WEIGHTS)
    assert outcome.errors == {}
    assert rig.is_whole(WEIGHTS)
    assert rig.left == []
    assert time.monotonic() - started < 15


def _date(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("fault", "least"),
    [
        pytest.param(lambda: busy(429, retry_after=1), 1.0, id="seconds"),
        pytest.param(lambda: busy(503, retry_after=1), 1.0, id="seconds of a 503"),
        pytest.param(
            lambda: busy(429, headers={"Retry-After": _date(2), "Date": _date(0)}), 1.0, id="a date"
        ),
        pytest.param(lambda: busy(429, headers={"RateLimit": '"resolvers";r=0;t=0'}), 1.0, id="RateLimit"),
    ],
)
@pytest.mark.parametrize("where", [ON_RESOLVE, ON_CDN], ids=["resolve", "CDN"])
def test_a_server_that_asks_for_patience_gets_it_from_every_thread(
    rig: Rig, fault: Any, least: float, where: dict[str, Any]
) -> None:
    rule = rig.hub.faults.add(fault(), **where)
    # Patience is not silence: the watchdog, which would wait for less, stays out of it.
    outcome = rig.fetch(WEIGHTS, stall_timeout=0.3)
    assert outcome.errors == {}
    assert rule.hits == 1
    assert outcome.progress.retries == 1
    records = list(rig.hub.requests)
    (refused,) = [record for record in records if record.status in {429, 503}]
    assert refused.end is not None
    later = [r.start - refused.end for r in records if r.kind == refused.kind and r.start > refused.end]
    # What had left when the answer came, had left; nobody else asked.
    assert [gap for gap in later if 0.4 < gap < least - 0.05] == []
    assert max(later) >= least - 0.05


def test_a_limit_that_says_nothing_is_left_is_one_pause_and_no_failure(rig: Rig) -> None:
    rig.hub.limits.set("resolvers", anonymous=1, with_token=3)
    rig.hub.limits.window = 1.0
    rig.hub.limits.retry_after = True
    more = {f"part-{i}.bin": random_bytes(1000, i) for i in range(8)}
    rig.repo.commit(more, "more")
    rig.files.update(more)
    outcome = rig.fetch(*more)
    assert outcome.errors == {}
    assert all(rig.is_whole(path) for path in more)


def test_every_url_may_live_a_moment_only(tmp_path: Path) -> None:
    with serve_files(tmp_path / "out", weights=30 * PART, url_lifetime=0.25) as rig:
        rig.hub.set_latency(0.05)
        outcome = rig.fetch(WEIGHTS, max_concurrent_downloads=2)
        assert outcome.errors == {}
        assert rig.is_whole(WEIGHTS)
        assert [r for r in rig.hub.requests.of("cdn") if r.status == 403]
        assert 3 <= len(rig.hub.requests.of("resolve")) < 30


def test_a_body_outlives_its_url(rig: Rig) -> None:
    rule = rig.hub.faults.add(Stall(after=20_000), kind="cdn", covers=MIDDLE)
    with rig.manager(stall_timeout=30.0) as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="org/m")
        assert rule.wait()
        rig.hub.expire_urls()
        rig.hub.faults.release()
        assert handle.wait(20)
    assert handle.errors() == []
    assert rig.is_whole(WEIGHTS)


def test_a_signed_url_is_asked_for_once_per_file(rig: Rig) -> None:
    outcome = rig.fetch(WEIGHTS, SMALL)
    assert outcome.errors == {}
    assert len(rig.hub.requests.of("resolve", WEIGHTS)) == 1
    assert len(rig.hub.requests.of("cdn")) >= 4


def test_a_token_goes_to_its_own_origin_only(rig: Rig) -> None:
    rig.hub.faults.add(Redirects(301, 302, 307, 308), kind="resolve")
    assert rig.fetch(WEIGHTS, SMALL).errors == {}
    assert {record.token for record in rig.hub.requests.of("resolve")} == {TOKEN}
    assert {record.token for record in rig.hub.requests.of("cdn")} == {None}


@pytest.mark.parametrize(
    "codes", [(301,), (302,), (303,), (307,), (308,), (301, 308), (302, 307, 301)], ids=str
)
def test_redirects_of_every_kind_are_followed(rig: Rig, codes: tuple[int, ...]) -> None:
    rules = [
        rig.hub.faults.add(Redirects(*codes), kind="resolve", path=WEIGHTS),
        rig.hub.faults.add(Redirects(*codes), kind="resolve", path=SMALL),
        rig.hub.faults.add(Redirects(*codes), kind="cdn"),
    ]
    assert rig.fetch(WEIGHTS, SMALL).errors == {}
    assert rig.is_whole(WEIGHTS)
    assert rig.is_whole(SMALL)
    assert all(rule.hits for rule in rules)


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999/x?Signature=1", "http://[::1/x?Signature=1"])
def test_a_redirect_to_no_address_is_told_without_its_signature(rig: Rig, address: str) -> None:
    rig.hub.faults.add(Headers({"Location": address}), kind="resolve", path=WEIGHTS, times=None)
    errors = rig.fetch(WEIGHTS, SMALL).errors
    assert list(errors) == [WEIGHTS]
    assert isinstance(errors[WEIGHTS], TransferError)
    assert "invalid URL" in str(errors[WEIGHTS])
    assert "Signature" not in str(errors[WEIGHTS])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, {"ETag": '"new"'}, id="etag"),
        pytest.param({"ETag": 'W/"old"'}, {"ETag": 'W/"new"'}, id="weak etag"),
        pytest.param(
            {"ETag": None, "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            {"ETag": None, "Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"},
            id="date",
        ),
    ],
)
def test_a_version_that_changes_between_parts_starts_a_file_without_a_digest_anew(
    rig: Rig, before: dict[str, str | None], after: dict[str, str | None]
) -> None:
    rig.hub.faults.add(Headers(before), kind="cdn", times=None)
    rule = rig.hub.faults.add(Headers(after), kind="cdn", times=None, nth=3)
    outcome = rig.fetch(rig.request(WEIGHTS, digest=None), max_concurrent_downloads=1)
    assert outcome.errors == {}
    assert rule.hits
    assert rig.is_whole(WEIGHTS)
    # Bytes of the two versions were never mixed: after the change, all of the file was fetched.
    ranges = [record.range for record in rig.hub.requests.of("cdn") if record.faults.count("Headers") == 2]
    assert any(each.startswith("bytes=0-") or not each for each in ranges)


def test_a_node_that_does_not_send_the_same_validators_is_no_other_version(rig: Rig) -> None:
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    rig.hub.faults.add(Headers({"Last-Modified": date}), kind="cdn", times=None)
    rule = rig.hub.faults.add(Headers({"ETag": None}), kind="cdn", times=None, nth=3)
    outcome = rig.fetch(rig.request(WEIGHTS, digest=None), max_concurrent_downloads=1)
    assert outcome.errors == {}
    assert rule.hits
    assert rig.is_whole(WEIGHTS)
    asked = [record.range for record in rig.hub.requests.of("cdn")]
    assert len(asked) == len(set(asked)), "nothing was asked for twice"


def test_an_etag_that_never_stays_the_same_fails_a_file_without_a_digest(rig: Rig) -> None:
    for nth in range(1, 60):
        rig.hub.faults.add(ChangedEtag(f'"v{nth}"'), kind="cdn", nth=nth)
    outcome = rig.fetch(rig.request(WEIGHTS, digest=None))
    assert isinstance(outcome.errors[WEIGHTS], SourceChangedError)
    assert WEIGHTS in str(outcome.errors[WEIGHTS])
    assert not (rig.folder / WEIGHTS).exists()


def test_a_proxy_is_used_for_everything(rig: Rig) -> None:
    rig.hub.options.lfs = "direct"
    rig.options["proxies"] = {"http": rig.hub.url}
    base = "http://nobody.invalid"
    rig.hub.faults.add(Cut(after=10_000), kind="resolve", path=WEIGHTS, covers=MIDDLE)
    outcome = rig.fetch(rig.request(WEIGHTS, base=base), rig.request(SMALL, base=base))
    assert outcome.errors == {}
    assert rig.is_whole(WEIGHTS)
    assert rig.is_whole(SMALL)


def test_a_small_pool_makes_threads_wait_and_nothing_fail(rig: Rig) -> None:
    rig.hub.set_pace(2 * PART)  # half a second for a part
    outcome = rig.fetch(WEIGHTS, SMALL, connection_pool_size=1, stall_timeout=1.0, max_retries=1)
    assert outcome.errors == {}
    assert outcome.progress.retries == 0
    assert rig.is_whole(WEIGHTS)


@pytest.mark.parametrize(
    ("connections", "part_size", "requests"),
    [
        pytest.param(1, 100 * PART, 1, id="one request, one connection"),
        pytest.param(8, 100 * PART, 1, id="one request"),
        pytest.param(8, 2 * PART, 3, id="a few requests"),
    ],
)
def test_a_source_that_takes_long_to_its_first_byte_gets_no_request_more_than_it_needs(
    rig: Rig, connections: int, part_size: int, requests: int
) -> None:
    rig.tune(worth_hedging=0.1)
    rig.hub.faults.add(Delay(1.2), kind="cdn", times=None)
    outcome = rig.fetch(
        WEIGHTS, stall_timeout=0.7, first_byte_timeout=None, max_concurrent_downloads=connections, part_size=part_size, initial_connections=connections
    )  # fmt: skip
    assert outcome.errors == {}
    assert rig.is_whole(WEIGHTS)
    asked = [record.range for record in rig.hub.requests.of("cdn")]
    assert len(asked) == len(set(asked)) == requests
    assert rig.left == []


# -- what lasts


@pytest.mark.parametrize(
    ("fault", "where", "words"),
    [
        pytest.param(Reset(), {"kind": "cdn"}, "waiting for its answer", id="reset before the headers"),
        pytest.param(Reset(after=0), {"kind": "cdn"}, "reset", id="reset in the body"),
        pytest.param(Cut(after=0), {"kind": "cdn"}, "cut short", id="body cut short"),
        pytest.param(busy(500), {"kind": "cdn"}, "500", id="500 on the CDN"),
        pytest.param(busy(503), {"kind": "resolve"}, "503", id="503 on resolve"),
        pytest.param(busy(429, retry_after=0.01), {"kind": "resolve"}, "429", id="429"),
        pytest.param(Stall(after=0), {"kind": "cdn"}, "no byte for", id="every body stalls"),
        pytest.param(Delay(3600), {"kind": "resolve"}, "no byte for", id="no headers"),
    ],
)
def test_a_lasting_fault_names_file_host_attempts_and_seconds_and_other_files_finish(
    rig: Rig, fault: Fault, where: dict[str, Any], words: str
) -> None:
    rig.hub.faults.add(fault, path=WEIGHTS, times=None, **where)
    outcome = rig.fetch(WEIGHTS, SMALL, max_retries=3, stall_timeout=0.3, first_byte_timeout=0.3)
    (error,) = outcome.errors.values()
    assert isinstance(error, RetriesExhaustedError)
    message = str(error)
    assert WEIGHTS in message
    assert "127.0.0.1" in message or "localhost" in message
    assert re.search(r"after \d+ attempts", message)
    assert re.search(r"\d+ s without a new byte", message)
    assert words in message.lower()
    assert rig.is_whole(SMALL)
    assert not (rig.folder / WEIGHTS).exists()


def test_a_source_that_breaks_every_body_at_the_same_place_fails_even_if_it_serves_no_ranges(
    rig: Rig,
) -> None:
    rig.hub.faults.add(IgnoreRange(), kind="cdn", times=None)
    rig.hub.faults.add(Cut(after=2 * PART), kind="cdn", times=None)
    outcome = rig.fetch(WEIGHTS, max_retries=3)
    assert isinstance(outcome.errors[WEIGHTS], RetriesExhaustedError)


def test_a_source_that_goes_dark_fails_its_file_although_idle_connections_help(rig: Rig) -> None:
    rig.tune(worth_hedging=0.1)
    rig.hub.faults.add(
        Stall(after=10_000), kind="cdn", times=None, covers=MIDDLE, when=lambda r: r.range != ""
    )
    rig.hub.faults.add(Stall(after=0), kind="cdn", times=None, nth=8)
    started = time.monotonic()
    outcome = rig.fetch(WEIGHTS, give_up_after=2.0, stall_timeout=0.3, max_retries=50)
    assert isinstance(outcome.errors[WEIGHTS], RetriesExhaustedError)
    assert time.monotonic() - started < 15


def test_one_file_that_fails_does_not_hold_up_the_others_of_its_source(rig: Rig) -> None:
    more = {f"part-{i}.bin": random_bytes(3 * PART, i) for i in range(6)}
    rig.repo.commit(more, "more")
    rig.files.update(more)
    rig.hub.faults.add(busy(500), kind="cdn", path="part-0.bin", times=None)
    with rig.manager(
        max_retries=1000, give_up_after=600.0, first_retry_wait=30.0, max_retry_wait=60.0
    ) as manager:
        handle = manager.submit([rig.request(path) for path in more], model_id="org/m")
        # While one file waits for its next attempt, all others get their turn.
        assert rig.hub.requests.wait_for(
            lambda log: (
                {r.path for r in log.of("cdn") if r.complete and r.status == 206}
                >= set(more) - {"part-0.bin"}
            )
        )
        assert not handle.wait(0)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
def test_a_final_answer_of_the_hub_is_told_as_it_is_and_never_retried(rig: Rig, status: int) -> None:
    rule = rig.hub.faults.add(Status(status, b"go away"), kind="resolve", path=WEIGHTS, times=None)
    outcome = rig.fetch(WEIGHTS, SMALL)
    error = outcome.errors[WEIGHTS]
    assert isinstance(error, HttpStatusError)
    assert (error.status, error.body) == (status, b"go away")
    assert outcome.progress.retries == 0
    assert rule.hits <= rig.settings.initial_connections  # one for each part that was under way
    assert WEIGHTS in str(error)
    assert rig.is_whole(SMALL)


def test_a_final_403_of_the_cdn_is_believed_after_some_fresh_links(rig: Rig) -> None:
    rig.tune(refused_links=0.0)
    rule = rig.hub.faults.add(
        Status(403, b"<Error>AccessDenied</Error>"), kind="cdn", path=WEIGHTS, times=None
    )
    outcome = rig.fetch(WEIGHTS, SMALL)
    error = outcome.errors[WEIGHTS]
    assert isinstance(error, HttpStatusError)
    assert error.status == 403
    assert b"AccessDenied" in error.body
    links = len(rig.hub.requests.of("resolve", WEIGHTS))
    assert links <= http._REFUSALS + rig.settings.initial_connections
    # All parts try the first link, and one part each of the others.
    assert rule.hits < links + rig.settings.initial_connections
    assert rig.is_whole(SMALL)


def test_a_file_deleted_in_the_middle_fails_and_says_so(rig: Rig) -> None:
    rig.hub.faults.add(Status(404, b"NoSuchKey"), kind="cdn", nth=3, times=None)
    rig.hub.faults.add(Status(404, b"Entry not found"), kind="resolve", nth=2, times=None)
    outcome = rig.fetch(WEIGHTS)
    error = outcome.errors[WEIGHTS]
    assert isinstance(error, HttpStatusError)
    assert error.status == 404
    assert rig.left  # it may come back


def test_a_digest_that_never_fits_is_told_and_nothing_is_published(rig: Rig) -> None:
    rig.hub.faults.add(Corrupt(MIDDLE), kind="cdn", times=None)
    outcome = rig.fetch(WEIGHTS, SMALL)
    error = outcome.errors[WEIGHTS]
    assert isinstance(error, IntegrityError)
    assert error.file_path == WEIGHTS
    assert error.expected == rig.repo.head.tree.files[WEIGHTS].content.sha256()
    assert error.actual != error.expected
    assert not (rig.folder / WEIGHTS).exists()
    assert rig.left == []
    assert rig.is_whole(SMALL)


def test_after_a_mismatch_the_file_is_fetched_once_more_in_order(rig: Rig) -> None:
    rig.hub.faults.add(Corrupt(MIDDLE), kind="cdn", covers=MIDDLE)
    assert rig.fetch(WEIGHTS).errors == {}
    assert rig.is_whole(WEIGHTS)
    starts = [
        int(record.range.removeprefix("bytes=").partition("-")[0] or 0)
        for record in rig.hub.requests.of("cdn")
    ]
    assert starts.count(0) == 2
    again = starts[len(starts) - starts[::-1].index(0) - 1 :]
    assert again == sorted(again)


def test_a_refused_connection_is_tried_again_and_then_told(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    outcome = rig.fetch(rig.request(WEIGHTS, base=f"http://127.0.0.1:{port}"), SMALL, max_retries=3)
    error = outcome.errors[WEIGHTS]
    assert isinstance(error, RetriesExhaustedError)
    assert "127.0.0.1: Connection refused" in str(error)
    assert "after 4 attempts" in str(error)
    assert rig.is_whole(SMALL)


def test_a_server_that_comes_back_is_found(rig: Rig) -> None:
    """Connection refused, and then not any more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with rig.manager(max_retries=10_000) as manager:
        handle = manager.submit([rig.request(WEIGHTS, base=f"http://127.0.0.1:{port}")], model_id="org/m")
        while not handle.progress().retries:
            assert not handle.wait(0.01)
        with LocalHub(rig.repo, accounts=[Account("me", TOKEN.removeprefix("Bearer "))], port=port):
            assert handle.wait(20)
    assert handle.errors() == []
    assert rig.is_whole(WEIGHTS)


def test_a_name_that_does_not_resolve_is_told(rig: Rig) -> None:
    outcome = rig.fetch(rig.request(WEIGHTS, base="http://hub.invalid"), SMALL, max_retries=3)
    error = outcome.errors[WEIGHTS]
    assert isinstance(error, RetriesExhaustedError)
    assert "hub.invalid: its name could not be resolved" in str(error)
    assert rig.is_whole(SMALL)


def test_a_certificate_that_is_not_trusted_is_fatal_at_once(rig: Rig, tmp_path: Path) -> None:
    certfile, keyfile = make_certificate(tmp_path)
    with LocalHub(rig.repo, certfile=certfile, keyfile=keyfile) as secure:
        outcome = rig.fetch(rig.request(WEIGHTS, base=secure.url), SMALL)
        assert isinstance(outcome.errors[WEIGHTS], CertificateError)
        assert outcome.progress.retries == 0
        assert rig.is_whole(SMALL)
        rig.options["verify_tls"] = str(certfile)
        assert rig.fetch(rig.request(WEIGHTS, base=secure.url, headers={})).errors == {}
        assert rig.is_whole(WEIGHTS)


def test_a_fault_that_lasts_is_told_within_two_minutes_whatever_it_is() -> None:
    """By arithmetic: the budget, its last attempt, and what one attempt can take at the most."""
    settings = Settings()
    one_attempt = settings.connect_timeout + 2 * settings.stall_timeout  # connecting, headers, body
    assert settings.give_up_after + one_attempt <= 120
