"""What ``hf-haul download`` asks of the library."""

from __future__ import annotations

import json
from typing import Any

import pytest
from huggingface_hub import DryRunFileInfo

import hf_haul.localhub
import hf_haul.manager
from hf_haul.cli import command as cli
from hf_haul.cli.exit_codes import ExitCode
from hf_haul.cli.signals import EndedBySignal
from hf_haul.config import Settings
from hf_haul.hub import single_file, snapshot_call
from hf_haul.task import DownloadPriority


class _Call:
    """A call that found everything."""

    def run(self) -> str:
        return "/there"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """What the command asked the library for; every call returns a path."""
    seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def note(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = {key: value for key, value in options.items() if value not in (None, False, ())}
        call = given.pop("options", None)
        manager = given.pop("manager", None) if call is None else call.manager
        given.setdefault("priority", None if call is None else call.priority)
        given["settings"] = None if manager is None else manager.settings
        seen.append((name, args, {key: given[key] for key in given if key not in {"tqdm_class", "on_event"}}))

    def fake_snapshot(*args: Any, **options: Any) -> _Call:
        note("snapshot_download", args, options)
        return _Call()

    def fake_file(*args: Any, **options: Any) -> str:
        note("hf_hub_download", args, options)
        return "/there"

    monkeypatch.setattr(snapshot_call, "make_snapshot_call", fake_snapshot)
    monkeypatch.setattr(single_file, "hf_hub_download", fake_file)
    return seen


DEFAULTS = {
    "repo_type": "model",
    "library_name": "hf-haul",
    "library_version": hf_haul.__version__,
    "priority": DownloadPriority.NORMAL,
    "settings": None,
}


@pytest.mark.parametrize(
    ("line", "function", "args", "options"),
    [
        pytest.param("org/m", "snapshot_download", ("org/m",), {}, id="a whole repository"),
        pytest.param("org/m a.json", "hf_hub_download", ("org/m", "a.json"), {}, id="one file"),
        pytest.param(
            "org/m a.json b/c.txt", "snapshot_download", ("org/m",), {"allow_patterns": ["a.json", "b/c.txt"], "named": ("a.json", "b/c.txt")}, id="files"
        ),
        pytest.param("org/m b/", "snapshot_download", ("org/m",), {"allow_patterns": ["b/**"], "named": ("b/",)}, id="a folder"),
        pytest.param(
            "org/m --include *.json --include *.txt --exclude b*",
            "snapshot_download",
            ("org/m",),
            {"allow_patterns": ["*.json", "*.txt"], "ignore_patterns": ["b*"]},
            id="patterns",
        ),
        pytest.param(
            "org/d --repo-type dataset --revision v1 --cache-dir c --force-download --token t "
            "--priority high --preset safetensors --preset no-weights --no-dry-run",
            "snapshot_download",
            ("org/d",),
            {
                "repo_type": "dataset",
                "revision": "v1",
                "cache_dir": "c",
                "force_download": True,
                "token": "t",
                "priority": DownloadPriority.HIGH,
                "presets": ["safetensors", "no-weights"],
            },
            id="every option",
        ),
        pytest.param("org/m --local-dir d", "snapshot_download", ("org/m",), {"local_dir": "d"}, id="a folder of one's own"),
        pytest.param(
            "hf://datasets/org/d@v1/data/",
            "snapshot_download",
            ("org/d",),
            {"repo_type": "dataset", "revision": "v1", "allow_patterns": ["data/**"], "named": ("data/",)},
            id="a URI of a folder",
        ),
        pytest.param(
            "hf://org/m@refs/pr/1/config.json",
            "hf_hub_download",
            ("org/m", "config.json"),
            {"revision": "refs/pr/1"},
            id="a URI of a file",
        ),
        pytest.param(
            "datasets/org/d@v1 --type dataset",
            "snapshot_download",
            ("org/d",),
            {"repo_type": "dataset", "revision": "v1"},
            id="the type before the name, and the revision behind it",
        ),
        pytest.param(
            "org/k --type kernel --dry-run --no-dry-run", "snapshot_download", ("org/k",), {"repo_type": "kernel"}, id="a kernel"
        ),
        pytest.param("hf://spaces/org/s", "snapshot_download", ("org/s",), {"repo_type": "space"}, id="a URI of a space"),
    ],
)  # fmt: skip
def test_download_asks_for_what_was_written(
    line: str,
    function: str,
    args: tuple[str, ...],
    options: dict[str, Any],
    calls: list[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["download", *line.split()]) == 0
    assert calls == [(function, args, {**DEFAULTS, **options})]
    assert capsys.readouterr() == ("/there\n", "")


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("--max-bandwidth 5MB/s", {"max_bandwidth_bps": 5_000_000}),
        ("--max-connections 7", {"max_concurrent_downloads": 7}),
        ("--connections 7", {"max_concurrent_downloads": 7}),
        ("--max-workers 3", {"max_concurrent_files_per_model": 3}),
        ("--retries 0", {"max_retries": 0}),
        ("--timeout 20", {"stall_timeout": 20, "first_byte_timeout": 20}),
        ("--timeout 200", {"stall_timeout": 200, "first_byte_timeout": 200, "give_up_after": 400}),
        ("--timeout 2.5 --give-up-after 3", {"stall_timeout": 2.5, "first_byte_timeout": 2.5, "give_up_after": 3}),
        ("--give-up-after 600", {"give_up_after": 600}),
        ("--no-verify", {"verify": False}),
    ],
)  # fmt: skip
def test_options_become_settings(line: str, changes: dict[str, Any], calls: list[Any]) -> None:
    assert cli.main(["download", "org/m", *line.split()]) == 0
    assert cli.main(["download", "org/m", "a.json", *line.split()]) == 0
    expected = Settings.from_environment().changed(**changes)
    assert [call[2]["settings"] for call in calls] == [expected, expected]


def test_files_that_are_not_verified_are_told_of(
    calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["download", "org/m", "--no-verify"]) == 0
    assert calls
    assert capsys.readouterr().err == (
        "hf-haul: warning: digests are not checked (--no-verify): only sizes tell whether files are right\n"
    )


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ("", "/there\n"),
        ("--format human", "/there\n"),
        ("--format auto", "/there\n"),
        ("--format quiet", "/there\n"),
        ("-q", "/there\n"),
        ("--format agent", "path=/there\n"),
        ("--no-truncate", "/there\n"),
    ],
)
def test_the_format_says_what_stdout_gets(
    options: str, out: str, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["download", "org/m", *options.split()]) == 0
    assert calls
    assert capsys.readouterr() == (out, "")


@pytest.mark.parametrize("options", ["--json", "--format json", "--format json -q", "-q --json"])
def test_json_is_one_object(options: str, calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["download", "org/m", *options.split()]) == 0
    assert calls
    out, err = capsys.readouterr()
    assert json.loads(out)["path"] == "/there"
    assert (out.count("\n"), err) == (1, "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(
            "org/m --timeout 9 --give-up-after 8",
            "--give-up-after 8 is less than --timeout 9",
            id="two times",
        ),
        pytest.param(
            "datasets/org/m --type space", "is a dataset, and --repo-type says space", id="two types"
        ),
        pytest.param("org/m --local-dir a --cache-dir b", "cannot be used together", id="two places"),
        pytest.param("org/m b/ --include *.json", "cannot be combined", id="folder and patterns"),
        pytest.param("hf://org/m --revision v1", "cannot be used with an hf:// URI", id="two revisions"),
        pytest.param("hf://org/m/a.json b.json", "names a file already", id="two ways to name files"),
        pytest.param("hf://buckets/org/b", "buckets are not repositories", id="a bucket"),
    ],
)
def test_a_contradiction_is_an_error(
    line: str, message: str, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["download", *line.split()]) == 2
    assert calls == []
    assert message in capsys.readouterr().err


def test_a_contradiction_is_told_in_json_too(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["download", "hf://org/m", "--revision", "v1", "--json"]) == 2
    assert calls == []
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["exit_code"]) == (None, 2)
    assert found["error"]["kind"] == "usage"
    assert "cannot be used with an hf:// URI" in found["error"]["message"]


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (EndedBySignal(ExitCode.TERMINATED), 143)]
)
def test_an_interrupt_is_told_in_json_too(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(snapshot_call, "make_snapshot_call", interrupted)
    assert cli.main(["download", "org/m", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert (found["error"]["kind"], found["exit_code"]) == ("interrupted", code)


def test_patterns_next_to_file_names_are_ignored_aloud(
    calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["download", "org/m", "a.json", "--include", "*.txt"]) == 0
    assert calls[0][:2] == ("hf_hub_download", ("org/m", "a.json"))
    assert "ignored" in capsys.readouterr().err


def test_a_dry_run_shows_what_would_come(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def info(name: str, size: int, *, fetch: bool) -> DryRunFileInfo:
        return DryRunFileInfo(
            commit_hash="c" * 40, file_size=size, filename=name, local_path=name, is_cached=not fetch, will_download=fetch
        )  # fmt: skip

    files = [
        info("b.bin", 2_500_000_000, fetch=True),
        info("a.json", 512, fetch=True),
        info("c.txt", 9, fetch=False),
    ]
    monkeypatch.setattr(_Call, "run", lambda _self: files)
    monkeypatch.setattr(snapshot_call, "make_snapshot_call", lambda *_, **__: _Call())
    assert cli.main(["download", "org/m", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "[dry-run] Will download 2 files (out of 3) totalling 2.5 GB.",
        "     512 B  a.json",
        "    2.5 GB  b.bin",
        "         -  c.txt",
    ]
    assert cli.main(["download", "org/m", "--dry-run", "--format", "agent"]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == ["file\tsize", "a.json\t512 B"]
    assert cli.main(["download", "org/m", "--dry-run", "-q"]) == 0
    assert capsys.readouterr().out.splitlines() == ["a.json", "b.bin", "c.txt"]
