"""What follows, as a table: nothing is run here, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.engine.outcome import (
    Outcome,
    PartOutcome,
    Verdict,
    after_finish,
    after_last_part,
    after_opening,
    after_part,
)
from hf_haul.engine.transfer import Part, Phase, SupersededError, Transfer
from hf_haul.errors import (
    IntegrityError,
    RangeRefusedError,
    RetriesExhaustedError,
    ServerBusyError,
    SourceChangedError,
    StopRequestedError,
)
from hf_haul.metrics import DownloadMetrics
from hf_haul.ranges import ByteRange
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.staged_file import StagedLostError
from hf_haul.task import Digest, DownloadState, DownloadTask

STOPPED, LOST, FULL = StopRequestedError("stopped"), StagedLostError("taken"), OSError("disk full")
ELSEWHERE = StagedElsewhereError(Path("a.bin"), None)
CHANGED, REFUSED = SourceChangedError("another version"), RangeRefusedError("no ranges")
EXHAUSTED, BUSY, WRONG = (
    RetriesExhaustedError("no answer"),
    ServerBusyError("429"),
    IntegrityError("a", "0", "1", 0),
)


@pytest.fixture
def transfer(tmp_path: Path) -> Transfer:
    source = FakeSource(bytes(1000))
    destination = MemoryDestination(tmp_path, "a.bin")
    wanted = request(destination, source)
    task = DownloadTask("org/m", "a.bin", wanted.remote.url, destination.path, size=1000)
    task.move_to(DownloadState.RUNNING)
    return Transfer(task, wanted, source, DownloadMetrics())


def staged(transfer: Transfer) -> Transfer:
    transfer.staged = cast("Any", object())
    transfer.move_to(Phase.FETCHING)
    return transfer


@pytest.mark.parametrize(
    ("error", "cancelled", "outcome"),
    [
        pytest.param(None, False, Outcome(Verdict.OPENED), id="opened"),
        pytest.param(SupersededError(), False, Outcome(Verdict.PRESENT), id="in place"),
        pytest.param(SupersededError(), True, Outcome(Verdict.PRESENT), id="in place, and cancelled"),
        pytest.param(STOPPED, False, Outcome(Verdict.PUT_BACK), id="stopped by a pause"),
        pytest.param(STOPPED, True, Outcome(Verdict.GIVE_UP), id="stopped by a cancel"),
        pytest.param(None, True, Outcome(Verdict.GIVE_UP), id="opened, but cancelled"),
        pytest.param(ELSEWHERE, False, Outcome(Verdict.LOOK_LATER, ELSEWHERE), id="another process has it"),
        pytest.param(FULL, False, Outcome(Verdict.GIVE_UP, FULL), id="the disk refuses"),
    ],
)
def test_what_follows_the_opening_of_a_file(
    transfer: Transfer, error: BaseException | None, cancelled: bool, outcome: Outcome
) -> None:
    assert after_opening(transfer, error, cancelled=cancelled) == outcome


@pytest.mark.parametrize("error", [None, STOPPED, FULL], ids=["opened", "stopped", "failed"])
def test_a_file_that_failed_while_it_was_opened_is_given_up_for_that(
    transfer: Transfer, error: BaseException | None
) -> None:
    transfer.fail(WRONG)
    assert after_opening(transfer, error, cancelled=False) == Outcome(Verdict.GIVE_UP, WRONG)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        pytest.param(None, PartOutcome(False, False, False, None), id="done"),
        pytest.param(STOPPED, PartOutcome(False, False, False, None), id="stopped"),
        pytest.param(BUSY, PartOutcome(True, False, False, BUSY), id="the source is busy"),
        pytest.param(EXHAUSTED, PartOutcome(True, False, False, EXHAUSTED), id="no answer"),
        pytest.param(REFUSED, PartOutcome(False, True, False, None), id="the range was refused"),
        pytest.param(CHANGED, PartOutcome(False, False, True, None), id="another version"),
        pytest.param(FULL, PartOutcome(False, False, False, FULL), id="the disk refuses"),
    ],
)
def test_what_follows_a_part(transfer: Transfer, error: BaseException | None, outcome: PartOutcome) -> None:
    assert after_part(staged(transfer), None, error) == outcome


def test_a_source_that_refuses_range_after_range_fails_the_file(transfer: Transfer) -> None:
    transfer.range_refusals = 6
    assert after_part(staged(transfer), None, REFUSED) == PartOutcome(False, True, False, REFUSED)


def _knows_the_digest(transfer: Transfer) -> None:
    transfer.task.digest = Digest("sha256", "0" * 64)


def _has_changed_twice(transfer: Transfer) -> None:
    transfer.changes = 2


@pytest.mark.parametrize("spoil", [_knows_the_digest, _has_changed_twice])
def test_another_version_fails_a_file_whose_digest_is_known_or_that_never_stands_still(
    transfer: Transfer, spoil: Callable[[Transfer], None]
) -> None:
    spoil(staged(transfer))
    assert after_part(transfer, None, CHANGED).failure is CHANGED


def test_all_parts_of_a_file_see_its_last_change(transfer: Transfer) -> None:
    staged(transfer).changes = 1
    transfer.restart()
    assert transfer.changes == 2
    assert after_part(transfer, None, CHANGED) == PartOutcome(False, False, True, None)
    transfer.restart()
    assert transfer.changes == 2


@pytest.mark.parametrize("received", [0, 10])
def test_a_rival_that_brings_bytes_keeps_a_fault_from_failing_the_file(
    transfer: Transfer, received: int
) -> None:
    hedge = Part(staged(transfer), ByteRange(0, 1000), now=0.0)
    hedge.received = received
    assert after_part(transfer, hedge, EXHAUSTED).failure is (None if received else EXHAUSTED)


def _in_place(transfer: Transfer) -> None:
    transfer.task.move_to(DownloadState.DONE)


def _failed(error: BaseException) -> Callable[[Transfer], None]:
    return lambda transfer: transfer.fail(error)


def _unopened(transfer: Transfer) -> None:
    transfer.staged = None


@pytest.mark.parametrize(
    ("change", "cancelled", "losses", "outcome"),
    [
        pytest.param(lambda _: None, False, 0, Outcome(Verdict.GO_ON), id="the rest"),
        pytest.param(lambda _: None, True, 0, Outcome(Verdict.GIVE_UP), id="cancelled"),
        pytest.param(Transfer.restart, False, 0, Outcome(Verdict.RENEW), id="another version"),
        pytest.param(_in_place, True, 0, Outcome(Verdict.PUBLISHED), id="in place, and cancelled"),
        pytest.param(_failed(FULL), False, 0, Outcome(Verdict.GIVE_UP, FULL), id="failed"),
        pytest.param(_failed(FULL), True, 0, Outcome(Verdict.GIVE_UP), id="failed, and cancelled"),
        pytest.param(_failed(LOST), False, 4, Outcome(Verdict.LOOK_ELSEWHERE), id="taken"),
        pytest.param(_failed(LOST), False, 5, Outcome(Verdict.GIVE_UP, LOST), id="taken again and again"),
        pytest.param(_unopened, False, 0, Outcome(Verdict.PUT_BACK), id="not opened"),
    ],
)
def test_what_follows_when_nobody_is_at_a_file(
    transfer: Transfer, change: Callable[[Transfer], None], cancelled: bool, losses: int, outcome: Outcome
) -> None:
    change(staged(transfer))
    assert after_last_part(transfer, cancelled=cancelled, losses=losses) == outcome


@pytest.mark.parametrize(
    ("error", "published", "cancelled", "losses", "outcome"),
    [
        pytest.param(None, True, False, 0, Outcome(Verdict.PUBLISHED), id="published"),
        pytest.param(None, True, True, 0, Outcome(Verdict.PUBLISHED), id="published, and cancelled"),
        pytest.param(None, False, False, 0, Outcome(Verdict.FETCH_AGAIN), id="a wrong digest"),
        pytest.param(WRONG, False, False, 0, Outcome(Verdict.GIVE_UP, WRONG), id="a wrong digest again"),
        pytest.param(LOST, False, False, 4, Outcome(Verdict.LOOK_ELSEWHERE), id="taken"),
        pytest.param(LOST, False, False, 5, Outcome(Verdict.GIVE_UP, LOST), id="taken again and again"),
        pytest.param(LOST, False, True, 0, Outcome(Verdict.GIVE_UP), id="taken, and cancelled"),
        pytest.param(STOPPED, False, True, 0, Outcome(Verdict.GIVE_UP), id="stopped by a cancel"),
        pytest.param(FULL, False, True, 0, Outcome(Verdict.GIVE_UP, FULL), id="the disk refuses"),
    ],
)
def test_what_follows_the_last_step_of_a_file(
    transfer: Transfer, error: BaseException | None, published: bool, cancelled: bool, losses: int, outcome: Outcome
) -> None:  # fmt: skip
    staged(transfer).move_to(Phase.FINISHING)
    found = after_finish(transfer, error, published=published, cancelled=cancelled, losses=losses)
    assert found == outcome
