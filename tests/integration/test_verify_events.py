"""What ``verify``, ``plan`` and ``bench`` tell while they work: bytes, files, and what they wait for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.events import EventLog, validate_event
from tests.support.hub import ServedRepo, hub_environment, serve_repo

from hf_haul.hub.planning import plan
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.hub.verification import verify
from hf_haul.localhub.testing.faults import Status

LARGE = "model-00001-of-00002.safetensors"
SMALL = "config.json"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path / "source") as served:
        yield served


@pytest.fixture
def options(served: ServedRepo, tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": str(tmp_path / "cache"), "endpoint": served.hub.url}


def _checked(log: EventLog) -> list[dict[str, Any]]:
    for event in log.events:
        validate_event(event)
    assert len(log.threads) == 1
    return log.events


def test_a_check_tells_its_plan_how_far_it_is_each_file_and_its_end(
    served: ServedRepo, options: dict[str, Any]
) -> None:
    folder = Path(snapshot_download("org/tiny", **options))
    log = EventLog()
    report = verify("org/tiny", **options, on_event=log)
    events = _checked(log)
    assert {event["phase"] for event in events} == {"check"}
    assert (log.kinds[0], log.kinds[-1]) == ("plan", "done")
    nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert (log.one("plan")["bytes"], log.of("progress")[-1]["done"]) == (nbytes, nbytes)
    assert {event["path"] for event in log.of("verified")} == set(served.contents)
    assert (log.one("done")["read"], log.one("done")["files_reused"]) == (nbytes, len(report.files))


def test_faults_are_told_and_so_is_the_repair_of_them_with_its_own_numbers(
    served: ServedRepo, options: dict[str, Any]
) -> None:
    folder = Path(snapshot_download("org/tiny", **options))
    large, small = (folder / LARGE).resolve(), (folder / SMALL).resolve()
    size = large.stat().st_size
    large.write_bytes(bytes(size))
    small.write_bytes(b"short")
    log = EventLog()
    verify("org/tiny", **options, on_event=log)
    assert log.one("done")["files_failed"] == 2
    assert log.files() == [("failed", SMALL), ("failed", LARGE)]
    log = EventLog()
    verify("org/tiny", **options, repair=True, on_event=log)
    events = _checked(log)
    repairing = [event for event in events if event["phase"] == "repair"]
    assert [event["phase"] for event in events].count("check") == events.index(repairing[0])
    first, last = (
        next(each for each in repairing if each["ev"] == "plan"),
        repairing[-1],
    )
    assert first["files"] == 2
    assert [each["done"] for each in repairing if each["ev"] == "progress"][-1] == first["bytes"]
    assert sorted(each["path"] for each in repairing if each["ev"] == "verified") == [SMALL, LARGE]
    assert (last["ev"], last["files_fetched"], last["files_failed"]) == ("done", 2, 0)
    assert last["fetched"] >= size


def test_what_a_check_a_repair_and_a_plan_wait_for_is_told(
    served: ServedRepo, options: dict[str, Any]
) -> None:
    folder = Path(snapshot_download("org/tiny", **options))
    (folder / LARGE).resolve().write_bytes(b"short")
    served.hub.faults.add(Status(429, retry_after=1), kind="cdn", times=1)
    log = EventLog()
    verify("org/tiny", **options, repair=True, on_event=log)
    _checked(log)
    assert {event["reason"] for event in log.of("wait")} == {"rate_limit"}
    served.hub.faults.add(Status(503, retry_after=1), kind="tree", times=1)
    log = EventLog()
    plan("org/tiny", **{**options, "cache_dir": f"{options['cache_dir']}2"}, on_event=log)
    assert [event["reason"] for event in log.of("wait")] == ["server_busy"]
    assert log.one("plan")["dry_run"]
    assert log.kinds[-1] == "plan"


@pytest.mark.parametrize("command", ["verify", "plan", "bench"])
def test_every_command_that_waits_shows_progress_in_every_way(
    served: ServedRepo, tmp_path: Path, command: str
) -> None:
    env = hub_environment(served.hub, tmp_path / "home", HF_HUB_DISABLE_PROGRESS_BARS="0")
    program = [sys.executable, "-m", "hf_haul.cli"]
    if command == "verify":
        subprocess.run([*program, "download", "org/tiny"], env=env, check=True, capture_output=True)
    more = {"verify": ["--hub"], "plan": [], "bench": ["--max-seconds", "0.5"]}[command]
    for mode in ("json", "plain", "none"):
        served.hub.faults.add(Status(429, retry_after=0.2), kind="tree", times=1)
        done = subprocess.run(
            [*program, command, "org/tiny", *more, "--progress", mode],
            env=env,
            check=False,
            capture_output=True,
            text=True,
        )
        served.hub.faults.clear()
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        if mode == "json":
            events = [json.loads(line) for line in lines]
            for event in events:
                validate_event(event)
            assert "plan" in {event["ev"] for event in events}
            assert [e["reason"] for e in events if e["ev"] == "wait"] == ["rate_limit"]
        elif mode == "plain":
            assert any(line.startswith("hf-haul: wait: ") for line in lines), lines
        else:
            assert not any("wait:" in line for line in lines)
