"""Does what ``outcome`` decides, and repairs what an unexpected error left half done.

What each thread is at is noted, and everything else about running files follows from that: their parts, their
phases, the counts of connections.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from typing import Final

from hf_haul.engine.assignment import Assignment, AssignmentEnd
from hf_haul.engine.job_choice import Chooser
from hf_haul.engine.jobs import FollowUp, Job, JobKind
from hf_haul.engine.outcome import (
    Outcome,
    Verdict,
    after_finish,
    after_last_part,
    after_opening,
    after_part,
)
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.queues import Queues
from hf_haul.engine.resilience import insist
from hf_haul.engine.source_choice import Fault, SourceChoice, fault_of
from hf_haul.engine.transfer import Part, Phase, Transfer
from hf_haul.errors import HaulError, StalledError, TransferError
from hf_haul.metrics import SMALL_FILE
from hf_haul.ranges import ByteRange
from hf_haul.task import DownloadState
from hf_haul.transports.source_limits import SourceLimits

__all__ = ["Settlement"]

logger = logging.getLogger(__name__)

#: Seconds between two looks at a file that another process fetches.
_ELSEWHERE_INTERVAL: Final = 0.25
#: Seconds without a byte after which others may be asked at once what a source is sending.
_SILENT: Final = 1.0


class Settlement:
    """Moves files from one job to the next, and to their end.

    Locking: the scheduler's lock guards the attributes, and is held by whoever calls a method. No method
    waits for anything: what has to, goes into a :class:`FollowUp`.

    Args:
        queues: The running queues.
        sources: What each source gets.
        chooser: Gives the first part of a file that was opened.
        choice: Told what became of each source's parts.
        held: What each thread is at.
        wake: Wakes a worker.
        hash_soon: Has what is on disk of a file hashed.
        clock: Seconds, monotonic.

    Attributes:
        left: What was decided on, for whichever thread comes next.
    """

    def __init__(
        self,
        queues: Queues,
        sources: SourceLimits,
        chooser: Chooser,
        choice: SourceChoice,
        held: MutableMapping[threading.Thread, Job],
        *,
        wake: Callable[[], None],
        hash_soon: Callable[[Transfer], None],
        clock: Callable[[], float],
    ) -> None:
        self._queues = queues
        self._sources = sources
        self._chooser = chooser
        self._choice = choice
        self._held = held
        self._wake = wake
        self._hash_soon = hash_soon
        self._clock = clock
        self.left: deque[Job] = deque()
        self._backing_off: set[Part] = set()  # parts that wait for their next attempt, as counted

    # ---- what threads are at

    def next_job(self) -> Job | None:
        """Give the calling thread something to do; ``None`` if there is nothing now."""
        job = self.left.popleft() if self.left else self._choose()
        if job is not None:
            self._hold(job)
            if self._chooser.has_free(self._queues.running):
                self._wake()  # there may be more where this came from
        return job

    def _choose(self) -> Job | None:
        chosen = None if self._queues.paused else self._chooser.next_job(self._queues.running)
        if chosen is None:
            return None
        part = chosen if isinstance(chosen, Part) else None
        transfer = chosen.transfer if isinstance(chosen, Part) else chosen
        task_id = transfer.task.task_id
        run = next(each for each in self._queues.running if task_id in each.transfers)
        return Job(JobKind.OPEN if part is None else JobKind.FETCH, run, transfer, part)

    def _hold(self, job: Job) -> None:
        self._held[threading.current_thread()] = job
        self._count(job, 1)

    def _count(self, job: Job, by: int) -> None:
        if job.counts:
            self._sources.count(job.source, by)
        if job.asks:
            job.transfer.metrics.add_connections(by)

    def put_down(self) -> None:
        """Release the calling thread's job to other threads."""
        job = self._held.pop(threading.current_thread())
        self._count(job, -1)
        self.left.append(job)
        self._wake()

    def note_backing_off(self, part: Part) -> None:
        """Count a part that begins or ends a wait for its next attempt.

        Meanwhile others use its connection.
        """
        if part.backing_off == (part in self._backing_off):
            return
        if part.backing_off:
            self._backing_off.add(part)
            self._wake()
        else:
            self._backing_off.discard(part)
        by = 1 if part.backing_off else -1
        self._sources.note_backing_off(part.source.name, by)
        part.transfer.metrics.add_connections(-by)

    # ---- what follows

    def settle(self, job: Job, error: BaseException | None, then: FollowUp) -> Job | None:
        """Decide what follows a job; return what the thread does next."""
        self._held.pop(threading.current_thread(), None)
        self._count(job, -1)
        following = self._follow(job.run, job.transfer, self._outcome_of(job, error, then), then)
        if job.kind is JobKind.RENEW:
            self._wake()
        if following is not None:
            self._hold(following)
        return following

    def _outcome_of(self, job: Job, error: BaseException | None, then: FollowUp) -> Outcome | None:
        """Return what becomes of a job's file; ``None`` if others are still at it."""
        run, transfer, cancelled = job.run, job.transfer, job.run.queue.cancelled
        if job.kind is JobKind.OPEN:
            return after_opening(transfer, error, cancelled=cancelled)
        if job.kind is JobKind.FINISH:
            return after_finish(
                transfer,
                error,
                published=job.published,
                cancelled=cancelled,
                losses=run.losses.get(transfer.task.task_id, 0),
            )
        if job.kind is JobKind.FETCH:
            self._settle_part(job, error, then)
        elif error is not None:
            transfer.fail(error)
        elif transfer.phase is Phase.RESTARTING:
            transfer.move_to(Phase.FETCHING)
        return None if transfer.parts else self._outcome_at_rest(run, transfer)

    @staticmethod
    def _outcome_at_rest(run: QueueRun, transfer: Transfer) -> Outcome:
        losses = run.losses.get(transfer.task.task_id, 0)
        return after_last_part(transfer, cancelled=run.queue.cancelled, losses=losses)

    def _settle_part(self, job: Job, error: BaseException | None, then: FollowUp) -> None:
        transfer, part = job.transfer, job.part
        assert part is not None
        outcome = after_part(transfer, part.hedge, error, elsewhere=self._may_come_elsewhere(part, error))
        left = transfer.release(part)
        self._sources.count_request(part.source.name)
        if outcome.slow_down and error is not None:
            self._sources.backoff(part.source.name, error)
        stop: list[Part] = []
        if error is None and part.received:
            transfer.range_refusals = 0
        if outcome.refused and transfer.note_refused_range():
            stop += transfer.parts
        if outcome.restart:
            transfer.restart()
            stop += transfer.parts
        # The slower hedge ends under the same lock: hedged in its turn, it would never end.
        late = transfer.superseded()
        stop += late
        if part.assignment is not None:
            self._end_assignment(part, part.assignment, left, error)
        elif transfer.sources.has_others:
            stop += self._note_sources(part, error, late)
        if outcome.failure is not None:
            transfer.fail(outcome.failure)
            stop += transfer.parts
        for each in stop:
            each.preempt(self._clock())
        then.stop += stop
        if transfer.verifier is not None and transfer.parts:
            self._hash_soon(transfer)

    def _may_come_elsewhere(self, part: Part, error: BaseException | None) -> bool:
        """Return whether another source can be asked for what a part did not bring."""
        assigner = part.transfer.assigner
        if part.assignment is not None and assigner is not None:
            return error is not None and assigner.can_spare(part.assignment, error)
        # The origin is there for what any other source did not bring; it was asked once, where there was one.
        return not part.source.is_origin or part.gave_way or self._choice.has_alternative(part)

    def _end_assignment(
        self,
        part: Part,
        assignment: Assignment,
        left: Sequence[ByteRange],
        error: BaseException | None,
    ) -> None:
        assert part.transfer.assigner is not None
        how = AssignmentEnd(
            left,
            brought=part.position >= part.stop,
            error=None if part.preempted else error,
            seconds=self._clock() - part.started_at,
        )
        part.transfer.assigner.end(assignment, how)

    def _note_sources(self, part: Part, error: BaseException | None, late: Sequence[Part]) -> list[Part]:
        """Note which source brought its part and which did not; return parts that need not be waited for.

        Args:
            part: What ended.
            error: What was raised.
            late: Parts whose bytes it, or another one, has brought instead.
        """
        failed = [
            (each, Fault(dead=not self._is_sending(each)))
            for each in late
            if each.source is not part.source and each.started_at < part.started_at
        ]
        if isinstance(error, TransferError):
            # What stops to send may do so each time, and each time costs as many seconds.
            began = part.received > 0 and not isinstance(error, StalledError)
            failed.append((part, fault_of(error, alive=began or self._is_sending(part))))
        elif error is None and part.received and not part.preempted:
            self._choice.note_success(part.source)
        given_up: list[Part] = []
        for each, fault in failed:
            name = each.source.name
            if self._choice.note_failure(each.source, fault, each.started_at):
                logger.info("%s is left alone for a while: %s", name, error or "others were faster by far")
                given_up += [
                    other
                    for other in self._parts_from(name)
                    if other.reading_since is None and self._choice.has_alternative(other)
                ]
        return given_up

    def _is_sending(self, part: Part) -> bool:
        """Return whether the source of a part is sending any: what has stopped to come is not being sent."""
        now = self._clock()
        return any(
            each.reading_since is not None and (each.seconds_in_call(now) or 0.0) < _SILENT
            for each in (part, *self._parts_from(part.source.name))
        )

    def _parts_from(self, source: str) -> list[Part]:
        return [
            part
            for run in self._queues.running
            for transfer in run.transfers.values()
            for part in transfer.parts
            if part.source.name == source
        ]

    def _follow(
        self, run: QueueRun, transfer: Transfer, outcome: Outcome | None, then: FollowUp
    ) -> Job | None:
        """Do what was decided about a file; return the job that it leads to."""
        if outcome is None:
            return None
        verdict = outcome.verdict
        if verdict is Verdict.OPENED:
            return self._start_fetching(run, transfer)
        if verdict is Verdict.GO_ON:
            transfer.refill()
            return None if transfer.pending else self._start_finishing(run, transfer)
        if verdict is Verdict.RENEW:
            return Job(JobKind.RENEW, run, transfer)
        if verdict is Verdict.FETCH_AGAIN:
            self._fetch_again(run, transfer, then)
        else:
            self._let_go(run, transfer, outcome, then)
        return None

    def _let_go(self, run: QueueRun, transfer: Transfer, outcome: Outcome, then: FollowUp) -> None:
        """End a file, or set it aside."""
        verdict, task_id = outcome.verdict, transfer.task.task_id
        if verdict not in {Verdict.PUT_BACK, Verdict.LOOK_LATER}:
            run.waits.end(task_id)
        if transfer.sources.suspicions and verdict is not Verdict.LOOK_LATER:
            self._judge(transfer)
        if transfer.assigner is not None and verdict in {
            Verdict.PRESENT,
            Verdict.PUBLISHED,
            Verdict.GIVE_UP,
        }:
            transfer.assigner.settle(ok=verdict is not Verdict.GIVE_UP)
        if verdict is Verdict.PUT_BACK:
            self._put_back(run, transfer)
        elif verdict is Verdict.LOOK_LATER:
            self._defer(run, transfer, _ELSEWHERE_INTERVAL)
        elif verdict is Verdict.LOOK_ELSEWHERE:
            self._look_elsewhere(run, transfer, then)
        elif verdict is Verdict.GIVE_UP:
            self._queues.give_up(run, transfer, outcome.error, then)
        else:
            self._queues.succeed(run, transfer, then, transferred=verdict is Verdict.PUBLISHED)

    def _judge(self, transfer: Transfer) -> None:
        """Leave alone who sent wrong bytes of a file, and nobody else."""
        liars = {each.name for each in transfer.sources.liars}
        if transfer.assigner is not None and liars:
            wrong = [(each.span, each.source.name) for each in transfer.sources.wrong]
            liars = transfer.assigner.blame(wrong)
        for each in liars:
            logger.warning(
                "%s sent wrong bytes of %s, which came from elsewhere instead; it is left alone for an hour",
                each, transfer.task.file_path,
            )  # fmt: skip
        self._choice.judge(transfer, liars)
        for other in (t for run in self._queues.running for t in run.transfers.values()):
            for source in other.sources.others:
                if source.name in liars:
                    source.lies = source.lost = True

    def _start_fetching(self, run: QueueRun, transfer: Transfer) -> Job | None:
        staged = transfer.staged
        assert staged is not None
        run.waits.end(transfer.task.task_id)
        transfer.move_to(Phase.FETCHING)
        transfer.refill()
        if staged.sequential or transfer.mismatches > 0:
            transfer.mode = "ordered"
        run.resumed_bytes += staged.resumed
        if not transfer.pending:
            return self._start_finishing(run, transfer)
        if staged.resumed and transfer.verifier is not None:
            self._hash_soon(transfer)
        may_ask = not transfer.sources.has_others or self._chooser.may_take(transfer)
        if transfer.has_work and may_ask and not self._queues.is_paused(run):
            # The worker that opened the file fetches its first part: no need to look around again.
            part = self._chooser.take(transfer)
            if transfer.pending:
                self._wake()
            return Job(JobKind.FETCH, run, transfer, part)
        self._wake()
        return None

    def _start_finishing(self, run: QueueRun, transfer: Transfer) -> Job:
        transfer.move_to(Phase.FINISHING)
        if transfer.task.state is not DownloadState.VERIFYING:
            transfer.task.move_to(DownloadState.VERIFYING)
        if transfer.size > SMALL_FILE:
            self._wake()  # for the connection that is free while this worker hashes
        return Job(JobKind.FINISH, run, transfer)

    def _fetch_again(self, run: QueueRun, transfer: Transfer, then: FollowUp) -> None:
        transfer.task.move_to(DownloadState.QUEUED)
        transfer.task.move_to(DownloadState.RUNNING)
        transfer.move_to(Phase.FETCHING)
        if transfer.mismatches and transfer.mode != "whole":
            transfer.mode = "ordered"
        if transfer.sources.suspicions:
            self._choice.suspect(transfer)
        transfer.refill()
        if run.queue.cancelled:
            self._queues.give_up(run, transfer, None, then)
        else:
            self._wake()

    def _defer(self, run: QueueRun, transfer: Transfer, seconds: float) -> None:
        """Set a file aside, and look at it again later, from the beginning."""
        task = transfer.task
        task.move_to(DownloadState.QUEUED)
        del run.transfers[task.task_id]
        transfer.end()
        run.queue.defer(task)
        run.deferred[task.task_id] = self._clock() + seconds

    def _put_back(self, run: QueueRun, transfer: Transfer) -> None:
        """Return a file that was stopped before it was opened to its place in the queue."""
        self._defer(run, transfer, 0.0)
        task_id = transfer.task.task_id
        del run.deferred[task_id]
        run.queue.put_back(task_id)
        self._wake()

    def _look_elsewhere(self, run: QueueRun, transfer: Transfer, then: FollowUp) -> None:
        """Set a file aside whose staged file another process took; look for it there, or start over."""
        task_id = transfer.task.task_id
        run.losses[task_id] = run.losses.get(task_id, 0) + 1
        lost, transfer.staged = transfer.staged, None
        if lost is not None:
            then.tell(run, partial(insist, lost.close))
        self._defer(run, transfer, 0.0)

    def stop_run(self, run: QueueRun, error: BaseException | None, then: FollowUp) -> None:
        """End a queue; ``error`` is why, ``None`` for a cancel."""
        run.deferred.clear()
        run.waits.clear()
        self.left = deque(job for job in self.left if job.run is not run)
        self._queues.drop_waiting(run, error, then)
        for transfer in run.transfers.values():
            if error is not None:
                transfer.fail(error)
            if transfer.verifier is not None:
                transfer.verifier.stop()
            then.stop += transfer.parts
        self._mend_run(run, then)

    # ---- what is left half-made

    def mend(self, then: FollowUp, owed: MutableMapping[threading.Thread, FollowUp]) -> None:
        """Repair the state of every file, by what the threads are really doing.

        Args:
            then: Takes what is to be done without the lock.
            owed: What each thread has to carry out; that of dead ones is taken over.
        """
        for thread in [each for each in self._held if not each.is_alive()]:
            job = self._held.pop(thread)
            job.transfer.fail(HaulError("the thread that worked on it ended"))
        for run in list(self._queues.running):
            self._mend_run(run, then)
        for thread in [each for each in list(owed) if not each.is_alive()]:
            then.do.append(partial(insist, partial(self._queues.carry_out, owed.pop(thread))))
        self._backing_off &= {job.part for job in self._held.values() if job.part is not None}
        working = [job for job in self._held.values() if job.part not in self._backing_off]
        self._sources.recount(
            active=Counter(job.source for job in working if job.counts),
            backing_off=Counter(part.source.name for part in self._backing_off),
            wanted=[source for run in self._queues.running for source in run.sources],
        )
        for run in self._queues.running:
            run.metrics.set_connections(sum(job.asks for job in working if job.run is run))
        self._wake()

    def _mend_run(self, run: QueueRun, then: FollowUp) -> None:
        for transfer in list(run.transfers.values()):
            self._mend_file(run, transfer, then)
        queue = run.queue
        for task in [each for each in queue.active.values() if each.task_id not in run.transfers]:
            queue.active.pop(task.task_id)
        for task in queue.lost():
            if task.state.final:
                queue.settle(task, ok=task.state is DownloadState.DONE)
            else:
                if task.state is not DownloadState.QUEUED:
                    task.move_to(DownloadState.QUEUED)
                queue.put_back_lost(task)
        if queue.cancelled:
            self._queues.drop_waiting(run, None, then)
        self._queues.end_if_over(run, then)

    def _mend_file(self, run: QueueRun, transfer: Transfer, then: FollowUp) -> None:
        jobs = [job for job in (*self._held.values(), *self.left) if job.transfer is transfer]
        if transfer.failure is not None:
            transfer.fail(transfer.failure)
        elif not jobs and transfer.staged is not None and transfer.phase in {Phase.OPENING, Phase.FINISHING}:
            transfer.move_to(Phase.FETCHING)  # nobody is at it
        if all(job.kind is not JobKind.OPEN for job in jobs):  # whoever opens has a part of its own
            for part in [each for each in transfer.parts if all(job.part is not each for job in jobs)]:
                transfer.release(part)
        if transfer.failure is not None:
            then.stop += transfer.parts
        if not jobs and (not transfer.has_work or run.queue.cancelled or transfer.task.state.final):
            job = self._follow(run, transfer, self._outcome_at_rest(run, transfer), then)
            if job is not None:
                self.left.append(job)
