"""Which source is asked for the next part, given speeds, failures, and who has the file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.support.clock import FakeClock
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.config import KiB, MiB, Settings
from hf_haul.engine.file_sources import FileSource, Suspicion
from hf_haul.engine.source_choice import Fault, SourceChoice, fault_of, is_near
from hf_haul.engine.transfer import Part, Transfer
from hf_haul.errors import (
    CertificateError,
    ConnectionFailedError,
    HttpStatusError,
    LinkExpiredError,
    RangeRefusedError,
    ServerBusyError,
    SourceChangedError,
    StalledError,
    TransferError,
)
from hf_haul.metrics import MAX_SOURCES, DownloadMetrics, SourceHistory, SpeedMeter
from hf_haul.ranges import ByteRange
from hf_haul.task import DownloadTask
from hf_haul.transports.source_limits import SourceLimits

HUB, LAB, MIRROR = "https://hub.test", "http://10.0.0.7:8000", "https://mirror.test"
DEAD = Fault(dead=True)


class Bench:
    """A file at a Hub with four connections to each source, some of which have answered."""

    def __init__(self, folder: Path, *others: str) -> None:
        self.clock = FakeClock()
        self.history = SourceHistory()
        self.limits = SourceLimits(
            Settings(initial_connections=4), self.history, clock=lambda: self.clock.now
        )
        self.choice = SourceChoice(self.limits, self.history, clock=lambda: self.clock.now)
        source = FakeSource(bytes(100))
        wanted = request(MemoryDestination(folder, "a"), source)
        task = DownloadTask("org/m", "a", f"{HUB}/a", folder / "a", 100)
        made = [FileSource(each, lambda: source) for each in others]
        self.transfer = Transfer(task, wanted, source, DownloadMetrics(), others=made)
        self.origin = self.transfer.sources.origin
        self.origin.name = HUB
        self.others = made

    def knows(self, name: str, bps: int = 0) -> None:
        """Note that a source has answered, and how fast a connection to it is."""
        self.history.first_byte(name, 0.01)
        if bps:
            self.history.read(name, bps, 1.0)

    def take_all(self, name: str) -> None:
        self.limits.count(name, self.limits.free(name))

    def next(self) -> str | None:
        found = self.choice.next_for(self.transfer)
        return None if found is None else found.name

    def fail(self, source: FileSource, fault: Fault = Fault()) -> bool:  # noqa: B008  a frozen value
        self.clock.advance(0.1)
        return self.choice.note_failure(source, fault, self.clock.now)


def test_a_file_with_one_source_waits_for_a_connection_to_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.next() == HUB
    bench.take_all(HUB)
    assert bench.next() is None


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        pytest.param({HUB: 100, MIRROR: 10, LAB: 1}, LAB, id="the own network before all others"),
        pytest.param({HUB: 100, MIRROR: 10}, HUB, id="the faster of two far ones"),
        pytest.param({HUB: 10, MIRROR: 100}, MIRROR, id="the faster of two far ones, the other way round"),
        pytest.param({HUB: 100, MIRROR: 0}, MIRROR, id="one whose speed nobody knows is tried"),
    ],
)
def test_a_part_goes_to_the_nearest_and_then_to_the_fastest(
    tmp_path: Path, speeds: dict[str, int], expected: str
) -> None:
    bench = Bench(tmp_path, *(each for each in speeds if each != HUB))
    for name, bps in speeds.items():
        bench.knows(name, bps)
    assert bench.next() == expected


def test_where_one_source_may_have_no_more_connections_the_next_one_is_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB, MIRROR)
    for name, bps in ((LAB, 1), (MIRROR, 100), (HUB, 10)):
        bench.knows(name, bps)
    found = []
    while (name := bench.next()) is not None:
        bench.take_all(name)
        found.append(name)
    assert found == [LAB, MIRROR, HUB]


@pytest.mark.parametrize(
    ("near", "far", "uplink"),
    [
        pytest.param(100, 90, False, id="the own network brings more"),
        pytest.param(100, 110, True, id="the uplink brings more"),
        pytest.param(0, 90, True, id="nobody knows what the own network brings"),
        pytest.param(100, 0, True, id="nobody knows what the uplink brings: it is found out"),
    ],
)
def test_the_uplink_is_left_alone_while_the_own_network_brings_as_much(
    tmp_path: Path, near: int, far: int, uplink: bool
) -> None:
    other = "http://10.0.0.8:8000"
    bench = Bench(tmp_path, LAB, other)
    bench.knows(other)
    for name, bps in ((LAB, near), (HUB, far)):
        bench.knows(name, bps)
    part = Part(bench.transfer, ByteRange(0, 10), now=0.0, source=bench.others[0])
    for each in (LAB, other):
        bench.take_all(each)
    assert bench.next() == (HUB if uplink else None)
    assert bench.choice.next_beside(part) is (bench.origin if uplink else None)
    assert bench.choice.has_alternative(part), "who fails does not hold a file up"
    for each in bench.others:
        each.lost = True
    assert bench.next() == HUB


def test_two_in_the_own_network_count_together(tmp_path: Path) -> None:
    other = "http://10.0.0.8:8000"
    bench = Bench(tmp_path, LAB, other)
    for name, bps in ((LAB, 50), (other, 60), (HUB, 100)):
        bench.knows(name, bps)
    for each in (LAB, other):
        bench.take_all(each)
    assert bench.next() is None
    bench.others[1].lost = True
    bench.clock.advance(0.9)
    assert bench.next() is None, "speeds and connections that change do not belong together for a moment"
    bench.clock.advance(0.2)
    assert bench.next() == HUB


def test_the_uplink_does_not_wait_for_one_in_the_own_network_that_has_failed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    bench.knows(LAB, 100)
    bench.knows(HUB, 10)
    bench.fail(bench.others[0], DEAD)
    assert bench.next() == HUB
    bench.clock.advance(60.0)
    assert bench.next() == LAB
    bench.limits.count(LAB, 1)
    assert bench.next() == HUB, "it has to bring one part first"


def test_one_that_has_never_answered_gets_one_part_until_it_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    bench.knows(HUB)
    assert bench.next() == LAB
    bench.limits.count(LAB, 1)
    assert bench.next() == HUB
    bench.knows(LAB)
    assert bench.next() == LAB


def test_one_gets_one_part_of_a_file_until_it_has_brought_some_of_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    bench.knows(LAB)
    bench.transfer.pending = [ByteRange(0, 100)]
    part = bench.transfer.take(10, 0.0, bench.others[0])
    assert bench.next() == HUB
    part.received = 1
    assert bench.next() == LAB
    bench.transfer.remove(part)
    bench.choice.note_success(bench.others[0])
    bench.transfer.take(10, 0.0, bench.others[0])
    assert bench.next() == LAB


def test_one_that_does_not_answer_is_left_alone_for_longer_and_longer_and_then_gets_one_part(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, LAB)
    bench.knows(LAB)
    rests = []
    for _ in range(8):
        bench.others[0].lost = False  # another file
        assert bench.fail(bench.others[0], DEAD)
        began = bench.clock.now
        while bench.choice.is_resting(LAB):
            assert bench.next() == HUB
            bench.clock.advance(1.0)
        rests.append(round(bench.clock.now - began))
        bench.others[0].lost = False
        assert bench.next() == LAB
        bench.limits.count(LAB, 1)
        assert bench.next() == HUB, "it has to bring one part first"
        bench.limits.count(LAB, -1)
    assert rests == [15, 30, 60, 120, 240, 480, 900, 900]


def test_one_that_asks_for_a_wait_gets_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    assert bench.fail(bench.others[0], fault_of(ServerBusyError("429", retry_after=100.0), alive=False))
    bench.clock.advance(99.0)
    assert bench.choice.is_resting(LAB)
    bench.clock.advance(2.0)
    assert not bench.choice.is_resting(LAB)


def test_one_that_fails_for_a_file_twice_in_a_row_loses_the_file_and_not_its_others(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    bench.knows(LAB)
    (lab,) = bench.others
    bench.fail(lab)
    bench.choice.note_success(lab)
    bench.fail(lab)
    assert bench.next() == LAB
    assert not bench.fail(lab)
    assert bench.next() == HUB
    assert bench.choice.may_ask(LAB)


def test_parts_that_fail_together_count_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    bench.knows(LAB)
    began = bench.clock.now
    bench.clock.advance(1.0)
    assert not any(bench.choice.note_failure(bench.others[0], Fault(), began) for _ in range(20))
    assert bench.next() == LAB


def test_one_that_fails_for_several_files_in_a_row_is_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    rests = [bench.fail(FileSource(LAB, lambda: FakeSource(b""))) for _ in range(4)]
    assert rests == [False, False, False, True]


def test_one_that_lacks_a_file_is_asked_for_others_until_it_lacks_many(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    bench.knows(LAB)
    lacks = fault_of(HttpStatusError("404", status=404), alive=False)
    rests = [bench.fail(FileSource(LAB, lambda: FakeSource(b"")), lacks) for _ in range(32)]
    assert rests == [False] * 31 + [True]
    bench.fail(bench.others[0], lacks)
    assert bench.others[0].lost


def test_the_origin_is_asked_for_what_nobody_else_brings_even_while_it_is_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    bench.knows(LAB)
    bench.fail(bench.origin, DEAD)
    assert bench.next() == LAB
    part = Part(bench.transfer, ByteRange(0, 10), now=0.0)
    assert bench.choice.has_alternative(part)
    bench.fail(bench.others[0], DEAD)
    assert bench.next() == HUB
    assert not bench.choice.has_alternative(part)


def test_the_origin_that_does_not_give_a_file_is_asked_only_when_nobody_else_is_left(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    bench.knows(LAB)
    bench.fail(bench.origin, fault_of(HttpStatusError("403", status=403), alive=False))
    bench.take_all(LAB)
    assert bench.next() is None
    bench.others[0].lost = True
    assert bench.next() == HUB


def test_a_second_request_goes_to_another_source_if_one_has_a_connection_free(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    bench.knows(LAB)
    part = Part(bench.transfer, ByteRange(0, 10), now=0.0, source=bench.others[0])
    assert bench.choice.next_beside(part) is bench.origin
    bench.take_all(HUB)
    assert bench.choice.next_beside(part) is bench.others[0]


@pytest.mark.parametrize(
    ("bps", "active", "brings"),
    [
        pytest.param(250, 0, 250, id="idle"),
        pytest.param(250, 4, 200, id="busy: a new one takes its share from the others"),
    ],
)
def test_what_another_source_would_gain_is_what_a_new_connection_to_it_brings(
    tmp_path: Path, bps: int, active: int, brings: int
) -> None:
    bench = Bench(tmp_path, LAB)
    part = Part(bench.transfer, ByteRange(0, 10), now=0.0)
    part.meter = SpeedMeter(clock=bench.clock)
    assert bench.choice.gain(bench.others[0], part) == 1.0, "nothing is known"
    bench.limits.count(LAB, active)
    bench.knows(LAB, bps)
    assert math.isinf(bench.choice.gain(bench.others[0], part)), "nothing comes"
    bench.clock.advance(1.0)
    part.meter.add(100)
    assert bench.choice.gain(bench.others[0], part) == pytest.approx(brings / part.meter.speed())


@pytest.mark.parametrize(
    ("left", "hub", "lab"),
    [
        pytest.param(1000 * MiB, 4_000_000, 2_000_000, id="much: what comes in the time that a part takes"),
        pytest.param(24 * MiB, 2 * MiB, MiB, id="little: each gets its share of half of it"),
        pytest.param(2 * MiB, 256 * KiB, 256 * KiB, id="next to nothing"),
    ],
)
def test_parts_become_shorter_toward_the_end_and_the_shorter_the_slower_their_source(
    tmp_path: Path, left: int, hub: int, lab: int
) -> None:
    bench = Bench(tmp_path, LAB)
    assert bench.choice.longest_part(bench.transfer, bench.others[0]) == MiB, "of unknown speed"
    bench.knows(HUB, 20_000_000)
    bench.knows(LAB, 10_000_000)
    bench.limits.count(HUB, 4)
    bench.limits.count(LAB, 4)
    bench.transfer.pending = [ByteRange(0, left)]
    found = [bench.choice.longest_part(bench.transfer, each) for each in (bench.origin, bench.others[0])]
    assert found == [hub, lab]


def test_suspects_are_left_alone_until_it_is_known_and_the_liar_for_long(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB, MIRROR)
    bench.knows(LAB)
    bench.knows(MIRROR)
    span = ByteRange(0, 10)
    bench.transfer.sources.suspicions = tuple(Suspicion(each, span, b"") for each in bench.others)
    bench.choice.suspect(bench.transfer)
    assert bench.choice.is_resting(LAB)
    assert bench.choice.is_resting(MIRROR)
    bench.choice.judge(bench.transfer, {MIRROR})
    assert not bench.choice.is_resting(LAB)
    bench.clock.advance(3599.0)
    assert bench.choice.is_resting(MIRROR)


@pytest.mark.parametrize(
    ("error", "alive", "expected"),
    [
        (HttpStatusError("404", status=404), False, Fault(lacks=True, useless=True)),
        (HttpStatusError("501", status=501), False, Fault(useless=True)),
        (ServerBusyError("503"), False, DEAD),
        (ServerBusyError("503"), True, Fault()),
        (ServerBusyError("429", retry_after=7.0), True, Fault(rest=7.0)),
        (SourceChangedError("another size"), False, Fault(useless=True)),
        (RangeRefusedError("all of it"), False, Fault(useless=True)),
        (CertificateError("not trusted"), False, DEAD),
        (ConnectionFailedError("refused"), False, DEAD),
        (StalledError("no byte for 5 s"), False, DEAD),
        (ConnectionFailedError("reset"), True, Fault()),
        (LinkExpiredError("403"), False, Fault()),
        (TransferError("no usable address"), False, Fault()),
    ],
    ids=lambda value: str(value),
)
def test_an_error_says_whether_the_file_the_source_or_a_moment_is_at_fault(
    error: Exception, alive: bool, expected: Fault
) -> None:
    assert fault_of(error, alive=alive) == expected


def test_of_very_many_sources_those_are_remembered_that_are_left_alone_for_longest(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB)
    dead = FileSource("http://10.0.0.8", lambda: FakeSource(b""))
    bench.fail(dead, DEAD)
    for number in range(3 * MAX_SOURCES):
        bench.choice.note_failure(FileSource(f"http://m{number}", lambda: FakeSource(b"")), Fault(), 1.0)
    assert bench.choice.is_resting(dead.name)
    assert len(bench.choice._standings) <= MAX_SOURCES


@pytest.mark.parametrize(
    ("source", "near"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://[::1]:8000", True),
        ("http://10.1.2.3", True),
        ("http://192.168.0.9:8000", True),
        ("http://[fd00::1]", True),
        ("http://node7:8000", True),
        ("http://lab.local", True),
        ("https://huggingface.co", False),
        ("https://8.8.8.8", False),
        ("https://[2606:4700::1111]:8443", False),
        ("nonsense", False),
    ],
)
def test_a_name_tells_whether_a_source_is_in_the_own_network(source: str, near: bool) -> None:
    assert is_near(source) is near


def test_where_one_is_asked_at_a_time_that_is_the_origin_unless_it_cannot_be_had(tmp_path: Path) -> None:
    bench = Bench(tmp_path, LAB, MIRROR)
    for name in (HUB, LAB, MIRROR):
        bench.knows(name, 10)
    sources = bench.transfer.sources
    sources.one_by_one = True
    sources.suspicions = tuple(Suspicion(each, ByteRange(0, 10), b"") for each in bench.others)
    bench.choice.suspect(bench.transfer)
    part = Part(bench.transfer, ByteRange(0, 10), now=0.0)
    assert bench.next() == HUB
    assert bench.choice.has_alternative(part), "so it is not waited for with all patience"
    bench.take_all(HUB)
    assert bench.next() is None
    assert bench.choice.next_beside(part) is None
    bench.fail(bench.origin, DEAD)
    assert bench.next() == LAB, "though it is suspected"
    bench.fail(bench.others[0], DEAD)
    assert bench.next() == MIRROR
    bench.others[1].lost = True
    bench.limits.count(HUB, -1)
    assert bench.next() == HUB, "with all patience, as there is nobody else"
    assert not bench.choice.has_alternative(part)
