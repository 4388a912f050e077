"""How many connections to one source: grow while it pays, hold, probe, back off.

The problem: too few connections leave a link idle, because servers and long round trips limit each one; too
many make it collapse (a fast link was seen to hold 300 MB/s with 4 and lose it with 6), and cost processor
time. Success is no guide: an overloaded link still delivers, only later. So growth has to be earned, in
goodput.

Start: double while a doubling brings a quarter more. Then small steps, each kept only if it brings a
twentieth more. A step that does not pay is taken back, and the limit holds for a while before the next probe;
probes go up and down in turn, because a start during TCP's slow start overshoots. A refusal (429, 503) or
repeated broken connections halve the limit at once.

A trial of fewer is given up after one tick if that brought too little: it still counts what the connections
that leave have brought, so a longer trial would show even less. At the maximum fewer are tried only if each
connection has become slower than it was.

Where connections are so fast that the processor is what limits them, fewer of them do more: they share its
cores with the digest and with each other's writes. Where reads take little of their time, only as many stay
as have time for all reads. Elsewhere halves are tried first, and kept if they bring most of it. Once the
processor is idle again, the limit is what it was at the start.

Where requests for small files keep the interpreter busy, which one thread at a time can run, a single
connection is tried at once, in the place of the first ones: threads that take turns do less.

What it does not do: look at the clock, at threads or at sockets. Its owner feeds samples and obeys ``limit``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, Literal

from hf_haul.transports.load import LoadSample, LoadTick

__all__ = ["ConcurrencyController"]

Phase = Literal["start", "thrift", "steps", "hold"]

#: Less than the owner's 0.05 s: what flowed until its first look counts as a tick.
_START_TICK: Final = 0.045
_THRIFT_TICK: Final = 0.2
#: Enough to see whether connections wait for the network at all.
_IDLE_TICK: Final = 0.1
_STEP_TICK: Final = 0.5
_FIRST_BYTES_PER_TICK: Final = 3.0
_DOUBLING_PAYS: Final = 1.25
_STEP_PAYS: Final = 1.05
#: A smaller limit is kept if this much of the goodput stays.
_SHRINKING_PAYS: Final = 0.98
#: The same for halves, of what came before the first of them: ticks are short, and what they save is worth
#: something.
_HALVING_PAYS: Final = 0.8
#: Share of the limit that a step has to add to tell whether the link scales, and share of that which it has
#: to bring.
_TELLING: Final = 0.1
_IN_FULL: Final = 0.75
#: Connections that bring this share of what one brought at its best are not in each other's way.
_AS_FAST: Final = 0.85
_STEP: Final = 2
#: Above this a step is an eighth: two more of fifty could not show in the goodput.
_SMALL: Final = 16
_HOLD: Final = 5.0
_LONGEST_HOLD: Final = 20.0
#: Change of the goodput at an unchanged limit, up or down, twice in a row, that says that what was learned is
#: out of date.
_OTHER_LEVEL: Final = 1.25
_BUSY_PROCESSOR: Final = 0.85
#: How busy a leap may make the processor, if its use grows with the connections.
_LEAP_BUSY: Final = 0.95
#: Above this, fast connections may be in each other's way; bytes per second of one that count as fast.
_SHORT_OF_PROCESSOR: Final = 0.45
_FAST: Final = 50e6
#: Where reads take less than this share of the connections' time, fewer may have time for all of them.
_MOSTLY_READING: Final = 0.5
#: Share of their time that those should then spend reading.
_READING: Final = 0.85
#: Below this there is no reason for thrift.
_IDLE_PROCESSOR: Final = 0.3
#: Seconds for the connections in use to follow a new limit, after which the trial is called off.
_FOLLOW: Final = 4.0
#: Seconds without a look after which a tick begins anew: its owner had nothing to look at.
_GAP: Final = 1.0
_BACKOFF_EVERY: Final = 1.0
#: Broken connections within so many seconds that are more than bad luck.
_BREAKS: Final = 2
_BREAKS_WITHIN: Final = 5.0
#: Reasons of ``backoff`` that are no sign of overload.
_HARMLESS: Final = frozenset({"LinkExpiredError", "RangeRefusedError", "SourceChangedError"})
#: Reasons of ``backoff`` of which a single one halves the limit.
_REFUSALS: Final = frozenset({"ServerBusyError"})


@dataclass
class _Trial:
    """A limit being tried."""

    before: int
    baseline: float
    need: float
    since: float
    eager: bool  # whether the first tick may decide, if it is good
    ticks: int = 0


class ConcurrencyController:
    """The limit of connections to one source. Not safe for threads: its owner guards it.

    Args:
        initial: Connections to start with.
        maximum: Connections never exceeded.
    """

    def __init__(self, initial: int, maximum: int) -> None:
        if not 1 <= initial <= maximum:
            raise ValueError(f"need 1 <= initial <= maximum, not {initial} and {maximum}")
        self._initial = initial
        self._maximum = maximum
        self._limit = initial
        self._phase: Phase = "start"
        self._trial: _Trial | None = None
        self._goodput = 0.0  # at the present limit, smoothed; 0.0 while unknown
        self._first_byte: float | None = None
        # When connections came into use, and what there was by then.
        self._begun: tuple[float, LoadSample] | None = None
        self._flowing = False
        self._concluded_at: float | None = None
        self._looked_at: float | None = None
        self._tick: LoadTick | None = None
        self._hold_until = 0.0
        self._hold = _HOLD
        self._probe_down = True  # a start in leaps is more likely to end too high than too low
        self._best_per_connection = 0.0  # bytes per second of one connection when it was best
        self._now_per_connection = 0.0
        self._before_halving = 0.0  # the goodput before halves were tried
        self._rises = 0
        self._falls = 0
        self._thrift: bool | None = None  # whether fewer connections brought as much; None until tried
        self._drops_excess = False
        self._untried = 0  # the limit before some were given up without a trial
        self._breaks: deque[float] = deque(maxlen=_BREAKS)
        self._backed_off_at: float | None = None
        self._backoffs: dict[str, int] = {}

    @property
    def limit(self) -> int:
        """Connections that may be in use now."""
        return self._limit

    @property
    def settled(self) -> bool:
        """Whether the limit goes by small steps now, and will not be halved or doubled."""
        return self._phase in {"steps", "hold"}

    @property
    def drops_excess(self) -> bool:
        """Whether connections beyond the limit are known to be of no use, and need not end their parts."""
        return self._drops_excess

    def first_byte(self, seconds: float) -> None:
        """Record the seconds from a request to its answer; a tick lasts at least three times that."""
        before = seconds if self._first_byte is None else self._first_byte
        self._first_byte = before + 0.2 * (seconds - before)

    def begin(self, now: float, bytes_total: float, reading_total: float | None = None) -> None:
        """Note that the first connection is in use, with the bytes and seconds of reading by then."""
        if self._begun is None:
            self._begun = (now, LoadSample(bytes_total, bytes_total, 0, reading_total=reading_total))

    def sample(self, now: float, load: LoadSample) -> None:
        """Look at the source; call it about every 0.1 s, twice as often while not settled.

        Args:
            now: Seconds, monotonic.
            load: What came, and what it took.
        """
        away = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        if not self._flowing:
            self._watch_flow(now, load)
        if not self._flowing:
            return
        tick = self._tick
        if tick is None or away > _GAP:
            self._tick = LoadTick(now, load)
            return
        if self._trial is not None and now - self._trial.since > _FOLLOW + 4 * self._tick_seconds():
            self._abort_trial(now, self._trial)
        tick.add(now, load)
        if tick.seconds < self._tick_seconds():
            return
        self._tick = LoadTick(now, load)
        if tick.is_conclusive(self._limit):
            self._now_per_connection = tick.bytes_per_second / self._limit
            self._best_per_connection = max(self._best_per_connection, self._now_per_connection)
            self._judge(now, tick)

    def backoff(self, now: float, reason: str) -> None:
        """Note a failure, and halve the limit if it looks like too many connections; at most once a second.

        Args:
            now: Seconds, monotonic.
            reason: ``ServerBusyError`` acts at once. ``LinkExpiredError``, ``RangeRefusedError`` and
                ``SourceChangedError`` are no sign of overload and never do. Anything else is a broken
                connection: the second within five seconds acts, and never below the initial limit, because
                some proxies cut every long answer however few there are.
        """
        if reason in _HARMLESS:
            return
        floor = 1
        if reason not in _REFUSALS:
            self._breaks.append(now)
            if len(self._breaks) < _BREAKS or now - self._breaks[0] > _BREAKS_WITHIN:
                return
            floor = min(self._initial, self._limit)
        if self._backed_off_at is not None and now - self._backed_off_at < _BACKOFF_EVERY:
            return
        self._backed_off_at = now
        self._backoffs[reason] = self._backoffs.get(reason, 0) + 1
        self._forget_trials()
        self._limit = max(floor, self._limit // 2)
        self._goodput = 0.0
        self._probe_down = False
        self._rest(now, _HOLD)
        self._tick = None

    def note_other_work(self, now: float) -> None:
        """Look for the limit anew, unless that is under way: what it was found for has ended."""
        if self._thrift or self._phase == "thrift":
            self._limit = max(self._limit, self._initial)
        if self._phase != "start":
            self.retune(now)

    def leap(self, limit: int) -> None:
        """Raise the limit at once, if nothing has been judged yet: more than that says what it should be."""
        if self._phase == "start" and self._trial is None and not self._goodput and not self._backoffs:
            self._limit = max(self._limit, min(limit, self._maximum))

    def retune(self, now: float) -> None:
        """Start over from the present limit."""
        del now  # nothing is pending after this
        self._forget_trials()
        self._best_per_connection = 0.0
        self._phase = "start"
        self._goodput = 0.0
        self._hold = _HOLD
        self._tick = None

    def snapshot(self) -> dict[str, Any]:
        """Return the present state as plain values."""
        return {
            "limit": self._limit,
            "maximum": self._maximum,
            "phase": self._phase,
            "trying": self._trial is not None,
            "goodput_bps": self._goodput,
            "first_byte_seconds": self._first_byte,
            "backoffs": dict(self._backoffs),
        }

    # ---- one tick

    def _tick_seconds(self) -> float:
        least = {"start": _START_TICK, "thrift": _THRIFT_TICK}.get(self._phase, _STEP_TICK)
        if self._phase == "thrift" and self._trial is None:
            least = _IDLE_TICK
        # Ticks are cut by samples a little late or early; a hair less keeps them from taking one more.
        return max(least, _FIRST_BYTES_PER_TICK * (self._first_byte or 0.0)) - 0.01

    def _watch_flow(self, now: float, load: LoadSample) -> None:
        """Wait for the first bytes; a tick that began before them would make the rest look like growth."""
        if self._begun is None or self._first_byte is None:
            return
        began, before = self._begun
        if load.goodput_total > before.goodput_total:
            self._flowing = True
            self._tick = LoadTick(min(began + self._first_byte, now), before)

    def _abort_trial(self, now: float, trial: _Trial) -> None:
        """End a trial that the connections in use do not follow."""
        self._trial = None
        # Too much under way for fewer; or not enough to do for more, and then more does no harm.
        if self._limit < trial.before:
            self._take_back(trial)
            self._rest(now, _HOLD)

    def _judge(self, now: float, tick: LoadTick) -> None:
        if self._trial is not None:
            if not self._judge_trial(now, tick.rate, self._trial):
                return
        else:
            self._note_goodput(now, tick.rate)
        if self._ends_thrift(now, tick):
            return
        if self._can_be_thrifty(tick):
            self._save(now, tick)
            return
        busy = tick.cpu_busy > _BUSY_PROCESSOR
        if self._phase == "hold":
            if now >= self._hold_until:
                self._probe(now, tick)
        elif busy and self._phase == "start":  # too short a look to rest for seconds; a longer one follows
            self._phase = "steps"
        elif busy or self._phase == "thrift":  # more connections would only take turns
            self._rest(now, self._hold)
        else:
            self._grow(now, tick.cpu_busy)

    def _ends_thrift(self, now: float, tick: LoadTick) -> bool:
        """Return to more connections where fewer turn out to be too few; return whether it did."""
        idle = tick.cpu_busy < (_SHORT_OF_PROCESSOR if tick.is_requests else _IDLE_PROCESSOR)
        if self._untried and (idle or tick.share_of_reading(self._limit) >= _MOSTLY_READING):
            before, self._untried = self._untried, 0
            # They read seldom for another reason.
            if idle or tick.rate < _HALVING_PAYS * self._before_halving:
                self._limit = before
                self.retune(now)
                self._thrift = False
                return True
        if self._thrift and idle and self._limit < self._initial:
            self._limit = self._initial
            self.retune(now)
            return True
        return False

    def _can_be_thrifty(self, tick: LoadTick) -> bool:
        """Return whether half the connections might do.

        Without it, a mixed queue takes 1.23 times the processor time (95 % interval 1.12 to 1.29) and 1.18
        times the seconds (1.02 to 1.23): ``python -m tests.benchmarks --only mechanisms --row thrift-mixed``.
        """
        if self._phase == "hold" or self._thrift is False or self._limit == 1:
            return False
        if tick.is_requests:
            return tick.cpu_busy > _BUSY_PROCESSOR
        return tick.cpu_busy > _SHORT_OF_PROCESSOR and tick.rate >= _FAST * self._limit

    def _save(self, now: float, tick: LoadTick) -> None:
        """Try half the connections; or, where they seldom read, go on with as many as have time for it."""
        if self._phase != "thrift":
            self._phase, self._before_halving = "thrift", self._goodput
        reading = tick.share_of_reading(self._limit)
        if tick.is_requests:
            # Where it took more than the first ones to keep it busy, one would be far too few.
            fewer = 1 if self._limit <= self._initial else self._limit // 2
            self._try(now, fewer, _SHRINKING_PAYS, eager=True)
        elif reading < _MOSTLY_READING:
            self._untried = self._untried or self._limit
            self._limit = min(self._limit // 2, ceil(self._limit * reading / _READING) or 1)
            self._thrift = self._drops_excess = True
            # A drop of the goodput is no sign that the link has changed: a digest may have fallen behind.
            self._goodput = 0.0
        else:
            self._try(now, self._limit // 2, _HALVING_PAYS, self._before_halving)

    def _note_goodput(self, now: float, rate: float) -> None:
        stale = self._concluded_at is None or now - self._concluded_at > _HOLD
        self._concluded_at = now
        if stale or not self._goodput:
            self._goodput = rate
            return
        self._rises = self._rises + 1 if rate >= _OTHER_LEVEL * self._goodput else 0
        self._falls = self._falls + 1 if _OTHER_LEVEL * rate <= self._goodput else 0
        self._goodput = (self._goodput + rate) / 2
        if self._phase == "hold" and max(self._rises, self._falls) >= 2:
            # The link, or the work, is another one than it was.
            self._phase, self._goodput, self._hold = "start", rate, _HOLD

    def _judge_trial(self, now: float, rate: float, trial: _Trial) -> bool:
        """Decide on the limit on trial; return whether to go on from here at once."""
        trial.ticks += 1
        pays = rate >= trial.need * trial.baseline
        if trial.ticks == 1 and (pays or self._limit > trial.before) and not (pays and trial.eager):
            return False  # the tick after a change still holds much of the old; too little with that is too little
        self._concluded_at = now
        if not pays and not (trial.eager and rate >= _STEP_PAYS * trial.baseline):
            self._take_back(trial)
            thriftless = self._phase == "thrift" and not self._thrift
            if trial.eager or thriftless:
                # What it was compared with took a twentieth of a second, and may have been a burst that
                # nothing matches; and what kept the interpreter busy may have been the beginning.
                self._phase = "start" if trial.eager and thriftless else "steps"
                self._goodput = 0.0
                self._thrift = False if thriftless else self._thrift
            else:
                self._hold = min(2 * self._hold, _LONGEST_HOLD)
                self._rest(now, self._hold)
            return False
        self._trial = None
        self._goodput = rate
        self._hold = _HOLD
        if self._limit < trial.before:
            if self._phase == "thrift" or self._limit < self._initial:
                self._thrift = True
            if self._phase != "thrift" or self._limit == 1:
                self._rest(now, _HOLD)
            return False
        if not pays:  # less than a doubling should bring, but something: keep it, go on in steps
            self._phase = "steps"
        elif self._scales(rate, trial):  # far from full: leap, or go on leaping
            self._phase = "start"
        return True

    def _scales(self, rate: float, trial: _Trial) -> bool:
        """Return whether a step, large enough to tell, raised the speed in proportion."""
        added = self._limit / trial.before - 1.0
        return added >= _TELLING and rate / trial.baseline - 1.0 >= _IN_FULL * added

    def _forget_trials(self) -> None:
        """End all trials, and forget what was learned about fewer connections."""
        self._trial = None
        self._thrift = None
        self._drops_excess = False
        self._untried = 0

    def _take_back(self, trial: _Trial) -> None:
        self._trial = None
        self._limit = trial.before
        self._goodput = trial.baseline

    # ---- changes

    def _grow(self, now: float, cpu_busy: float) -> None:
        if self._limit >= self._maximum:
            self._rest(now, self._hold)
        elif self._phase == "start":
            leap = min(2.0, _LEAP_BUSY / max(cpu_busy, 0.1))
            larger = min(max(int(self._limit * leap), self._limit + 1), self._maximum)
            need = 1.0 + (_DOUBLING_PAYS - 1.0) * (larger / self._limit - 1.0)
            self._try(now, larger, need, eager=True)
        else:
            self._try(now, min(self._limit + self._step(), self._maximum), _STEP_PAYS)

    def _probe(self, now: float, tick: LoadTick) -> None:
        """Try the neighbours of a limit that has held: above and below in turn."""
        busy = tick.cpu_busy > _BUSY_PROCESSOR
        if (
            self._limit >= self._maximum
            and not busy
            and self._now_per_connection >= _AS_FAST * self._best_per_connection
        ):
            self._rest(now, self._hold)  # nobody is in another's way: fewer would bring less
            return
        down = self._probe_down or busy or self._limit >= self._maximum
        self._probe_down = not self._probe_down
        least = 1 if busy and tick.is_requests else self._initial
        smaller = max(least, self._limit - max(_STEP, self._limit // 4))
        if down and smaller < self._limit:
            self._try(now, smaller, _SHRINKING_PAYS)
        elif busy:
            self._rest(now, self._hold)
        else:
            self._phase = "steps"
            self._grow(now, 0.0)

    def _step(self) -> int:
        return _STEP if self._limit <= _SMALL else self._limit // 8

    def _try(
        self, now: float, limit: int, need: float, baseline: float | None = None, *, eager: bool = False
    ) -> None:
        self._drops_excess = False
        self._trial = _Trial(self._limit, baseline or self._goodput, need, now, eager)
        self._limit = limit

    def _rest(self, now: float, seconds: float) -> None:
        self._phase = "hold"
        self._hold_until = now + seconds
