"""What is remembered of a Hub that does not answer."""

from __future__ import annotations

import pytest

from hf_haul.lab import silence
from hf_haul.lab.silence import LEAVE_ALONE, Silence


class Watch:
    """A clock, and what is remembered by it."""

    def __init__(self) -> None:
        self.now = 1.0
        self.silence = Silence(lambda: self.now)

    def fail(self, file: str, *, everything: bool) -> None:
        self.now += 1.0
        self.silence.note(file, everything=everything, began=self.now - 0.5)


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_a_hub_that_does_not_answer_is_left_alone_for_a_while_and_then_asked_for_one_file(
    watch: Watch,
) -> None:
    assert not watch.silence.lasts("a")
    watch.fail("a", everything=True)
    for file in ("a", "b"):
        assert watch.silence.holds(file)
    watch.now += LEAVE_ALONE
    for file in ("a", "b"):
        assert not watch.silence.holds(file)
        assert watch.silence.lasts(file)
    watch.silence.try_again("b")
    assert watch.silence.holds("c")


def test_a_hub_that_answers_is_asked_at_once(watch: Watch) -> None:
    watch.fail("a", everything=True)
    watch.silence.hear("b")
    assert watch.silence.holds("a")  # this file it did not give
    assert not watch.silence.lasts("b")
    watch.silence.hear("a")
    assert not watch.silence.holds("a")


@pytest.mark.parametrize("answers", [True, False], ids=["busy", "answered for another file meanwhile"])
def test_one_file_that_cannot_be_had_keeps_no_other_away(watch: Watch, answers: bool) -> None:
    if answers:
        watch.fail("a", everything=False)
    else:
        watch.silence.hear("b")
        watch.silence.note("a", everything=True, began=watch.now - 0.5)
    assert watch.silence.holds("a")
    assert not watch.silence.holds("b")
    watch.silence.try_again("b")
    assert not watch.silence.lasts("b")


def test_the_last_files_that_could_not_be_had_are_remembered(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "_MOST", 2)
    for file in "abc":
        watch.fail(file, everything=False)
    assert [watch.silence.lasts(file) for file in "abc"] == [False, True, True]
