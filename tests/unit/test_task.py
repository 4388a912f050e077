"""Tasks: their states, their order, their ids."""

from __future__ import annotations

import copy
import hashlib
import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_haul.task import (
    TRANSITIONS,
    Digest,
    DownloadPriority,
    DownloadProgress,
    DownloadState,
    DownloadTask,
    RemoteFile,
    bears_out,
    new_id,
)

S = DownloadState
#: Written down a second time, by hand: a change of the table has to be meant.
LEGAL = {
    (S.QUEUED, S.RUNNING), (S.QUEUED, S.PAUSED), (S.QUEUED, S.FAILED), (S.QUEUED, S.CANCELLED), (S.QUEUED, S.DONE),
    (S.RUNNING, S.VERIFYING), (S.RUNNING, S.PAUSED), (S.RUNNING, S.QUEUED), (S.RUNNING, S.FAILED),
    (S.RUNNING, S.CANCELLED), (S.RUNNING, S.DONE),
    (S.PAUSED, S.VERIFYING), (S.PAUSED, S.DONE), (S.PAUSED, S.QUEUED), (S.PAUSED, S.RUNNING), (S.PAUSED, S.CANCELLED), (S.PAUSED, S.FAILED),
    (S.VERIFYING, S.DONE), (S.VERIFYING, S.QUEUED), (S.VERIFYING, S.FAILED), (S.VERIFYING, S.CANCELLED),
}  # fmt: skip


def task(path: str = "a.bin", **more: Any) -> DownloadTask:
    where = {"source_url": f"https://hub/{path}", "local_path": Path(path)}
    return DownloadTask(model_id="org/m", file_path=path, **where, **more)  # by the names of the API


@pytest.mark.parametrize(("before", "after"), list(itertools.product(S, S)), ids=lambda s: s.value)
def test_every_pair_of_states_is_a_legal_move_or_refused(before: S, after: S) -> None:
    moving = task(state=before)
    if (before, after) in LEGAL:
        moving.move_to(after)
        assert moving.state is after
    else:
        with pytest.raises(RuntimeError, match=r"a\.bin: illegal move"):
            moving.move_to(after)
        assert moving.state is before


def test_the_table_names_every_state() -> None:
    assert set(TRANSITIONS) == set(S)


def test_exactly_the_ends_are_final() -> None:
    assert {state for state in S if state.final} == {S.DONE, S.FAILED, S.CANCELLED}


def test_an_end_can_be_reached_from_every_state_that_is_none() -> None:
    for state in S:
        if not state.final:
            assert {S.FAILED, S.CANCELLED} <= TRANSITIONS[state]


def test_priorities_have_the_numbers_that_were_asked_for() -> None:
    assert [(p.name, p.value) for p in DownloadPriority] == [("HIGH", 1), ("NORMAL", 2), ("LOW", 3)]


def test_tasks_go_by_priority_then_by_the_policy_then_by_age() -> None:
    late_high = [
        task("low first", priority=DownloadPriority.LOW, order=(0,)),
        task("normal big", priority=DownloadPriority.NORMAL, order=(9,)),
        task("normal older", priority=DownloadPriority.NORMAL, order=(1,)),
        task("normal younger", priority=DownloadPriority.NORMAL, order=(1,)),
        task("high", priority=DownloadPriority.HIGH, order=(9,)),
    ]
    expected = ["high", "normal older", "normal younger", "normal big", "low first"]
    for shuffled in itertools.permutations(late_high):
        assert [t.file_path for t in sorted(shuffled)] == expected


def test_the_order_is_strict_even_within_one_instant() -> None:
    tasks = [task(created_at=1.0) for _ in range(50)]
    for a, b in itertools.combinations(tasks, 2):
        assert a < b
        assert not b < a
    assert not any(t < t for t in tasks)
    assert len({t.sort_key for t in tasks}) == len(tasks)


def test_ids_are_unique_within_one_second_and_tell_their_kind() -> None:
    ids = {new_id("task") for _ in range(20_000)}
    assert len(ids) == 20_000
    assert all(i.startswith("task-") for i in ids)
    assert task().task_id != task().task_id


@pytest.mark.parametrize(
    ("algorithm", "value", "complaint"),
    [
        pytest.param("crc32", "0" * 32, "unknown digest algorithm", id="unknown"),
        pytest.param("sha256", "0" * 40, "64 hex digits", id="too short"),
        pytest.param("git-sha1", "0" * 64, "40 hex digits", id="too long"),
        pytest.param("sha256", "g" * 64, "64 hex digits", id="no hex"),
        pytest.param("sha256", "A" * 64, "64 hex digits", id="upper case"),
        pytest.param("sha256", "", "64 hex digits", id="empty"),
    ],
)
def test_a_digest_that_cannot_be_one_is_refused(algorithm: Any, value: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Digest(algorithm, value)


@pytest.mark.parametrize(("algorithm", "digits"), [("sha256", 64), ("git-sha1", 40)])
def test_digests_of_the_right_length_are_taken(algorithm: Any, digits: int) -> None:
    assert Digest(algorithm, "a" * digits).value == "a" * digits


def test_a_remote_file_keeps_its_headers_out_of_its_repr() -> None:
    remote = RemoteFile("a", "https://hub/a", headers={"Authorization": "Bearer secret"})
    assert "secret" not in repr(remote)


@pytest.mark.parametrize(
    "value",
    [
        Digest("sha256", "a" * 64),
        DownloadProgress("t", "m", "a", 1, 2, 3.0, None, S.RUNNING),
        task("kept"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_values_survive_pickling(value: Any) -> None:
    again = pickle.loads(pickle.dumps(value))
    for name in type(value).__slots__:
        assert getattr(again, name) == getattr(value, name)


def test_progress_cannot_be_changed_by_who_receives_it() -> None:
    progress = DownloadProgress("t", "m", "a", 1, 2, 3.0, None, S.RUNNING)
    with pytest.raises(AttributeError):
        progress.bytes_downloaded = 5  # type: ignore[misc]  # that is the point
    assert copy.copy(progress) == progress


@pytest.mark.parametrize(
    ("size", "digest", "known"),
    [
        pytest.param(0, Digest("sha256", "a" * 64), None, id="0, of a file that is not empty"),
        pytest.param(0, Digest("sha256", hashlib.sha256().hexdigest()), 0, id="an empty file"),
        pytest.param(0, Digest("git-sha1", hashlib.sha1(b"blob 0\0").hexdigest()), 0, id="the same by git"),
        pytest.param(0, None, 0, id="no digest"),
        pytest.param(5, Digest("sha256", "a" * 64), 5, id="a size"),
        pytest.param(None, Digest("sha256", "a" * 64), None, id="none"),
    ],
)
def test_a_size_of_nothing_beside_the_digest_of_something_is_none(
    size: int | None, digest: Digest | None, known: int | None
) -> None:
    assert RemoteFile("a", "http://hub.test/a", size, digest).size == known


DIGESTS = {"sha256": "a" * 64, "git-sha1": "b" * 40, "sha1": "c" * 40}


@pytest.mark.parametrize(
    ("etag", "told", "right"),
    [
        pytest.param("c" * 40, None, True, id="the plain sha1"),
        pytest.param("d" * 40, Digest("git-sha1", "b" * 40), True, id="git's, as the listing says"),
        pytest.param("d" * 40, Digest("sha256", "a" * 64), True, id="sha256, as the listing says"),
        pytest.param("d" * 64, Digest("git-sha1", "b" * 40), True, id="another kind than it looks like"),
        pytest.param("d" * 64, Digest("sha256", "d" * 64), False, id="the listing says the same"),
        pytest.param("d" * 64, Digest("git-sha1", "d" * 40), False, id="the listing says something else"),
        pytest.param("d" * 64, None, True, id="nobody says: a name"),
        pytest.param("d" * 64, OSError("busy"), False, id="nobody says for now"),
    ],
)
def test_what_an_etag_that_looks_like_a_digest_is_decides_the_listing(
    etag: str, told: Digest | Exception | None, right: bool
) -> None:
    def confirm() -> Digest | None:
        if isinstance(told, Exception):
            raise told
        return told

    digest = Digest("sha256" if len(etag) == 64 else "git-sha1", etag)
    remote = RemoteFile("a", "http://hub.test/a", digest=digest, digest_is_etag=True, confirm=confirm)
    assert bears_out(remote, DIGESTS.__getitem__) is right
    assert not bears_out(replace(remote, digest_is_etag=False), DIGESTS.__getitem__), "a digest is a digest"
    alone = bears_out(replace(remote, confirm=None), DIGESTS.__getitem__)
    assert alone is (etag == "c" * 40), "and the Hub's etags are what they look like"
