"""What ``hf-haul plan`` asks of the library, and what it shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hf_haul.cli import command as cli
from hf_haul.cli.plan import format_seconds
from hf_haul.hub import planning
from hf_haul.hub.download_plan import DownloadPlan, FilePlan

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = (
    FilePlan("config.json", 1234, "absent", "HIGH", 0, 1234, 2),
    FilePlan("m.bin", 5_000_000_000, "partial", "LOW", 2_000_000_000, 3_000_000_000, 50, "process 7 on host"),
    FilePlan("unsized", None, "absent", "NORMAL", 0, None, 2),
    FilePlan("there.txt", 10, "present", "HIGH", 10, 0),
)


def _found(**changes: Any) -> DownloadPlan:
    values: dict[str, Any] = {
        "repo_id": "org/m",
        "repo_type": "model",
        "revision": "main",
        "commit": COMMIT,
        "path": "/cache/it",
        "files": FILES,
        "bytes_total": 5_000_001_244,
        "bytes_here": 2_000_000_010,
        "bytes_to_fetch": 3_000_001_234,
        "requests": 56,
        "disk_needed": 3_000_001_234,
        "disk_free": 10_000_000_000,
        "unknown_sizes": 1,
        **changes,
    }
    return DownloadPlan(**values)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the library was asked; it answers with ``asked["plan"]``."""
    asked: dict[str, Any] = {"plan": _found()}

    def fake(repo_id: str, **options: Any) -> DownloadPlan:
        asked.update(repo_id=repo_id, options={k: v for k, v in options.items() if v not in (None, False)})
        return asked["plan"]  # type: ignore[no-any-return]

    monkeypatch.setattr(planning, "plan", fake)
    return asked


def test_the_library_is_asked_what_the_line_says(asked: dict[str, Any]) -> None:
    line = (
        "plan datasets/org/m config.json --revision v1 --local-dir d --at 100MB/s --preset safetensors --token t "
        "--force-download --max-bandwidth 5MB/s --max-connections 3"
    )
    assert cli.main(line.split()) == 0
    assert asked["repo_id"] == "org/m"
    assert asked["options"] == {
        "repo_type": "dataset",
        "revision": "v1",
        "local_dir": "d",
        "allow_patterns": ["config.json"],
        "named": ["config.json"],
        "presets": ["safetensors"],
        "token": "t",
        "force_download": True,
        "rate": 100_000_000,
        "max_bandwidth": 5_000_000,
        "max_connections": 3,
    }


def test_what_is_to_be_fetched_is_shown_in_order(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["plan"] = _found(rate=100e6, seconds=30.00001234)
    assert cli.main(["plan", "org/m"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "fetch   HIGH      1.2 kB  config.json",
        "resume  LOW       5.0 GB  m.bin  (2.0 GB are here; process 7 on host is fetching it)",
        "fetch   NORMAL         ?  unsized",
        "org/m at 01234567 into /cache/it:",
        "  4 files, 5.0 GB; 2.0 GB are here",
        "  to fetch: 3 files, 3.0 GB, and 1 of unknown size, in about 56 requests",
        "  disk: 3.0 GB needed; 10.0 GB are free",
        "  at 100.0 MB/s: 30 s",
    ]
    cli.main(["plan", "org/m", "-v"])
    assert "present HIGH        10 B  there.txt" in capsys.readouterr().out.splitlines()


def test_json_is_all_of_stdout(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "org/m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(_found().as_dict()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"disk_free": 1_000_001_234}, ["warning: it does not fit: 2.0 GB are missing"]),
        ({"disk_free": None}, []),
        (
            {"asked_hub": False, "hub_error": "it is busy"},
            ["warning: this is by the listing that was kept, for the Hub could not be asked: it is busy"],
        ),
        ({"files": ()}, ["no file matches"]),
    ],
)
def test_what_is_the_matter_is_said(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: list[str]
) -> None:
    asked["plan"] = _found(**changes)
    cli.main(["plan", "org/m"])
    assert capsys.readouterr().err.splitlines() == [f"hf-haul: {line}" for line in said]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59, "59 s"),
        (61, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (3660, "1 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_times_are_told_in_two_units(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
