"""What finalizers leave for others to do."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Iterator

import pytest
from tests.support.waits import until

from hf_haul import finalizers


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """A new start, whose thread ends at once when there is nothing to do."""
    monkeypatch.setattr(finalizers, "_deferred", finalizers._Deferred(0.01))
    yield 0.01
    assert until(lambda: not finalizers._deferred.has_thread)


def refuse(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.usefixtures("idle")
def test_what_is_left_is_done_on_a_thread_of_its_own_that_ends_when_idle() -> None:
    for _ in range(20):  # many times: it may be left in the moment the thread decides to end
        done = threading.Event()
        names: list[str] = []
        finalizers.attend()
        finalizers.defer(lambda names=names: names.append(threading.current_thread().name))
        finalizers.defer(done.set)
        finalizers.catch_up()
        assert done.wait(10)
        assert names == ["hf-haul-finalizers"]
    assert until(lambda: not finalizers._deferred.has_thread)


@pytest.mark.usefixtures("idle")
def test_what_was_left_without_a_thread_is_done_by_the_next_call() -> None:
    done = threading.Event()
    finalizers.catch_up()
    assert not finalizers._deferred.has_thread  # there was nothing to do
    finalizers.defer(done.set)
    assert not done.is_set()
    finalizers.catch_up()
    assert done.wait(10)


@pytest.mark.usefixtures("idle")
def test_what_goes_with_an_object_is_done_however_late_that_is_gone() -> None:
    class Owner:
        """What may live for long."""

    owner, done = Owner(), threading.Event()
    finalizers.when_gone(owner, done.set)
    assert not until(lambda: not finalizers._deferred.has_thread, 0.2)
    assert not done.is_set()
    del owner
    gc.collect()
    assert done.wait(10)


@pytest.mark.usefixtures("idle")
def test_what_is_left_while_something_takes_long_is_done_however_late_that_is() -> None:
    done = threading.Event()
    with finalizers.meanwhile():
        assert not until(lambda: not finalizers._deferred.has_thread, 0.2)
        finalizers.defer(done.set)
        assert done.wait(10)
    assert until(lambda: not finalizers._deferred.has_thread)


@pytest.mark.usefixtures("idle")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_was_under_way_in_a_parent_is_not_in_its_forked_child() -> None:
    with finalizers.meanwhile():
        pid = os.fork()
        if pid == 0:
            os._exit(1 if finalizers._under_way else 0)
        assert os.waitpid(pid, 0)[1] == 0
        assert finalizers._under_way


@pytest.mark.usefixtures("idle")
def test_where_no_thread_is_to_be_had_ordinary_code_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    for _ in range(3):
        finalizers.defer(lambda: names.append(threading.current_thread().name))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    finalizers.attend()
    assert names == [threading.current_thread().name] * 3


@pytest.mark.usefixtures("idle")
def test_work_that_fails_keeps_the_rest_from_nothing(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    finalizers.defer(threading.Lock().release)
    finalizers.defer(done.set)
    with caplog.at_level(logging.WARNING):
        finalizers.attend()
        assert done.wait(10)
    assert "unexpected error in work that a finalizer deferred" in caplog.text


@pytest.mark.usefixtures("idle")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_to_its_parent_what_is_the_parents() -> None:
    finalizers.defer(lambda: None)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if finalizers._deferred.work.empty() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    finalizers.catch_up()
    assert until(finalizers._deferred.work.empty)
