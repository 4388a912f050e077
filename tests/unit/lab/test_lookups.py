"""Who is asked about a revision, and how often."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.waits import until

from hf_haul.errors import UnsafePathError
from hf_haul.hub.asking import httpx
from hf_haul.hub.fallback import HubUnreachable
from hf_haul.hub.metadata import ListedFile
from hf_haul.hub.snapshot_files import SnapshotFiles
from hf_haul.hub.upstream_cache import write_tree
from hf_haul.lab.lookups import LookUps
from hf_haul.localhub.replies import Refusal

COMMIT = "0123456789" * 4
LISTING = {"a.txt": ListedFile(1, "ab" * 20)}
AWAY = HubUnreachable(httpx.ConnectError("nobody is there"), None)


class Asked:
    """Stands for the other Hub."""

    def __init__(self) -> None:
        self.now = 0.0
        self.count = 0
        self.answer: Callable[[], Any] = lambda: (COMMIT, LISTING)

    def ask(self, files: SnapshotFiles, *, retry: bool) -> Any:
        del retry
        self.count += 1
        answer = self.answer()
        write_tree(files.tree_folder, answer[0], answer[1])
        return answer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    made = Asked()
    monkeypatch.setattr(SnapshotFiles, "ask", lambda files, *, retry: made.ask(files, retry=retry))
    return made


@pytest.fixture
def lookups(asked: Asked, tmp_path: Path) -> LookUps:
    return LookUps(
        str(tmp_path), "http://127.0.0.1:1", refresh=30.0, private=False, name="me", clock=lambda: asked.now
    )


def fails(error: Exception) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


def test_a_revision_is_looked_up_again_when_it_may_have_moved(
    asked: Asked, lookups: LookUps, tmp_path: Path
) -> None:
    for now, changed, count in ((0.0, True, 1), (29.0, False, 1), (30.0, True, 2), (31.0, False, 2)):
        asked.now = now
        assert lookups.refresh("model", "org/m", "main") is changed
        assert asked.count == count
        assert lookups.is_fresh("model", "org/m", "main")
    assert not lookups.is_fresh("model", "org/m", "other")
    assert (tmp_path / "models--org--m/refs/main").read_text() == COMMIT


def test_an_upstream_that_is_away_is_not_asked_by_everybody(asked: Asked, lookups: LookUps) -> None:
    asked.answer = fails(AWAY)
    for now, count in ((0.0, 1), (9.0, 1), (10.0, 2)):
        asked.now = now
        lookups.refresh("model", "org/m", "main")
        assert asked.count == count
        assert lookups.is_away("model", "org/m", "main")
    asked.now, asked.answer = 20.0, lambda: (COMMIT, LISTING)
    lookups.refresh("model", "org/m", "main")
    assert not lookups.is_away("model", "org/m", "main")
    assert lookups.last_error is None


def test_nobody_waits_long_for_an_upstream_that_did_not_answer_the_last_time(
    asked: Asked, tmp_path: Path
) -> None:
    lookups = LookUps(
        str(tmp_path), "http://127.0.0.1:1", refresh=30.0, private=False, name="me", patience=0.0, clock=lambda: asked.now
    )  # fmt: skip
    asked.answer = fails(AWAY)
    lookups.refresh("model", "org/m", "main")
    answered, go = threading.Event(), threading.Event()

    def answer() -> Any:
        assert go.wait(10)
        answered.set()
        return COMMIT, LISTING

    asked.now, asked.answer = 20.0, answer
    for _ in range(3):
        assert lookups.refresh("model", "org/m", "main") is False
        assert lookups.is_away("model", "org/m", "main")
    go.set()
    assert answered.wait(10)
    until(lambda: not lookups.is_away("model", "org/m", "main"), 10)
    assert asked.count == 2


def test_all_who_ask_at_once_get_one_answer(asked: Asked, lookups: LookUps) -> None:
    began, go = threading.Event(), threading.Event()

    def answer() -> Any:
        began.set()
        assert go.wait(10)
        return COMMIT, LISTING

    asked.answer = answer
    threads = [threading.Thread(target=lookups.refresh, args=("model", "org/m", "main")) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert began.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert asked.count == 1


def test_who_waits_for_another_hub_is_answered_when_the_server_ends(asked: Asked, lookups: LookUps) -> None:
    began, go = threading.Event(), threading.Event()

    def answer() -> Any:
        began.set()
        assert go.wait(10)
        return COMMIT, LISTING

    asked.answer = answer
    codes: list[str | None] = []

    def ask() -> None:
        with pytest.raises(Refusal) as refused:
            lookups.refresh("model", "org/m", "main")
        codes.append(refused.value.code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert began.wait(10)
    lookups.close()
    for thread in threads:
        thread.join(10)
    ask()
    go.set()
    assert codes == ["ServerEnding"] * 4


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(
            lambda: (COMMIT, {"a": ListedFile(1, "ab" * 20, "redacted", 1)}),
            "GatedRepo",
            id="redacted digests",
        ),
        pytest.param(lambda: ("main", LISTING), "UpstreamRefused", id="a commit that is none"),
        pytest.param(lambda: ("../" * 3, LISTING), "UpstreamRefused", id="a commit that leads elsewhere"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    answer: Callable[[], Any], code: str, asked: Asked, lookups: LookUps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.lab.test_lookups.write_tree", lambda *_: None, raising=False)
    monkeypatch.setattr(SnapshotFiles, "ask", lambda _files, *, retry: answer())
    with pytest.raises(Refusal) as refused:
        lookups.refresh("model", "org/m", "main")
    assert refused.value.code == code
    with pytest.raises(Refusal):  # and that is remembered
        lookups.refresh("model", "org/m", "main")


def test_a_cache_that_cannot_be_written_is_said_to_be(
    asked: Asked, lookups: LookUps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hf_haul.storage.hub_cache.RepoFolder.write_ref", full)
    with pytest.raises(Refusal) as refused:
        lookups.refresh("model", "org/m", "main")
    assert (refused.value.status, refused.value.code, asked.count) == (507, "DiskFull", 1)


@pytest.mark.parametrize("repo_id", ["a/b/c", "..", "a--b", ""])
def test_an_id_that_can_be_none_is_asked_of_nobody(repo_id: str, asked: Asked, lookups: LookUps) -> None:
    with pytest.raises(Refusal) as refused:
        lookups.refresh("model", repo_id, "main")
    assert (refused.value.status, asked.count) == (404, 0)


@pytest.mark.parametrize("revision", ["..", ".", "../../x", "/x", "a\0b", "\udcff", "a/../../b", "a/" * 500])
def test_a_revision_that_can_be_none_is_asked_of_nobody(
    revision: str, asked: Asked, lookups: LookUps
) -> None:
    with pytest.raises(Refusal) as refused:
        lookups.refresh("model", "org/m", revision)
    assert (refused.value.status, refused.value.code) == (404, "RevisionNotFound")
    assert asked.count == 0


def test_a_refusal_that_is_remembered_keeps_nothing_of_those_who_got_it(
    asked: Asked, lookups: LookUps
) -> None:
    asked.answer = fails(UnsafePathError("no file"))
    refusals = []
    for _ in range(3):
        with pytest.raises(Refusal) as refused:
            lookups.refresh("model", "org/m", "main")
        refusals.append(refused.value)
    assert asked.count == 1
    assert len({id(each) for each in refusals}) == len(refusals)


def test_what_is_remembered_is_bounded(
    asked: Asked, lookups: LookUps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_haul.lab.lookups._MOST_KNOWN", 3)
    asked.answer = fails(AWAY)
    for number in range(10):
        lookups.refresh("model", f"org/m{number}", "main")
    assert len(lookups._known) == 3
