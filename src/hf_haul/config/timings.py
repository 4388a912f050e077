"""Seconds by which the engine judges what others do: not settings, since nobody has to choose them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT_TIMINGS", "Timings"]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds that the engine works by; those who test it pass shorter ones.

    Attributes:
        warm_up: Time that a connection gets before its speed is compared with others'.
        worth_hedging: Time that a part must still need before the rest of it is requested a second time.
        slow_answer: Time to an answer above which another request costs more than it gains.
        other_answer: To an answer, or to the next byte, after which a source is given up that is not a
            file's origin.
        refused_links: For which links that were signed a moment ago are asked for again although they are
            refused.
        file_changes: For which a range is asked for again although its source seems to have another file,
            where it is known what the file must be.
        sign_of_life: Between two signs that the owner of a staged file gives to other processes.
        ownership: Between two looks whether a staged file is still this process's own.
        helping: Shortest time for which a waiting thread works on its queue itself, where no worker can be
            started.
        idle_workers: Without work after which a thread of the engine ends.
        no_threads: Without a thread after which a queue that nobody waits for fails.
        standstill: For which errors of our own, a lack of memory mostly, may keep every download from going
            on before all of them fail.
        passed_over: Between two looks of who waits for a read whether any thread will do it.
        asleep: Without a sign of life after which the owner of a staged file is taken to be asleep.
        unwritten: For which a staged file that is still empty may be about to get its header.
        unseen: Without one after which an owner that cannot be seen is taken for gone.
        takeover: For which a living process is waited for to say that a staged file it renamed is its own.
        worth_a_word: Without a byte, or without an answer of the Hub, after which people are told.
        ask_again: Before each further request to a Hub that was busy, and named no time: huggingface_hub's.
    """

    warm_up: float = 15.0
    worth_hedging: float = 3.0
    slow_answer: float = 2.0
    other_answer: float = 5.0
    refused_links: float = 5.0
    file_changes: float = 20.0
    sign_of_life: float = 15.0
    ownership: float = 15.0
    helping: float = 1.0
    idle_workers: float = 10.0
    no_threads: float = 30.0
    standstill: float = 10.0
    passed_over: float = 1.0
    asleep: float = 30.0
    unwritten: float = 3.0
    unseen: float = 120.0
    takeover: float = 2.0
    worth_a_word: float = 5.0
    ask_again: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 8.0)


DEFAULT_TIMINGS: Final = Timings()
