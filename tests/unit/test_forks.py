from __future__ import annotations

import builtins
import gc
import importlib
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.collector import at_every_allocation
from tests.support.forking import in_child

from hf_haul import forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Owner:
    def __init__(self) -> None:
        self._renew()
        forks.renew_after_fork(self, Owner._renew)

    def _renew(self) -> None:
        self.lock = threading.Lock()
        self.pid = os.getpid()


def test_a_lock_that_another_thread_holds_at_the_fork_is_free_in_the_child() -> None:
    owner = Owner()
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with owner.lock:
            held.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    try:
        assert in_child(lambda: owner.lock.acquire(timeout=0) and owner.pid == os.getpid())
    finally:
        leave.set()
        thread.join()
    assert owner.pid == os.getpid()


def test_one_that_cannot_be_renewed_is_shown_and_keeps_no_other_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(str(unraisable.exc_value)))

    class Bad:
        pass

    def fail(_bad: Bad) -> None:
        raise ValueError("cannot be renewed")

    bad = Bad()
    forks.renew_after_fork(bad, fail)
    owner = Owner()
    assert in_child(lambda: owner.pid == os.getpid() and shown == ["cannot be renewed"])
    del bad


def test_a_child_imports_anew_what_another_thread_was_about_to_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slowly_imported.py").write_text("began.set()\nleave.wait(30)\n")
    (tmp_path / "needs_it.py").write_text("import slowly_imported\n")
    monkeypatch.syspath_prepend(tmp_path)
    began, leave = threading.Event(), threading.Event()
    monkeypatch.setattr(builtins, "began", began, raising=False)
    monkeypatch.setattr(builtins, "leave", leave, raising=False)

    def import_it() -> bool:
        leave.set()
        importlib.import_module("needs_it")
        return "slowly_imported" in sys.modules

    thread = threading.Thread(target=importlib.import_module, args=["needs_it"])
    thread.start()
    assert began.wait(10)
    try:
        assert in_child(import_it)
    finally:
        leave.set()
        thread.join()
        for name in ("needs_it", "slowly_imported"):
            sys.modules.pop(name)


def test_a_module_is_renewed_before_the_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_modules", [])
    order: list[str] = []
    owner = Owner()
    forks.renew_after_fork(owner, lambda _owner: order.append("owner"))
    forks.call_after_fork(lambda: order.append("module"))
    assert in_child(lambda: order == ["module", "owner"])
    assert order == []


def test_owners_are_not_kept_alive_and_those_that_are_gone_are_swept_out() -> None:
    before = len(forks._owners)
    for _ in range(10 * forks._SWEEP_EVERY):
        Owner()
    gc.collect()
    assert len(forks._owners) <= before + forks._SWEEP_EVERY


def test_a_finalizer_that_registers_an_owner_disturbs_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {-number: (weakref.ref(Owner()), Owner._renew) for number in range(1, 100)}
    monkeypatch.setattr(forks, "_SWEEP_EVERY", 1)
    monkeypatch.setattr(forks, "_owners", owners)
    numbers = itertools.count(100)
    with at_every_allocation(lambda: owners.update({-next(numbers): (weakref.ref(Owner), Owner._renew)})):
        owner = Owner()
    assert all(reference() in {owner, Owner} for reference, _ in owners.values())


def test_imports_that_come_and_go_disturb_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    locks: dict[str, Callable[[], None]] = {f"module {number}": lambda: None for number in range(100)}
    numbers = iter(range(10_000))
    monkeypatch.setattr(importlib._bootstrap, "_module_locks", locks)  # type: ignore[attr-defined]  # not typed
    with at_every_allocation(lambda: locks.update({f"another {next(numbers)}": lambda: None})):
        forks._drop_imports()
    assert len(locks) > 100


def test_what_fails_about_imports_keeps_nothing_from_being_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("imports cannot be looked at")

    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    monkeypatch.setattr(forks, "_drop_imports", fail)
    owner = Owner()
    assert in_child(lambda: owner.pid == os.getpid())
