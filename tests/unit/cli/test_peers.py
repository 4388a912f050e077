"""Which machines share a download, as the command is told, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from hf_haul.cli import command as cli
from hf_haul.cluster import agent as agent_module
from hf_haul.cluster.results import NodeResult
from hf_haul.errors import DiskFullError
from hf_haul.localhub import hosts

PEERS = ["--peers", "http://127.0.0.1:18001,http://127.0.0.1:18002", "--listen", "127.0.0.1:18002"]


class Agent:
    """Stands for an agent; notes how it was made and run."""

    made: ClassVar[dict[str, Any]] = {}
    result = NodeResult("/cache/snapshot")

    def __init__(self, plan: Any, name: str, **options: Any) -> None:
        Agent.made = {"plan": plan, "name": name, **options}

    def start(self) -> str:
        Agent.made["started"] = True
        return "http://127.0.0.1:18002"

    def run(self, members: Any, **options: Any) -> NodeResult:
        Agent.made |= {"members": members, **options}
        options["on_linger"](["a:1", "b:1"])
        return Agent.result

    def close(self) -> None:
        Agent.made["closed"] = True


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> type[Agent]:
    monkeypatch.setattr(agent_module, "NodeAgent", Agent)
    monkeypatch.delenv("HF_HAUL_PEERS_TOKEN", raising=False)
    Agent.made, Agent.result = {}, NodeResult("/cache/snapshot")
    return Agent


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["org/m", *PEERS[:2]], "--peers needs --listen"),
        (["org/m", *PEERS[2:]], "--peers needs --listen"),
        (["org/m", "--peers-max-rate", "5MB/s"], "--peers-max-rate is about --peers"),
        (["org/m", "--peers-token-file", "x"], "--peers-token-file is about --peers"),
        (["-r", "org/m", *PEERS], "-r and -i cannot be used together with --peers"),
        (["org/m", "--dry-run", *PEERS], "--dry-run cannot be used together with --peers"),
        (["org/m", "--force-download", *PEERS], "--force-download cannot be used together"),
        (["org/m", "--source", "http://x", *PEERS], "--source cannot be used together"),
        (["org/m", "--peers", "ftp://a", *PEERS[2:]], "--peers: not the address of a node"),
        (["org/m", *PEERS[:2], "--listen", "nobody.invalid:18001"], "cannot look up nobody.invalid"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(
    agent: type[Agent], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main(["download", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert agent.made == {}


def test_other_machines_need_a_token(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_HAUL_PEERS_TOKEN", raising=False)
    public = ["org/m", "--peers", "http://127.0.0.1:18001", "--listen", "0.0.0.0:18001"]
    assert cli.main(["download", *public]) == 2
    said = capsys.readouterr().err
    assert "nodes that listen on 0.0.0.0 need a token" in said
    assert "--peers-token-file, HF_HAUL_PEERS_TOKEN" in said
    (tmp_path / "token").write_text(" \n")
    assert cli.main(["download", *public, "--peers-token-file", str(tmp_path / "token")]) == 2
    assert "is empty" in capsys.readouterr().err
    (tmp_path / "token").write_text("two words")
    assert cli.main(["download", *public, "--peers-token-file", str(tmp_path / "token")]) == 2
    said = capsys.readouterr().err
    assert "the token cannot be sent" in said
    assert "two words" not in said


def test_the_agent_is_told_what_the_options_say(
    agent: type[Agent],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HF_HAUL_PEERS_TOKEN", "s3cret\n")
    options = [
        "--max-bandwidth",
        "1MB/s",
        "--peers-max-rate",
        "2MB/s",
        "--linger",
        "5",
        "--cache-dir",
        str(tmp_path),
    ]
    assert cli.main(["download", "datasets/org/d@v1", *PEERS, *options, "--include", "*.bin"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "/cache/snapshot\n"
    assert "this is 127.0.0.1:18002 of 2 machines; it listens on http://127.0.0.1:18002" in printed.err
    assert "until they are done, too: a:1, b:1" in printed.err
    made = agent.made
    assert made["name"] == "127.0.0.1:18002"
    assert made["listen"] == ("127.0.0.1", 18002)
    assert made["token"] == "s3cret"
    assert made["max_bytes_per_s"] == 2_000_000
    assert made["settings"].max_bandwidth_bps == 1_000_000
    assert (made["linger"], made["absent_too"], made["cache_dir"]) == (5.0, True, str(tmp_path))
    assert list(made["members"]) == ["127.0.0.1:18001", "127.0.0.1:18002"]
    assert made["plan"].repo_id == "org/d"
    assert made["plan"].job_id.startswith("datasets/org/d@v1 (some files, ")
    assert made["closed"]


def test_an_error_of_this_machine_is_the_commands(
    agent: type[Agent], capsys: pytest.CaptureFixture[str]
) -> None:
    agent.result = NodeResult(error=DiskFullError("No space left for a.bin"))
    assert cli.main(["download", "org/m", *PEERS, "-q"]) == 6
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "No space left for a.bin" in printed.err
    assert "listens" not in printed.err  # it is to be quiet
    assert agent.made["closed"]


def test_who_is_not_in_the_list_is_told_that_it_joins(
    agent: type[Agent], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["download", "org/m", *PEERS[:2], "--listen", "127.0.0.1:18003"]) == 0
    assert "which is not in the list and joins the others" in capsys.readouterr().err
    assert agent.made["name"] == "127.0.0.1:18003"


def test_an_address_that_others_cannot_reach_is_warned_about(
    agent: type[Agent], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "is_loopback", lambda host: host.startswith("127."))
    peers = ["--peers", "http://127.0.0.1:18001,http://10.1.2.3:18001", "--listen", "127.0.0.1:18001"]
    assert cli.main(["download", "org/m", *peers]) == 0
    assert "127.0.0.1 is an address that only this machine can reach" in capsys.readouterr().err


def test_the_path_of_one_file_is_that_of_the_file(
    agent: type[Agent], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["download", "org/m", "sub/a.bin", *PEERS, "-q"]) == 0
    assert capsys.readouterr().out == f"{Path('/cache/snapshot', 'sub', 'a.bin')}\n"
    assert cli.main(["download", "org/m", "sub/", *PEERS, "-q"]) == 0
    assert capsys.readouterr().out == "/cache/snapshot\n"


def test_a_path_is_printed_in_the_format_that_was_asked_for(
    agent: type[Agent], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["download", "org/m", *PEERS, "--format", "agent"]) == 0
    assert capsys.readouterr().out == "path=/cache/snapshot\n"
    assert cli.main(["download", "org/m", *PEERS, "--json"]) == 0
    assert '"path": "/cache/snapshot"' in capsys.readouterr().out
