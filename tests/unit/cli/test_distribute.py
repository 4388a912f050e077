"""``hf-haul distribute``: its arguments, its output and its exit codes; without a cluster."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import hf_haul.cluster.dask
from hf_haul.cli import command as cli
from hf_haul.cli.distribute import _shown
from hf_haul.cluster import ControlLostError, Distribution, DistributionError, NodeResult, distributing
from hf_haul.cluster.census import SameFolderError
from hf_haul.errors import ConnectionFailedError, DiskFullError

FOUND = Distribution(
    "org/m", "c" * 40, {"a": NodeResult("/c/a", 5, 6, 7), "b": NodeResult("/c/b", 6, 5, 0)}, 1.5
)
PARTLY = Distribution(
    "org/m",
    "c" * 40,
    {
        "a": NodeResult("/c/a", 5, 6, 7),
        "b": NodeResult(error=DiskFullError("/data is full. Free some")),
        "c": NodeResult(error=ConnectionFailedError("away")),
    },
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``distribute`` is called with; ``result`` is what it returns, or raises."""
    seen: dict[str, Any] = {"result": FOUND}

    @contextmanager
    def joined(address: str) -> Iterator[str]:
        seen["address"] = address
        yield "a client"

    def distribute(client: str, repo_id: str, **options: Any) -> Distribution:
        seen.update(client=client, repo_id=repo_id, **options)
        if isinstance(seen["result"], Exception):
            raise seen["result"]
        found: Distribution = seen["result"]
        return found

    monkeypatch.setattr(hf_haul.cluster.dask, "joined", joined)
    monkeypatch.setattr(distributing, "distribute", distribute)
    return seen


def run(line: str) -> int:
    return cli.main(["distribute", *line.split(), "--scheduler", "tcp://s:8786"])


def test_each_node_is_a_line_with_its_folder(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("org/m") == 0
    assert capsys.readouterr().out == "a\t/c/a\nb\t/c/b\n"
    assert (asked["address"], asked["client"], asked["repo_id"]) == ("tcp://s:8786", "a client", "org/m")
    assert (asked["per"], asked["token"], asked["worker_timeout"]) == ("host", None, 30.0)


def test_what_is_asked_for_is_passed_on(asked: dict[str, Any]) -> None:
    assert run(
        "datasets/org/d@v1 train/ --per worker --local-dir /x/{node} --max-bandwidth 10MB/s --send-token "
        "--worker-timeout 5 -q"
    ) == 0  # fmt: skip
    assert (asked["repo_id"], asked["repo_type"], asked["revision"]) == ("org/d", "dataset", "v1")
    assert (asked["named"], asked["allow_patterns"]) == (["train/"], ["train/**"])
    assert (asked["per"], asked["local_dir"], asked["max_bandwidth"]) == ("worker", "/x/{node}", 10_000_000)
    assert (asked["token"], asked["worker_timeout"]) == (True, 5.0)


def test_a_failed_node_is_told_and_the_first_ones_exit_code_counts(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["result"] = PARTLY
    assert run("org/m --progress none") == 6
    said = capsys.readouterr()
    assert said.out == "a\t/c/a\n"
    assert said.err.splitlines() == [
        "hf-haul: error: b: /data is full",
        "  Free some",
        "hf-haul: error: c: away",
        "  Run it again a little later: it goes on from what is there",
        "hf-haul: 2 of 3 nodes failed: b, c",
    ]


def test_a_program_gets_one_object(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("org/m --json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["commit"], told["origin_bytes"], told["nodes"]["b"]["path"]) == ("c" * 40, 11, "/c/b")
    assert "exit_code" not in told
    asked["result"] = PARTLY
    assert run("org/m --json") == 6
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 6
    assert told["nodes"]["c"]["error"]["kind"] == "network"
    assert told["nodes"]["c"]["exit_code"] == 5


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ControlLostError("no Dask scheduler can be reached at tcp://s:8786"), 5, "no Dask scheduler"),
        (DistributionError.of({"b": DiskFullError("no room")}, 2), 6, "1 of 2 nodes failed"),
        (DistributionError("the scheduler has no workers. Start some"), 1, "the scheduler has no workers"),
        (SameFolderError("Workers 1 and 2 of a have the same folder"), 2, "Workers 1 and 2"),
    ],
)
def test_what_fails_as_a_whole_is_told_once(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], error: Exception, code: int, said: str
) -> None:
    asked["result"] = error
    assert run("org/m --progress none") == code
    assert capsys.readouterr().err.startswith(f"hf-haul: error: {said}")
    assert run("org/m --json") == code
    assert json.loads(capsys.readouterr().out)["exit_code"] == code


@pytest.mark.parametrize(
    "line",
    [
        "org/m --local-dir a --cache-dir b",
        "org/m --token hf_x --send-token",
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(asked: dict[str, Any], line: str) -> None:
    assert run(line) == 2
    assert "repo_id" not in asked


@pytest.mark.parametrize(
    "line", ["org/m", "org/m --scheduler a --ray", "org/m --scheduler a --worker-timeout -1"]
)
def test_one_cluster_is_needed(line: str) -> None:
    with pytest.raises(SystemExit) as over:
        cli.main(["distribute", *line.split()])
    assert over.value.code == 2


@pytest.mark.parametrize(("mode", "shown"), [("plain", ["of all"]), ("json", ["of all", "of one"])])
def test_people_are_shown_what_is_told_of_all_nodes_together_and_programs_all(
    mode: str, shown: list[str]
) -> None:
    told: list[str] = []
    show = _shown(argparse.Namespace(on_event=lambda event: told.append(event["message"]), shown_as=mode))
    assert show is not None
    show({"message": "of all"})
    show({"message": "of one", "node": "a"})
    assert told == shown
    assert _shown(argparse.Namespace(on_event=None, shown_as="none")) is None


def test_without_dask_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def joined(address: str) -> Iterator[str]:
        raise ModuleNotFoundError("No module named 'distributed'", name="distributed")
        yield address

    monkeypatch.setattr(hf_haul.cluster.dask, "joined", joined)
    assert run("org/m --progress none") == 2
    assert 'pip install "hf-haul[dask]"' in capsys.readouterr().err
