"""Which workers become nodes, and what they are called."""

from __future__ import annotations

import pickle
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from hf_haul import __version__
from hf_haul.cluster.census import Census, Facts, Per, Question, Worker, fill_in, probe
from hf_haul.cluster.results import NodeError
from hf_haul.failures import FailureKind, describe


def worker(number: int, host: str = "10.0.0.1") -> Worker:
    return Worker(f"tcp://{host}:{4000 + number}", str(number), host)


def facts(node: str = "a", host: str = "a", boot: str = "1", folder: str = "/cache") -> Facts:
    return Facts(__version__, node, (host, boot), folder)


def names(census: Census) -> list[str]:
    return list(census.nodes.values())


def test_workers_of_one_host_and_cache_are_one_node() -> None:
    census = Census("host")
    assert census.note(worker(1), facts()) == census.note(worker(2), facts())
    assert names(census) == ["a"]


@pytest.mark.parametrize(
    "other", [facts(host="b"), facts(boot="2"), facts(folder="/other")], ids=["host", "boot", "folder"]
)
def test_another_host_boot_or_folder_is_another_node(other: Facts) -> None:
    census = Census("host")
    assert census.note(worker(1), facts()) != census.note(worker(2), other)
    assert names(census) == ["a", "a-2"]


def test_a_worker_that_was_started_again_serves_the_node_that_it_served() -> None:
    census = Census("worker")
    before = census.note(worker(1), facts("a-1", folder="/cache/a-1"))
    again = Worker("tcp://10.0.0.1:9999", "1", "10.0.0.1")
    assert census.note(again, facts("a-1", folder="/cache/a-1")) == before
    assert census.key_of(again.address) == before
    assert names(census) == ["a-1"]


def test_two_nodes_with_one_folder_are_refused() -> None:
    census = Census("worker")
    census.note(worker(1), facts("a-1"))
    with pytest.raises(ValueError, match="Workers 1 and 2 of a have the same folder, /cache"):
        census.note(worker(2), facts("a-2"))
    census.note(worker(3, "10.0.0.2"), facts("b-3", host="b"))  # of another host


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ModuleNotFoundError("No module named 'hf_haul'", name="hf_haul"), "hf-haul is not installed there"),
        (
            ModuleNotFoundError("No module named 'hf_haul.cluster'", name="hf_haul.cluster"),
            "hf-haul there is another version, or incomplete",
        ),
        (
            AttributeError("module 'hf_haul.cluster.census' has no attribute 'probe'"),
            "hf-haul there is another version, or incomplete",
        ),
        (
            RuntimeError("Exception: ModuleNotFoundError(\"No module named 'hf_haul'\")"),
            "hf-haul is not installed there",
        ),
        (ImportError("cannot import name 'x' from 'y'"), "hf-haul there is another version, or incomplete"),
        (replace(facts(), version="0.1.0"), f"hf-haul 0.1.0 is installed there, and {__version__} here"),
        (replace(facts(), missing="aiohttp"), "aiohttp is not installed there"),
        (TimeoutError("nothing came"), "it cannot be asked"),
    ],
    ids=["absent", "older", "other", "absent, told", "broken", "version", "incomplete", "silent"],
)
@pytest.mark.parametrize("per", ["host", "worker"])
def test_a_worker_that_cannot_be_a_node_is_told_in_a_line(
    per: Per, answer: Facts | Exception, said: str
) -> None:
    census = Census(per)
    assert census.note(worker(1), answer) is None
    assert names(census) == []
    ((name, error),) = census.refused.items()
    assert name == ("10.0.0.1" if per == "host" else "10.0.0.1-1")
    assert describe(error).text.startswith(said)


def test_a_worker_that_cannot_is_no_failure_of_a_host_where_another_can() -> None:
    for first, second in (
        (facts(), ImportError("no")),
        (ImportError("no"), facts()),
    ):
        census = Census("host")
        census.note(worker(1), first)
        census.note(worker(2), second)
        assert census.refused == {}
        assert names(census) == ["a"]


def test_a_worker_tells_its_host_and_the_folder_with_its_name_in_it(tmp_path: Path) -> None:
    here = socket.gethostname()
    question = Question("worker", cache_dir=f"{tmp_path}/{{node}}/hub")
    told = pickle.loads(pickle.dumps(probe(question, "tcp://127.0.0.1:1")))
    assert told.version == __version__
    assert told.node == f"{here}-tcp-127.0.0.1-1"  # fit for a folder's name
    assert told.folder == f"{tmp_path.resolve()}/{told.node}/hub"
    assert told.host[0] == here
    assert told.host[1]
    assert probe(Question("host", local_dir="{node}"), "1").folder.endswith(f"/{here}")


@pytest.mark.parametrize(
    "name",
    ["../../etc", "..", "/", "a/../b", "a\0b", "\n", "-rf", "{node}", "ü\udcff", "", "n" * 5000],
    ids=ascii,
)
def test_whatever_a_worker_is_called_its_folder_is_one_below_the_one_that_was_asked_for(
    tmp_path: Path, name: str
) -> None:
    told = probe(Question("worker", cache_dir=f"{tmp_path}/{{node}}"), name)
    assert Path(told.folder).parent == tmp_path.resolve()
    Path(told.folder).mkdir()
    assert told.node.isprintable()
    assert told.node.isascii()


def test_a_worker_whose_folder_is_gone_is_refused_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(NodeError, match="the folder that its worker runs in is gone") as refusal:
        probe(Question("host", cache_dir="here"), "1")
    census = Census("host")
    assert census.note(worker(1), pickle.loads(pickle.dumps(refusal.value))) is None
    assert [describe(error).kind for error in census.refused.values()] == [FailureKind.DISK]


def test_long_names_that_begin_alike_are_not_the_same() -> None:
    one, two = (probe(Question("worker"), "n" * 500 + end).node for end in "12")
    assert one != two
    assert probe(Question("worker"), "n" * 500 + "1").node == one


def test_only_node_stands_for_something_in_a_folder() -> None:
    assert fill_in("/data/{node}/{x}", "a") == "/data/a/{x}"
    assert fill_in(None, "a") is None
