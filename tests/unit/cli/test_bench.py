"""What ``hf-haul bench`` measures, and what it shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hf_haul.cli import command as cli
from hf_haul.hub import link_test
from hf_haul.hub.link_report import LinkReport, LinkSample
from hf_haul.hub.repository import Repository
from hf_haul.task import RemoteFile

SAMPLES = tuple(LinkSample(1 << at, rate, int(rate), 1.0) for at, rate in enumerate((10e6, 20e6, 40e6)))


def _report(**changes: Any) -> LinkReport:
    values: dict[str, Any] = {
        "url": "https://hub.test/org/m/resolve/main/m.bin",
        "size": 5_000_000_000,
        "first_request_seconds": 0.2121,
        "first_byte_seconds": 0.035,
        "samples": SAMPLES,
        "limit": "connection",
        "best_connections": 4,
        "best_rate": 40e6,
        "stopped": None,
        "bytes": 70_000_000,
        "seconds": 4.0,
        **changes,
    }
    return LinkReport(**values)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was to be measured; the answer is ``asked["report"]``."""
    asked: dict[str, Any] = {"report": _report()}

    def measure(remote: RemoteFile, *, on_sample: Any, **options: Any) -> LinkReport:
        asked.update(remote=remote, options=options)
        for sample in asked["report"].samples:
            on_sample(sample)
        return asked["report"]  # type: ignore[no-any-return]

    def largest(repository: Repository, revision: str | None, path: str | None) -> RemoteFile:
        asked["file"] = (repository.repo_type, repository.repo_id, repository.token, revision, path)
        return RemoteFile(path or "m.bin", "https://hub.test/org/m/resolve/main/m.bin")

    monkeypatch.setattr(link_test, "measure_link", measure)
    monkeypatch.setattr(link_test, "largest_file", largest)
    return asked


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("", ("model", "openai-community/gpt2", None, None, None)),
        ("org/m", ("model", "org/m", None, None, None)),
        ("datasets/org/d a.bin --revision v1 --token t", ("dataset", "org/d", "t", "v1", "a.bin")),
        ("hf://org/m@v1/a.bin", ("model", "org/m", None, "v1", "a.bin")),
    ],
)
def test_the_file_of_a_repository_is_found(asked: dict[str, Any], line: str, file: tuple[Any, ...]) -> None:
    assert cli.main(["bench", *line.split()]) == 0
    assert asked["file"] == file


def test_bounds_are_handed_on(asked: dict[str, Any]) -> None:
    cli.main(["bench", "org/m"])
    assert asked["options"] == {
        "most_connections": None, "max_bytes": 2_000_000_000, "max_seconds": 30.0, "max_bandwidth": None,
        "events": None,
    }  # fmt: skip
    cli.main(
        [
            "bench",
            "org/m",
            "--max-connections",
            "6",
            "--max-bytes",
            "100MB",
            "--max-seconds",
            "5",
            "--max-bandwidth",
            "9MB/s",
        ]
    )
    assert asked["options"] == {
        "most_connections": 6, "max_bytes": 100_000_000, "max_seconds": 5.0, "max_bandwidth": 9_000_000,
        "events": None,
    }  # fmt: skip


def test_a_url_has_headers_of_its_own(asked: dict[str, Any]) -> None:
    assert cli.main(["bench", "https://host.test/a/b.bin?x=1", "-H", "Authorization: secret"]) == 0
    remote = asked["remote"]
    assert (remote.path, remote.url) == ("b.bin", "https://host.test/a/b.bin?x=1")
    assert remote.headers == {"Authorization": "secret"}


@pytest.mark.parametrize(
    "line",
    [
        "https://host.test/x --revision v1",
        "org/m -H A:b",
        "org/m --max-bytes none",
        "org/m --max-bytes 0",
        "org/m --max-seconds 0",
        "org/m --max-seconds inf",
        "org/m --max-seconds soon",
    ],
)
def test_what_means_nothing_is_refused(asked: dict[str, Any], line: str) -> None:
    try:
        code = cli.main(["bench", *line.split()])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    assert "remote" not in asked


def test_the_result_is_on_stdout_and_each_step_on_stderr(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "org/m"]) == 0
    told = capsys.readouterr()
    steps = ["   1 connection    10.0 MB/s", "  2 connections    20.0 MB/s", "  4 connections    40.0 MB/s"]
    assert told.out.splitlines() == [
        "https://hub.test/org/m/resolve/main/m.bin, 5.0 GB",
        "first byte after 212 ms, and 35 ms over an open connection",
        *steps,
        "best: 4 connections, 40.0 MB/s",
        (
            "each connection brings about the same, and more bring more: the server or the distance limits each of "
            "them"
        ),
        "HF_HAUL_INITIAL_CONNECTIONS=4 has downloads begin with so many; without it they find out",
    ]
    assert told.err.splitlines() == [
        "hf-haul: reading m.bin; what comes is thrown away", *(f"hf-haul: {step}" for step in steps)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"limit": "link"}, "no setting is needed: downloads find that number by themselves"),
        (
            {"limit": "link", "best_connections": 2, "best_rate": 60e6},
            "HF_HAUL_MAX_CONNECTIONS=2 keeps downloads from using more, which is slower here",
        ),
        (
            {"limit": "server", "samples": SAMPLES[:1]},
            "the server asked to wait: it limits, and not the line",
        ),
    ],
)
def test_the_last_line_says_what_to_set(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], changes: dict[str, Any], line: str
) -> None:
    asked["report"] = _report(**changes)
    cli.main(["bench", "org/m"])
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_nothing_measured_is_a_failure_of_the_network(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["report"] = _report(
        samples=(), best_connections=None, best_rate=None, limit="server", stopped="m.bin answered 429",
        first_request_seconds=None, first_byte_seconds=None, size=None,
    )  # fmt: skip
    assert cli.main(["bench", "org/m", "--json"]) == 5
    told = capsys.readouterr()
    assert json.loads(told.out)["samples"] == []
    assert told.err == "hf-haul: it was not measured to its end: m.bin answered 429\n"
