"""What keeps a queue while nothing moves: a silent connection, a disk, a last step."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.engine.quiet import QuietWatch
from hf_haul.engine.transfer import Part, Phase, Transfer
from hf_haul.metrics import DownloadMetrics
from hf_haul.ranges import ByteRange
from hf_haul.task import DownloadTask
from hf_haul.waits import Wait


class Bench:
    """One file with one part, looked at on a clock that starts at 100."""

    def __init__(self, folder: Path) -> None:
        source = FakeSource(bytes(1000))
        wanted = request(MemoryDestination(folder, "a.bin"), source)
        task = DownloadTask("m", "a.bin", wanted.remote.url, folder / "a.bin", 1000)
        self.transfer = Transfer(task, wanted, source, DownloadMetrics())
        self.part = Part(self.transfer, ByteRange(0, 1000), now=100.0)
        self.transfer.parts.append(self.part)
        self.watch = QuietWatch()
        self.limited = False

    def look(self, now: float, *moved: int) -> Wait | None:
        return self.watch.look(now, moved, [self.transfer], lambda _part: 30.0, limited=self.limited)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_silent_connection_is_said_after_a_while_and_until_when(bench: Bench) -> None:
    bench.part.begin_call(100.0)
    bench.part.reading_since = 100.0
    assert bench.look(100.0, 7) is None
    assert bench.look(104.9, 7) is None
    wait = bench.look(112.0, 7)
    assert wait is not None
    assert (wait.reason, wait.seconds, wait.path) == ("stall", 18.0, "a.bin")
    assert "sends nothing for 12 s; its connection is given up after 30 s" in wait.message


def test_one_that_has_not_answered_is_said_to(bench: Bench) -> None:
    bench.part.begin_call(100.0)
    bench.look(100.0, 7)
    wait = bench.look(106.0, 7)
    assert wait is not None
    assert "has not answered for 6 s" in wait.message


def test_while_anything_moves_nothing_is_waited_for(bench: Bench) -> None:
    bench.part.begin_call(100.0)
    assert [bench.look(100.0 + seconds, seconds) for seconds in range(60)] == [None] * 60


@pytest.mark.parametrize("how", ["queued", "backing off", "limited", "in a call of a moment ago"])
def test_who_waits_for_something_else_says_so_itself(bench: Bench, how: str) -> None:
    bench.look(100.0, 7)
    if how == "queued":
        bench.part.cancel_token.queued = True
    elif how == "backing off":
        bench.part.backing_off = True
    elif how == "limited":
        bench.limited = True
    else:
        bench.part.begin_call(109.0)
    assert bench.look(110.0, 7) is None


def test_a_worker_that_is_not_waiting_for_the_network_waits_for_the_disk(bench: Bench) -> None:
    bench.look(100.0, 7)
    wait = bench.look(110.0, 7)
    assert wait is not None
    assert (wait.reason, wait.seconds) == ("disk", None)
    assert "the disk of" in wait.message
    assert "has taken no byte for 10 s" in wait.message


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        pytest.param(Phase.FINISHING, "checked and written", id="finishing"),
        pytest.param(Phase.OPENING, "looking at what the disk has", id="opening"),
        pytest.param(Phase.FETCHING, None, id="waiting for a connection"),
    ],
)
def test_a_first_and_a_last_step_that_take_long_are_said(
    bench: Bench, phase: Phase, words: str | None
) -> None:
    bench.transfer.parts.clear()
    if phase is not Phase.OPENING:
        bench.transfer.move_to(Phase.FETCHING)
    if phase is Phase.FINISHING:
        bench.transfer.move_to(Phase.FINISHING)
    bench.look(100.0, 7)
    wait = bench.look(106.0, 7)
    assert (words is None) == (wait is None)
    if wait is not None and words is not None:
        assert words in wait.message
        assert wait.reason == "disk"
