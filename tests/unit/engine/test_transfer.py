"""A file on its way: parts that are shared while their workers go on."""

from __future__ import annotations

import ast
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.support.fetchers import quiet_fetcher
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul import engine
from hf_haul.config import KiB, Settings
from hf_haul.engine.part_progress import PartProgress
from hf_haul.engine.transfer import PHASE_MOVES, Part, Phase, Transfer
from hf_haul.errors import ConnectionFailedError
from hf_haul.metrics import DownloadMetrics
from hf_haul.ranges import ByteRange
from hf_haul.storage.claiming import claim
from hf_haul.task import DownloadTask

BOUND = 10.0
READ = 16 * KiB
DATA = random.Random(5).randbytes(16 * READ)


class Bench:
    """A file, and a worker's fetcher that tells of each read before it knows how much to read."""

    def __init__(self, folder: Path) -> None:
        self.source = FakeSource(DATA)
        destination = MemoryDestination(folder, "a.bin")
        wanted = request(destination, self.source)
        task = DownloadTask("org/m", "a.bin", wanted.remote.url, destination.path, size=len(DATA))
        self.transfer = Transfer(task, wanted, self.source, DownloadMetrics())
        self.staged = self.transfer.staged = claim(folder, "a.bin", len(DATA))
        self.transfer.pending = [ByteRange(READ, len(DATA))]
        self.part = self.transfer.take(len(DATA), 0.0)
        self.fetcher = quiet_fetcher(Settings(chunk_size=READ, min_chunk_size=READ, first_retry_wait=0.0))

    def written(self, span: ByteRange) -> bool:
        buffer = bytearray(len(span))
        self.staged.read_into(span.start, memoryview(buffer))
        return bytes(buffer) == DATA[span.start : span.stop]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_part_that_is_split_while_its_worker_passes_the_middle_ends_where_the_other_begins(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker goes on while the scheduler is between its look at the part and the end of the split."""
    part = bench.part
    asked, go_on, passed, split_done = (threading.Event() for _ in range(4))
    read_size = bench.fetcher._read_size

    def slow_read_size(each: Part) -> int:
        if each.position == 4 * READ:  # the scheduler looks at it here
            asked.set()
            assert go_on.wait(BOUND)
        elif each.position >= 11 * READ and each.stop > 11 * READ:  # past the middle of 4 to 16
            passed.set()
            assert split_done.wait(BOUND)
        return read_size(each)

    monkeypatch.setattr(bench.fetcher, "_read_size", slow_read_size)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            bench.fetcher.fetch(part)
        except BaseException as error:
            errors.append(error)
        passed.set()

    worker = threading.Thread(target=work)
    make = Part.__init__

    def slow_make(self: Part, transfer: Transfer, span: ByteRange, **how: Any) -> None:
        go_on.set()
        assert passed.wait(BOUND)
        make(self, transfer, span, **how)

    monkeypatch.setattr(Part, "__init__", slow_make)
    worker.start()
    assert asked.wait(BOUND)
    upper = bench.transfer.split(part, 0.0)
    split_done.set()
    worker.join(BOUND)
    assert not worker.is_alive()
    assert errors == []
    assert upper is not None
    assert part.position == part.stop == upper.start
    assert upper.stop == len(DATA)
    assert bench.source.log == [ByteRange(READ, len(DATA))]
    assert bench.written(ByteRange(READ, part.stop))


def test_what_a_read_under_way_will_bring_is_not_given_away(bench: Bench) -> None:
    part = bench.part
    part.position = 10 * READ
    assert part.next_read(5 * READ) == 5 * READ
    upper = bench.transfer.split(part, 0.0)
    assert upper is not None
    assert (part.stop, upper.start, upper.stop) == (15 * READ + READ // 2, 15 * READ + READ // 2, 16 * READ)
    part.position = 15 * READ
    assert part.next_read(5 * READ) == READ // 2
    assert bench.transfer.split(part, 0.0) is None
    assert bench.transfer.parts == [part, upper]


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_a_rest_can_be_split_to_the_last_byte(bench: Bench, left: int) -> None:
    part = bench.part
    part.position = part.stop - left
    part.next_read(0)
    upper = bench.transfer.split(part, 0.0)
    if left < 2:
        assert upper is None
        assert part.remaining == left
    else:
        assert upper is not None
        assert (part.remaining, upper.remaining) == ((left + 1) // 2, left // 2)


def test_whoever_is_faster_gets_more_of_a_part_that_is_split(bench: Bench) -> None:
    part = bench.part
    part.next_read(0)
    left = part.remaining
    upper = bench.transfer.split(part, 0.0, share=0.75)
    assert upper is not None
    assert upper.remaining == 3 * left // 4
    assert part.remaining + upper.remaining == left


def test_a_part_whose_rest_was_given_away_before_it_is_tried_again_is_done(bench: Bench) -> None:
    part = bench.part
    bench.source.faults = [ConnectionFailedError("reset by peer")]
    bench.source.on_open = lambda _want: part.extend_to(part.position)
    bench.fetcher.fetch(part)
    assert len(bench.source.log) == 1


# ---- phases


def moved_to(bench: Bench, phase: Phase) -> Transfer:
    """The file, brought to a phase by legal moves."""
    way = {Phase.OPENING: [], Phase.FETCHING: [Phase.FETCHING], Phase.ENDED: [Phase.ENDED]}
    for each in way.get(phase, [Phase.FETCHING, phase]):
        bench.transfer.move_to(each)
    assert bench.transfer.phase is phase
    return bench.transfer


@pytest.mark.parametrize("after", Phase, ids=lambda phase: phase.name)
@pytest.mark.parametrize("before", Phase, ids=lambda phase: phase.name)
def test_a_file_makes_the_moves_of_the_table_and_no_others(bench: Bench, before: Phase, after: Phase) -> None:
    transfer = moved_to(bench, before)
    if after in PHASE_MOVES[before]:
        transfer.move_to(after)
        assert transfer.phase is after
    else:
        with pytest.raises(ValueError, match=f"a.bin: cannot move from {before.name} to {after.name}"):
            transfer.move_to(after)
        assert transfer.phase is before


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.name)
def test_a_file_gives_work_only_while_it_is_fetched(bench: Bench, phase: Phase) -> None:
    transfer = moved_to(bench, phase)
    transfer.pending = [ByteRange(0, READ)]
    assert transfer.has_work == (phase is Phase.FETCHING)
    assert transfer.ending == (phase in {Phase.RESTARTING, Phase.ENDED})
    assert transfer.has_single_worker == (phase in {Phase.OPENING, Phase.FINISHING})


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.name)
def test_a_file_can_fail_in_any_phase_and_keeps_its_first_reason(bench: Bench, phase: Phase) -> None:
    transfer = moved_to(bench, phase)
    first = ConnectionFailedError("reset by peer")
    transfer.fail(first)
    transfer.fail(OSError("disk full"))
    transfer.end()
    assert transfer.phase is Phase.ENDED
    assert transfer.failure is first


def test_parts_of_a_source_without_ranges_do_not_go_out_beside_each_other(bench: Bench) -> None:
    transfer = moved_to(bench, Phase.FETCHING)
    transfer.pending = [ByteRange(0, READ)]
    assert transfer.has_work
    transfer.mode = "ordered"
    assert not transfer.has_work  # as there is a part in flight
    transfer.release(bench.part)
    assert transfer.has_work


def test_what_a_part_has_not_fetched_goes_back_in_order(bench: Bench) -> None:
    transfer = bench.transfer
    transfer.pending = [ByteRange(12 * READ, len(DATA))]
    bench.part.extend_to(8 * READ)
    bench.part.position = 3 * READ
    bench.staged.write(5 * READ, memoryview(DATA)[5 * READ : 6 * READ])  # which another part has brought
    bench.staged.record(5 * READ, 6 * READ)
    transfer.release(bench.part)
    assert transfer.parts == []
    assert transfer.pending == [
        ByteRange(3 * READ, 5 * READ), ByteRange(6 * READ, 8 * READ), ByteRange(12 * READ, len(DATA)),
    ]  # fmt: skip


def test_what_a_rival_still_fetches_does_not_go_back(bench: Bench) -> None:
    hedge = bench.transfer.hedge(bench.part, 0.0)
    assert (hedge.start, hedge.stop, hedge.hedge, bench.part.hedge) == (
        bench.part.position, bench.part.stop, bench.part, hedge,
    )  # fmt: skip
    bench.transfer.release(bench.part)
    assert bench.transfer.pending == []
    assert hedge.hedge is None
    bench.transfer.release(hedge)
    assert bench.transfer.pending == [ByteRange(READ, len(DATA))]


def test_a_source_that_refuses_ranges_is_taken_to_serve_whole_files_and_at_last_is_given_up(
    bench: Bench,
) -> None:
    transfer = bench.transfer
    became_whole = [transfer.note_refused_range() for _ in range(5)]
    assert not transfer.refuses_for_good
    became_whole.append(transfer.note_refused_range())
    assert became_whole == [False, True, False, False, False, False]
    assert transfer.mode == "whole"
    assert transfer.refuses_for_good  # once more
    transfer.release(bench.part)
    transfer.refill()
    assert transfer.pending == [ByteRange(0, len(DATA))]


# ---- who writes what of a part

OF_THE_WORKER = set(PartProgress.__slots__)
OF_THE_SCHEDULER = set(Part.__slots__)


def written(tree: ast.AST) -> list[tuple[str, int]]:
    """Attributes that are assigned to, and where."""
    return [
        (node.attr, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
    ]


def classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("path", sorted(Path(engine.__path__[0]).glob("*.py")), ids=lambda path: path.stem)
def test_each_attribute_of_a_part_is_written_by_one_owner(path: Path) -> None:
    """What two threads write without a common lock is wrong sooner or later, and nobody sees it in a test."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.stem == "part_progress":
        wrong = [each for each in written(tree) if each[0] not in OF_THE_WORKER]
    elif path.stem == "transfer":
        halves = classes(tree)
        wrong = [each for each in written(halves["Part"]) if each[0] not in OF_THE_SCHEDULER]
        own = {name for name, _ in written(halves["Transfer"].body[1])}  # as the meter of the whole file
        wrong += [each for each in written(halves["Transfer"]) if each[0] in OF_THE_WORKER - own]
    elif path.stem == "part_fetcher":
        wrong = [each for each in written(tree) if each[0] in OF_THE_SCHEDULER]
    else:
        own = {name for node in classes(tree).values() for name, _ in written(node)} & {"_lock"}
        wrong = [each for each in written(tree) if each[0] in OF_THE_WORKER - own]
    assert wrong == []


def test_a_call_that_was_given_up_says_nothing_of_the_next(bench: Bench) -> None:
    part = bench.part
    part.begin_call(0.0)
    part.abandon("no byte for 30 s")
    part.abandon("no byte for 30 s")
    assert (part.abandoned, part.abandonments, part.unanswered) == ("no byte for 30 s", 1, 1)
    part.begin_call(1.0)
    assert part.abandoned is None
    part.note_answer()
    part.reading_since = 1.0
    part.abandon("too slow")
    assert (part.abandoned, part.abandonments, part.unanswered) == ("too slow", 2, 0)


def test_a_body_that_was_given_up_stays_so_in_the_calls_that_follow_and_its_successor_does_not(
    bench: Bench,
) -> None:
    part = bench.part
    part.begin_call(0.0)
    part.reading_since = 0.0
    part.begin_call(1.0)
    part.abandon("no byte for 30 s")
    part.begin_call(2.0)  # the call that was woken returned what had come
    assert (part.abandoned, part.abandoned_body) == (None, "no byte for 30 s")
    part.reading_since = None
    part.begin_call(3.0)
    assert part.abandoned_body is None
