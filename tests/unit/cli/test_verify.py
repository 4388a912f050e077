"""What ``hf-haul verify`` asks of the library, and what it shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hf_haul.cli import command as cli
from hf_haul.cli.verify_display import VerifyDisplay, line_of
from hf_haul.hub import verification
from hf_haul.hub.verify_report import CheckedFile, VerifyProgress, VerifyReport

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OK = CheckedFile("a.txt", "ok", "/c/a.txt", size=5, known_from="listing")
WRONG = CheckedFile("b.bin", "wrong", "/c/b.bin", fault="size", size=3, expected_size=4, known_from="etag")


def _report(*files: CheckedFile, **more: Any) -> VerifyReport:
    values: dict[str, Any] = {
        "path": "/c",
        "repo_id": "org/m",
        "repo_type": "model",
        "revision": None,
        "commits": (COMMIT,),
        "files": files,
        "bytes_read": 2_500_000,
        "read_seconds": 0.5,
        "seconds": 9.0,
        **more,
    }
    return VerifyReport(**values)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the library was asked; it answers with ``asked["report"]``."""
    asked: dict[str, Any] = {"report": _report(OK)}

    def fake(target: str, **options: Any) -> VerifyReport:
        asked.update(target=target, options={k: v for k, v in options.items() if v not in (None, False)})
        for file in asked["report"].files:
            options["on_file"](file)
        return asked["report"]  # type: ignore[no-any-return]

    monkeypatch.setattr(verification, "verify", fake)
    return asked


@pytest.mark.parametrize(
    ("line", "target", "options"),
    [
        pytest.param("org/m", "org/m", {}, id="a repository"),
        pytest.param("datasets/org/d --revision v1", "org/d", {"repo_type": "dataset", "revision": "v1"}, id="a dataset"),
        pytest.param("./here --hub --partial", "./here", {"ask_hub": True, "partial": True}, id="a folder"),
        pytest.param(
            "org/m --repair --max-bandwidth 5MB/s --max-connections 3 --max-workers 2 --token t --local-dir d",
            "org/m",
            {"repair": True, "max_bandwidth": 5_000_000, "max_connections": 3, "max_workers": 2, "token": "t", "local_dir": "d"},
            id="a repair",
        ),
        pytest.param(
            "org/m --include *.txt --exclude b* --preset no-weights --cache-dir c",
            "org/m",
            {"allow_patterns": ["*.txt"], "ignore_patterns": ["b*"], "presets": ["no-weights"], "cache_dir": "c"},
            id="some of its files",
        ),
    ],
)  # fmt: skip
def test_the_library_is_asked_what_the_line_says(
    asked: dict[str, Any], line: str, target: str, options: dict[str, Any]
) -> None:
    assert cli.main(["verify", *line.split()]) == 0
    for name in ("on_file", "on_progress", "on_event"):
        asked["options"].pop(name, None)
    assert (asked["target"], asked["options"]) == (target, options)


def test_faults_are_printed_as_they_come_and_the_rest_in_one_line(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["report"] = _report(OK, WRONG)
    assert cli.main(["verify", "org/m"]) == 7
    assert capsys.readouterr().out.splitlines() == [
        "wrong     b.bin: it has 3 bytes and should have 4",
        (
            "2 files of org/m at 01234567: 1 ok, 1 wrong; read 2.5 MB in 0.5 s (5.0 MB/s), "
            "by the listing that was kept"
        ),
    ]


def test_json_is_all_of_stdout(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    asked["report"] = _report(OK, WRONG)
    assert cli.main(["verify", "org/m", "--json"]) == 7
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(asked["report"].as_dict()))


@pytest.mark.parametrize(
    ("report", "advice"),
    [
        pytest.param(_report(OK), [], id="nothing"),
        pytest.param(
            _report(WRONG), ["the same command with --repair fetches what is wrong or missing"], id="a repair"
        ),
        pytest.param(
            _report(WRONG, repo_id=None),
            ["to repair them, name the repository: hf-haul verify REPO --local-dir /c --repair"],
            id="a repair of an unknown repository",
        ),
        pytest.param(
            _report(CheckedFile("c", "missing", "/c/c", fault="absent")),
            [
                "the same command with --repair fetches what is wrong or missing",
                "with --partial, files that were never downloaded are not reported",
            ],
            id="missing",
        ),
        pytest.param(
            _report(OK, CheckedFile("c", "unknown", "/c/c")),
            ["nothing here tells the digest of a file; with --hub the Hub is asked"],
            id="unknown",
        ),
        pytest.param(
            _report(OK, hub_error="no route"),
            ["warning: the Hub could not be asked what the files should be: no route"],
            id="no Hub",
        ),
    ],
)
def test_what_could_be_done_is_said(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], report: VerifyReport, advice: list[str]
) -> None:
    asked["report"] = report
    cli.main(["verify", "org/m"])
    assert capsys.readouterr().err.splitlines() == [f"hf-haul: {line}" for line in advice]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (OK, "ok        a.txt"),
        (CheckedFile("a\n\x1b", "unknown", ""), "unknown   a??"),
        (
            CheckedFile("a", "missing", "", fault="broken-link", repair_error="no route"),
            "missing   a: its link leads to nothing; not repaired: no route",
        ),
        (
            CheckedFile("a", "ok", "", fault="absent", repair="fetched"),
            "repaired  a: it is not there; it was fetched anew",
        ),
        (
            CheckedFile(
                "a", "ok", "", fault="size", size=1, expected_size=2000, repair="completed", bytes_kept=1500
            ),
            "repaired  a: it has 1 bytes and should have 2000; it was completed, 1.5 kB of it kept",
        ),
        (
            CheckedFile("a", "wrong", "", fault="unreadable", detail="Input/output error"),
            "wrong     a: it cannot be read: Input/output error",
        ),
    ],
)
def test_a_file_is_one_line(file: CheckedFile, line: str) -> None:
    assert line_of(file) == line


def test_an_interrupt_says_how_far_it_was_or_that_a_repair_goes_on() -> None:
    display = VerifyDisplay(every=False, silent=True)
    assert display.so_far() == "0 files were checked, none of them wrong or missing"
    display.on_file(OK)
    display.on_file(WRONG)
    assert display.so_far() == "2 files were checked, 1 of them wrong or missing"
    display.on_progress(VerifyProgress("repair", 0, 1, 0, 4, 0.0))
    assert display.so_far() == "what was fetched is kept, and the same command goes on from there"
