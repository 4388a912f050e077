"""``hf-haul serve --upstream`` as a process: what it prints, and what is left when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from tests.support.hub import hub_environment

from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.faults import Stall

MIB = 1 << 20
WEIGHTS = bytes(range(256)) * (16 * MIB // 256)


@pytest.fixture
def upstream() -> Iterator[LocalHub]:
    repo = Repo("org/m")
    repo.commit({"model.safetensors": WEIGHTS})
    with LocalHub(repo) as hub:
        yield hub


@contextmanager
def running(upstream: LocalHub, home: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and its address."""
    argv = [
        sys.executable,
        "-m",
        "hf_haul.cli",
        "serve",
        str(home / "hub"),
        "--port",
        "0",
        "--upstream",
        upstream.url,
    ]
    env = {**hub_environment(upstream, home), "XDG_CACHE_HOME": str(home)}
    with subprocess.Popen(
        [*argv, *options], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_killed_server_goes_on_where_it_was(upstream: LocalHub, tmp_path: Path) -> None:
    stall = upstream.faults.add(Stall(after=3 * MIB), kind="cdn", times=None)
    with running(upstream, tmp_path) as (process, url):
        file = f"{url}/org/m/resolve/main/model.safetensors"
        with requests.get(file, stream=True, timeout=30) as answer:
            assert answer.raw.read(2 * MIB) == WEIGHTS[: 2 * MIB]
            assert stall.wait()
            process.kill()
            process.wait(10)
    upstream.faults.clear()
    upstream.faults.release()
    assert upstream.requests.settle()
    upstream.requests.clear()
    with running(upstream, tmp_path) as (_, url):
        assert requests.get(f"{url}/org/m/resolve/main/model.safetensors", timeout=60).content == WEIGHTS
    asked = [each.range for each in upstream.requests.of("cdn")]
    assert asked
    assert all(not each.startswith("bytes=0-") and each for each in asked)  # what it had is not fetched again


@pytest.mark.skipif(os.name == "nt", reason="a program is ended otherwise there")
def test_it_says_where_it_is_and_ends_when_it_is_told_to(upstream: LocalHub, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with running(upstream, tmp_path, "--access-log", str(log)) as (process, url):
        assert requests.get(f"{url}/health", timeout=30).json()["status"] == "ok"
        assert requests.get(f"{url}/org/m/resolve/main/model.safetensors", timeout=30).content == WEIGHTS
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        said = process.stderr.read()
    assert f"what is absent is fetched from {upstream.url}" in said
    assert f"{url}/metrics" in said
    assert "Traceback" not in said
    assert len(log.read_text().splitlines()) == 2
    assert list(tmp_path.glob("hf-haul/fetched-*.json"))
