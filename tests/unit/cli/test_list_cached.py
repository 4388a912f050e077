"""What ``hf-haul list`` says."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields
from pathlib import Path

import pytest
from tests.support.cached_files import COMMIT, LISTED, OTHER, cache_file, keep_listing, write

import hf_haul
from hf_haul.cli import command as cli

SHA = "ab" * 32


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    root = tmp_path / "hub/models--org--name"
    cache_file(root, COMMIT, "a/w.bin", SHA, b"1234")
    cache_file(root, COMMIT, "config.json", OTHER)
    keep_listing(root, LISTED)
    write(root / "refs/main", COMMIT.encode())
    for blob in (root / "blobs").iterdir():
        at = time.time() - 3 * 86400 - 60
        os.utime(blob, (at, at))
    return tmp_path / "hub"


def test_each_repository_is_a_line_of_a_table(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache_file(hub / "datasets--org--data", OTHER, "d.csv", "4" * 40, b"x" * 1500)
    assert cli.main(["list", "--cache-dir", str(hub)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "REPOSITORY TYPE STATE FILES SIZE LAST USED REVISIONS",
        "org/data dataset unknown 1 1.5 kB 0 seconds ago ffffffff",
        "org/name model partial 2 of 3 5 B 3 days ago main",
        "",
        f"2 repositories in {hub}: 1.5 kB",
    ]
    titles, *rows = out.splitlines()[:3]
    assert [row.index(kind) for row, kind in zip(rows, ("dataset", "model"), strict=True)] == [
        titles.index("TYPE")
    ] * 2


def test_an_empty_cache_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--cache-dir", str(tmp_path)]) == 0
    assert capsys.readouterr() == (f"0 repositories in {tmp_path}: 0 B\n", "")


def test_what_is_damaged_is_a_warning(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.unlink(hub / "models--org--name/blobs" / SHA)
    assert cli.main(["list", "--cache-dir", str(hub)]) == 0
    out, err = capsys.readouterr()
    assert "1 of 3" in out
    assert err.startswith("hf-haul: warning: ")
    assert "a/w.bin: it is a link to a file that is not there" in err


def test_many_revisions_are_counted(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        write(hub / f"models--org--name/refs/v{number}", COMMIT.encode())
    cli.main(["list", "--cache-dir", str(hub)])
    assert "main, v0, v1, v2 and 5 more" in capsys.readouterr().out


def test_json_has_every_field_of_the_result(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--cache-dir", str(hub), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {field.name for field in fields(hf_haul.CachedRepositories)}
    (repository,) = found["repositories"]
    assert set(repository) == {field.name for field in fields(hf_haul.CachedRepository)}
    (revision,) = repository["revisions"]
    assert set(revision) == {field.name for field in fields(hf_haul.CachedRevision)}
    assert (repository["state"], revision["refs"], repository["bytes"]) == ("partial", ["main"], 5)


def test_a_cache_that_is_not_there_is_not_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--cache-dir", str(tmp_path / "none")]) == 3
    assert "there is no folder" in capsys.readouterr().err
