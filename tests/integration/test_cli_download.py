"""``hf-haul download`` as a process of its own: what it prints for programs, and what it says of names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.hub import ServedRepo, hub_environment, serve_repo
from tests.support.repos import contents

from hf_haul.localhub.testing.faults import Corrupt, Stall, Status

COMMAND = [sys.executable, "-W", "error", "-m", "hf_haul.cli", "download"]


def _run(env: dict[str, str], *args: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        env=env,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The object on stdout, which has nothing beside it."""
    line, end = done.stdout.split("\n")
    assert end == ""
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path / "src") as repo:
        yield repo


@pytest.fixture
def env(served: ServedRepo, tmp_path: Path) -> dict[str, str]:
    return hub_environment(served.hub, tmp_path / "home")


def test_json_says_what_came_and_then_that_nothing_had_to(served: ServedRepo, env: dict[str, str]) -> None:
    count = len(served.contents)
    nbytes = sum((served.folder / path).stat().st_size for path in served.contents)
    first = _run(env, "org/tiny", "--json")
    assert (first.returncode, first.stderr) == (0, "")
    found = _result(first)
    assert contents(Path(found["path"])) == served.contents
    assert found.pop("seconds") > 0
    assert found == {
        "path": found["path"],
        "commit": served.repo.head.id,
        "files_fetched": count,
        "files_reused": 0,
        "bytes_fetched": nbytes,
        "bytes_reused": 0,
        "bytes_wasted": 0,
        "bytes_by_source": {served.hub.url: nbytes},
    }
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        again = _result(_run({**env, **more}, "org/tiny", "--format", "json"))
        assert again["path"] == found["path"]
        assert again["commit"] == found["commit"]
        assert (again["files_fetched"], again["bytes_fetched"]) == (0, 0)
        assert (again["files_reused"], again["bytes_reused"]) == (count, nbytes)


def test_json_of_one_file_has_its_path(served: ServedRepo, env: dict[str, str], tmp_path: Path) -> None:
    found = _result(_run(env, "org/tiny", "config.json", "--json", "--local-dir", tmp_path / "out"))
    assert found["path"] == str(tmp_path / "out/config.json")
    assert (found["files_fetched"], found["commit"]) == (1, served.repo.head.id)


def test_json_of_a_dry_run_is_the_plan(served: ServedRepo, env: dict[str, str]) -> None:
    found = _result(_run(env, "org/tiny", "--json", "--dry-run", "config.json", "nested/"))
    wanted = {name for name in served.contents if name == "config.json" or name.startswith("nested/")}
    assert {file["path"] for file in found["files"]} == wanted
    assert {file["state"] for file in found["files"]} == {"absent"}
    assert found["commit"] == served.repo.head.id
    assert contents(Path(env["HF_HOME"])) == {}


def test_json_of_a_failure_has_the_error_and_the_exit_code(env: dict[str, str]) -> None:
    done = _run(env, "org/nobody", "--json")
    assert done.returncode == 3
    found = _result(done)
    assert (found["path"], found["exit_code"], found["files_fetched"]) == (None, 3, 0)
    assert found["error"]["kind"] == "not_found"
    assert found["error"]["message"].startswith("Repository org/nobody does not exist")
    assert done.stderr.startswith(f"hf-haul: error: {found['error']['message']}\n")


def test_a_dry_run_of_an_unknown_repository_says_so(env: dict[str, str]) -> None:
    done = _run(env, "org/nobody", "--dry-run")
    assert done.returncode == 3
    assert done.stderr.startswith("hf-haul: error: Repository org/nobody does not exist")


@pytest.mark.parametrize(
    ("names", "missing", "first", "hint"),
    [
        pytest.param("config.jsn", "config.jsn", "File config.jsn does not exist in repository org/tiny", "config.json", id="alone"),
        pytest.param("config.jsn nope", "config.jsn", "There is no config.jsn, no nope in org/tiny", "config.json", id="among others"),
        pytest.param(
            "config.json also.json", "also.json", "There is no also.json in org/tiny", "nested/one/also.json", id="beside one"
        ),
        pytest.param("config.json nested/won/", "nested/won/", "There is no nested/won/ in org/tiny", "nested/one/", id="a folder"),
    ],
)  # fmt: skip
def test_a_name_that_stands_for_no_file_is_an_error_and_nothing_is_fetched(
    names: str, missing: str, first: str, hint: str, served: ServedRepo, env: dict[str, str]
) -> None:
    done = _run(env, "org/tiny", *names.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[0] == f"hf-haul: error: {first}"
    assert f"  Did you mean {hint}?" in done.stderr.splitlines()
    assert not [
        each for each in served.hub.requests if each.kind in {"resolve", "cdn"} and each.method == "GET"
    ]
    found = _result(_run(env, "org/tiny", *names.split(), "--json"))
    assert (found["error"]["file"], found["exit_code"]) == (missing, 3)


def test_offline_too_a_name_that_stands_for_no_file_is_an_error(env: dict[str, str]) -> None:
    assert _run(env, "org/tiny").returncode == 0
    done = _run({**env, "HF_HUB_OFFLINE": "1"}, "org/tiny", "config.json", "config.jsn")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "hf-haul: error: There is no config.jsn in the cache, of org/tiny",
        "  Did you mean config.json?",
    ]


def test_a_pattern_in_the_place_of_a_file_is_told_how_to_be_written(env: dict[str, str]) -> None:
    done = _run(env, "org/tiny", "*.json")
    assert done.returncode == 3
    assert "  A pattern is written so: --include '*.json'" in done.stderr.splitlines()


def test_a_hub_that_limits_requests_is_waited_for_and_said(served: ServedRepo, env: dict[str, str]) -> None:
    limit = served.hub.faults.add(Status(429, retry_after=0.5), kind="info", times=1)
    done = _run(env, "org/tiny", "--json", "--progress", "json")
    assert done.returncode == 0, done.stderr
    assert limit.wait(0), "it was met"
    assert contents(Path(_result(done)["path"])) == served.contents
    events = [json.loads(line) for line in done.stderr.splitlines()]
    waits = [event for event in events if event["ev"] == "wait"]
    assert [wait["reason"] for wait in waits] == ["rate_limit"]
    assert [event["ev"] for event in events if event["ev"] in {"plan", "done"}] == ["plan", "done"]


def test_without_retries_a_stall_ends_it_and_the_next_call_goes_on(
    served: ServedRepo, env: dict[str, str]
) -> None:
    name = "model-00001-of-00002.safetensors"
    served.hub.faults.add(Stall(after=100_000), kind="cdn", path=name, times=None)
    done = _run(env, "org/tiny", name, "--timeout", "1", "--retries", "0", "--json")
    assert done.returncode == 5, done.stderr
    found = _result(done)
    assert found["error"]["kind"] == "network"
    assert "no byte for 1 s" in found["error"]["message"]
    assert "gave up after 1 attempt" in str(found["error"]["details"])
    served.hub.faults.clear()
    again = _result(_run(env, "org/tiny", name, "--json"))
    assert again["bytes_reused"] > 0
    assert again["bytes_reused"] + again["bytes_fetched"] == (served.folder / name).stat().st_size


def test_no_verify_lets_wrong_bytes_pass_and_says_so(served: ServedRepo, env: dict[str, str]) -> None:
    name = "model-00001-of-00002.safetensors"
    served.hub.faults.add(Corrupt(1000), kind="cdn", path=name, times=None)
    refused = _run(env, "org/tiny", name, "--json")
    assert refused.returncode == 7
    assert _result(refused)["error"]["kind"] == "integrity"
    done = _run(env, "org/tiny", name, "--no-verify")
    assert done.returncode == 0, done.stderr
    assert "digests are not checked" in done.stderr
