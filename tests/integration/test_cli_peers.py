"""``hf-haul download --peers``, as several machines run it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.hub import hub_environment, sent_of_files
from tests.support.repos import random_bytes
from tests.support.waits import until

from hf_haul.config import KiB, MiB
from hf_haul.localhub import Account, LocalHub, Repo

FILES = {
    "model.safetensors": random_bytes(9 * MiB + 5, 1),
    "config.json": b"{}",
    "empty.txt": b"",
}
SIZE = sum(map(len, FILES.values()))
BOUND = 90.0


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in held]
    for sock in held:
        sock.close()
    return ports


class Machines:
    """A hub, and what several machines run; each has a home of its own."""

    def __init__(self, hub: LocalHub, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self.ports = free_ports(4)
        self.peers = ",".join(f"http://127.0.0.1:{port}" for port in self.ports[:3])
        self.running: list[subprocess.Popen[str]] = []

    def start(
        self, number: int, *options: str, peers: str | None = None, repo: str = "org/m", **environ: str
    ) -> subprocess.Popen[str]:
        argv = [sys.executable, "-W", "error", "-m", "hf_haul.cli", "download", repo]
        argv += ["--peers", peers or self.peers, "--listen", f"127.0.0.1:{self.ports[number]}"]
        env = {**hub_environment(self.hub, self.folder / f"home{number}"), **environ}
        made = subprocess.Popen(
            [*argv, *options], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.running.append(made)
        return made

    def sent(self) -> int:
        return sent_of_files(self.hub)

    def asked(self, kind: str) -> int:
        return len(self.hub.requests.of(kind))


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    repo = Repo("org/m")
    repo.commit(FILES)
    with LocalHub(repo) as hub:
        hub.set_pace(None, total=8.0 * MiB)
        made = Machines(hub, tmp_path)
        try:
            yield made
        finally:
            for process in made.running:
                process.kill()
                process.communicate()


def end(*processes: subprocess.Popen[str]) -> list[tuple[str, str]]:
    printed = [process.communicate(timeout=BOUND) for process in processes]
    for process, (_, err) in zip(processes, printed, strict=True):
        assert process.returncode == 0, err
    return printed


def is_whole(folder: str) -> bool:
    return all(Path(folder, path).read_bytes() == data for path, data in FILES.items())


def test_the_same_command_on_three_machines_fetches_once(machines: Machines) -> None:
    processes = [machines.start(number, "--json") for number in range(3)]
    results = [json.loads(out) for out, _ in end(*processes)]
    for result in results:
        assert is_whole(result["path"])
        assert result["bytes_fetched"] + result["bytes_reused"] >= SIZE
        assert (
            any(source == machines.hub.url for source in result["bytes_by_source"])
            or result["bytes_by_source"]
        )
    # Those that begin a moment before others may have fetched a little of theirs.
    assert machines.sent() <= 1.4 * SIZE
    assert machines.asked("tree") == 1  # one of them has listed the repository
    before = machines.sent()
    again = [machines.start(number, "-q") for number in range(3)]
    assert all(is_whole(out.strip()) and err == "" for out, err in end(*again))
    assert machines.sent() == before


def test_a_machine_that_is_not_listed_joins_and_asks_the_hub_for_nothing(machines: Machines) -> None:
    # The third of the list never comes: so the two others wait for it, and are there for whoever joins.
    first, second = machines.start(0), machines.start(1)
    assert until(lambda: machines.sent() >= SIZE, BOUND)
    before = machines.sent()
    late = machines.start(3, "--json", "--linger", "0")
    result = json.loads(end(late)[0][0])
    assert is_whole(result["path"])
    assert machines.sent() - before <= 0.4 * SIZE  # that which the first two were fetching at that moment
    assert machines.hub.url not in result["bytes_by_source"]
    for process in (first, second):
        assert process.poll() is None  # they go on to give
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143


def test_linger_is_for_as_long_as_it_says(machines: Machines) -> None:
    began = time.monotonic()
    out, err = end(machines.start(0, "--linger", "1"))[0]
    assert is_whole(out.strip())
    assert time.monotonic() - began < 60
    others = ", ".join(f"127.0.0.1:{port}" for port in machines.ports[1:3])
    assert f"all files are here; giving to others until they are done, too: {others}" in err


def test_a_machine_that_was_started_for_something_else_says_so(machines: Machines) -> None:
    other = Repo("org/other")
    other.commit({"a.bin": b"a" * 1000})
    machines.hub.add(other)
    first = machines.start(0, "--linger", "60")
    assert until(lambda: machines.asked("tree") == 1, BOUND)
    wrong = machines.start(1, repo="org/other")
    _, err = wrong.communicate(timeout=BOUND)
    assert wrong.returncode == 2
    said = "is no node of this job: it works on models/org/m@main, and not on models/org/other@main"
    assert f"127.0.0.1:{machines.ports[0]} {said}" in err
    assert first.poll() is None


def test_a_machine_with_another_token_is_refused_and_says_so(machines: Machines, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("r1ght\n")
    machines.start(0, "--peers-token-file", str(tmp_path / "token"))
    assert until(lambda: machines.asked("tree") == 1, BOUND)
    wrong = machines.start(1, HF_HAUL_PEERS_TOKEN="wr0ng")
    out, err = wrong.communicate(timeout=BOUND)
    assert (wrong.returncode, out) == (2, "")
    assert "it refuses this node's token" in err
    assert "HF_HAUL_PEERS_TOKEN" in err
    assert "wr0ng" not in err
    right = machines.start(1, "--linger", "0", HF_HAUL_PEERS_TOKEN="r1ght")
    assert is_whole(end(right)[0][0].strip())


def test_the_hubs_token_goes_to_the_hub_and_the_jobs_to_nodes(tmp_path: Path) -> None:
    repo = Repo("org/m", private=True)
    repo.commit(FILES)
    with LocalHub(repo, accounts=[Account("ann", "hf_ann", repos=("*",))]) as hub:
        machines = Machines(hub, tmp_path)
        peers = ",".join(f"http://127.0.0.1:{port}" for port in machines.ports[:2])
        tokens = {"HF_TOKEN": "hf_ann", "HF_HAUL_PEERS_TOKEN": "j0b"}
        try:
            end(*(machines.start(number, peers=peers, **tokens) for number in range(2)))
            assert {record.token for record in hub.requests} <= {None, "Bearer hf_ann"}
        finally:
            for process in machines.running:
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_within_a_second_when_it_is_told_to(machines: Machines, number: signal.Signals) -> None:
    machines.hub.set_pace(None, total=200.0 * KiB)
    process = machines.start(0, "--progress", "json")
    assert until(lambda: machines.hub.body_bytes > 100 * KiB, BOUND)
    began = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=BOUND)
    assert time.monotonic() - began < 3.0  # one, and what a busy machine adds
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]


def test_a_port_that_is_taken_is_said_before_anything_is_asked(machines: Machines) -> None:
    with socket.create_server(("127.0.0.1", machines.ports[0])):
        process = machines.start(0)
        _, err = process.communicate(timeout=BOUND)
    assert process.returncode == 2
    assert f"--listen 127.0.0.1:{machines.ports[0]}" in err
    assert len(machines.hub.requests) == 0


def listening_on(pid: int) -> set[str]:
    """The addresses that a process listens on."""
    inodes = {
        os.readlink(link).removeprefix("socket:[").removesuffix("]")
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if os.readlink(link).startswith("socket:[")
    }
    found: set[str] = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields: Sequence[Any] = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            address, port = fields[1].split(":")
            found.add(f"{socket.inet_ntoa(bytes.fromhex(address)[::-1])}:{int(port, 16)}")
    for line in Path(f"/proc/{pid}/net/tcp6").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            found.add(f"[{fields[1]}]")
    return found


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="only Linux tells who listens")
def test_nothing_listens_but_where_it_was_asked_to(machines: Machines) -> None:
    process = machines.start(0, "--linger", "30")
    assert until(lambda: machines.sent() >= SIZE, BOUND)
    assert listening_on(process.pid) == {f"127.0.0.1:{machines.ports[0]}"}
