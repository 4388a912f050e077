"""What ``hf-haul download`` asks of the library."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import DryRunFileInfo

import hf_haul.localhub
import hf_haul.manager
from hf_haul.cli import command as cli
from hf_haul.hub import single_file, snapshot


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """What the command asked the library for; every call returns a path."""
    seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    for module, name in ((snapshot, "snapshot_download"), (single_file, "hf_hub_download")):

        def fake(*args: Any, _name: str = name, **options: Any) -> str:
            seen.append(
                (_name, args, {key: value for key, value in options.items() if value not in (None, False)})
            )
            return "/there"

        monkeypatch.setattr(module, name, fake)
    return seen


DEFAULTS = {"repo_type": "model", "library_name": "hf-haul", "library_version": hf_haul.__version__}


@pytest.mark.parametrize(
    ("line", "function", "args", "options"),
    [
        pytest.param("org/m", "snapshot_download", ("org/m",), {}, id="a whole repository"),
        pytest.param("org/m a.json", "hf_hub_download", ("org/m", "a.json"), {}, id="one file"),
        pytest.param(
            "org/m a.json b/c.txt", "snapshot_download", ("org/m",), {"allow_patterns": ["a.json", "b/c.txt"]}, id="files"
        ),
        pytest.param("org/m b/", "snapshot_download", ("org/m",), {"allow_patterns": ["b/**"]}, id="a folder"),
        pytest.param(
            "org/m --include *.json --include *.txt --exclude b*",
            "snapshot_download",
            ("org/m",),
            {"allow_patterns": ["*.json", "*.txt"], "ignore_patterns": ["b*"]},
            id="patterns",
        ),
        pytest.param(
            "org/d --repo-type dataset --revision v1 --cache-dir c --force-download --token t --max-workers 3 "
            "--max-bandwidth 5MB/s --max-connections 7 --preset safetensors --preset no-weights",
            "snapshot_download",
            ("org/d",),
            {
                "repo_type": "dataset",
                "revision": "v1",
                "cache_dir": "c",
                "force_download": True,
                "token": "t",
                "max_workers": 3,
                "max_bandwidth": 5_000_000,
                "max_connections": 7,
                "presets": ["safetensors", "no-weights"],
            },
            id="every option",
        ),
        pytest.param("org/m --local-dir d", "snapshot_download", ("org/m",), {"local_dir": "d"}, id="a folder of one's own"),
        pytest.param(
            "hf://datasets/org/d@v1/data/",
            "snapshot_download",
            ("org/d",),
            {"repo_type": "dataset", "revision": "v1", "allow_patterns": ["data/**"]},
            id="a URI of a folder",
        ),
        pytest.param(
            "hf://org/m@refs/pr/1/config.json",
            "hf_hub_download",
            ("org/m", "config.json"),
            {"revision": "refs/pr/1"},
            id="a URI of a file",
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


def test_quiet_means_no_bar(calls: list[Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["download", "org/m", "--quiet"]) == 0
    bar = calls[0][2]["tqdm_class"](total=3, desc="never seen")
    bar.update(3)
    bar.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
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
    assert cli.main(["download", *line.split()]) == 1
    assert calls == []
    assert message in capsys.readouterr().err


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
    monkeypatch.setattr(snapshot, "snapshot_download", lambda *_, **__: files)
    assert cli.main(["download", "org/m", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "[dry-run] Will download 2 files (out of 3) totalling 2.5 GB.",
        "     512 B  a.json",
        "    2.5 GB  b.bin",
        "         -  c.txt",
    ]
