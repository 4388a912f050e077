from __future__ import annotations

import json
import pickle
from contextlib import nullcontext
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from tests.support.hub_answers import ENDPOINT, SHA, SHA256, XET, Pages, item, response

from hf_haul.cluster.plan import JobPlan, default_stripe_bytes, make_plan
from hf_haul.cluster.stripes import Stripes
from hf_haul.config import MiB
from hf_haul.errors import UnsafePathError
from hf_haul.hub import listing
from hf_haul.hub.metadata import ListedFile

OTHER = "d" * 64
FILES = {
    "a.bin": ListedFile(130, SHA, SHA256, 5 * MiB, XET),
    "copy of a.bin": ListedFile(130, SHA, SHA256, 5 * MiB),
    "b.txt": ListedFile(7, "e" * 40),
    "redacted.bin": ListedFile(130, SHA, "*" * 64, 9),
    "empty": ListedFile(0, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
    "not wanted": ListedFile(9, "f" * 40),
}


def made(**changes: Any) -> JobPlan:
    known: dict[str, Any] = {
        "job_id": "job-1",
        "endpoint": ENDPOINT,
        "repo_type": "model",
        "repo_id": "org/name",
        "revision": "main",
        "commit": SHA,
        "files": FILES,
        "selection": tuple(FILES)[:-1],
        "stripe_bytes": 2 * MiB,
        "nodes": ("a", "b"),
    }
    return JobPlan(**{**known, **changes})


def test_what_two_files_share_is_one_blob_and_what_cannot_be_checked_is_none() -> None:
    assert list(made().blobs()) == [(SHA256, 5 * MiB), ("e" * 40, 7)]
    assert made().total_bytes == 5 * MiB + 7
    assert made().repeated() == {SHA256}
    assert Stripes.of(made()).count == 4


def test_a_plan_comes_back_from_its_json_and_from_a_pickle() -> None:
    plan = made(complete=False)
    assert JobPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"version": 99}, "of 99.*same version of hf-haul", id="another version"),
        pytest.param({"commit": None}, "commit is None", id="no commit"),
        pytest.param({"selection": "a.bin"}, "selection is 'a.bin'", id="no list"),
        pytest.param({"selection": ["gone"]}, "'gone' is chosen", id="not listed"),
        pytest.param({"files": [{"type": "file", "path": "x"}]}, "no object id", id="a bad entry"),
        pytest.param({"stripe_bytes": "2"}, "stripe_bytes", id="no number"),
        pytest.param({"stripe_bytes": 0}, "greater than 0", id="no bytes"),
        pytest.param({"nodes": []}, "a job needs nodes", id="no node"),
        pytest.param({"nodes": ["a", "a"]}, "name of its own", id="two of one name"),
    ],
)
def test_what_is_no_plan_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        JobPlan.from_json({**made().to_json(), **changes})


@pytest.mark.parametrize(
    ("files", "stripe_bytes", "refused"),
    [
        pytest.param({"a": 10**12}, MiB, None, id="a terabyte in the smallest stripes"),
        pytest.param({str(number): 2 for number in range(100_000)}, MiB, None, id="many small files"),
        pytest.param({"a": 1 << 24}, 1, None, id="as many as can be"),
        pytest.param({"a": 1 << 23, "b": 1, "c": 1 << 23}, 1, "16,777,217 stripes of 1 B", id="one more"),
        pytest.param({"a": 1 << 60}, 16 * MiB, "68,719,476,736 stripes", id="larger than any"),
        pytest.param(
            {"a": 1 << 23, "same as a": 1 << 23, "b": 1 << 23}, 1, None, id="a blob that counts once"
        ),
    ],
)
def test_a_plan_has_no_more_stripes_than_nodes_can_keep_account_of(
    files: dict[str, int], stripe_bytes: int, refused: str | None
) -> None:
    known = {
        path: ListedFile(130, SHA, sha256(path.removeprefix("same as ").encode()).hexdigest(), size)
        for path, size in files.items()
    }
    value = made(files=known, selection=tuple(known), stripe_bytes=stripe_bytes).to_json()
    with nullcontext() if refused is None else pytest.raises(ValueError, match=refused):
        JobPlan.from_json(value)


@pytest.mark.parametrize("value", [None, [], "plan"])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="of None"):
        JobPlan.from_json(value)


def test_a_name_that_leads_out_of_its_folder_is_refused() -> None:
    plan = replace(made(), files={"../x": ListedFile(1, SHA)}, selection=("../x",))
    with pytest.raises(UnsafePathError):
        JobPlan.from_json(plan.to_json())


def test_a_plan_shows_no_endpoint_which_may_hold_a_password() -> None:
    assert "s3cret" not in repr(made(endpoint="http://user:s3cret@hub"))


@pytest.mark.parametrize(
    ("total", "nodes", "expected"),
    [
        pytest.param(0, 8, MiB, id="nothing"),
        pytest.param(96 * MiB, 6, MiB, id="as many as can be"),
        pytest.param(96 * 4 * MiB, 6, 4 * MiB, id="sixteen for each"),
        pytest.param(10**12, 64, 16 * MiB, id="no more than that"),
        pytest.param(300 * MiB, 3, 4 * MiB, id="a power of two"),
    ],
)
def test_stripes_are_as_long_as_leaves_each_node_some(total: int, nodes: int, expected: int) -> None:
    assert default_stripe_bytes(total, nodes) == expected


def test_the_hub_is_asked_once_for_the_files_of_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Pages(
        response(
            body=[
                item("x.bin", lfs={"oid": SHA256, "size": 9 * MiB, "pointerSize": 1}, xetHash=XET),
                item("y.bin", lfs={"oid": OTHER, "size": 3, "pointerSize": 1}),
                item("z.txt"),
            ]
        )
    )
    monkeypatch.setattr(listing, "_get", pages)
    plan = make_plan(
        "org/name",
        nodes=["a", "b"],
        revision=SHA,
        allow_patterns="*.bin",
        endpoint=ENDPOINT,
        token=False,
        job_id="job-7",
    )
    assert len(pages.asked) == 1
    assert plan == JobPlan(
        job_id="job-7",
        endpoint=ENDPOINT,
        repo_type="model",
        repo_id="org/name",
        revision=SHA,
        commit=SHA,
        files={
            "x.bin": ListedFile(7, SHA, SHA256, 9 * MiB, XET),
            "y.bin": ListedFile(7, SHA, OTHER, 3),
            "z.txt": ListedFile(7, SHA),
        },
        selection=("x.bin", "y.bin"),
        stripe_bytes=MiB,
        nodes=("a", "b"),
    )
