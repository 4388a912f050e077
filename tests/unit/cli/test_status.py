"""What ``hf-haul status`` says."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest
from tests.support.cached_files import COMMIT, write
from tests.support.storage import SIZE, left_behind, put, stage

import hf_haul
from hf_haul.cli import command as cli
from hf_haul.hub.uris import uri_of
from hf_haul.storage.claiming import claim

SHA = "ab" * 32


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


def _left(hub: Path, number: int, name: str = "org/name", **more: object) -> Path:
    blobs = hub / f"models--{name.replace('/', '--')}" / "blobs"
    return left_behind(
        blobs, key=f"{number:064x}", uri=uri_of("model", name, COMMIT, f"{number}.bin"), **more
    )


def test_nothing_is_a_line_and_no_error(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(hub)]) == 0
    assert capsys.readouterr() == (f"nothing is partial in {hub}\n", "")


def test_each_file_has_its_share_its_process_and_what_to_type(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _left(hub, 1)
    write(hub / "models--org--name/refs/main", COMMIT.encode())
    assert cli.main(["status", "--cache-dir", str(hub)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [
        f"1 partial file in {hub}: 400 B of 1.0 kB",
        "",
        "org/name",
        "   40%       400 B of 1.0 kB  1.bin",
        f"         process 4194305 on {hf_haul_host()} is gone; changed 1 minute ago",
        f"  go on with: hf-haul download org/name 1.bin --cache-dir {hub}",
        f"  or, for the whole repository: hf-haul download org/name --cache-dir {hub}",
    ]


def hf_haul_host() -> str:
    """The name of this host, as messages have it."""
    from hf_haul.storage.ownership import current_owner

    return current_owner().host


def test_many_files_of_a_repository_have_one_command(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        _left(hub, number)
    _left(hub, 9, "org/other")
    cli.main(["status", str(hub)])
    commands = [line.strip() for line in capsys.readouterr().out.splitlines() if "hf-haul download" in line]
    assert commands == [
        f"go on with: hf-haul download org/name --revision {COMMIT} --cache-dir {hub}",
        f"go on with: hf-haul download org/other 9.bin --revision {COMMIT} --cache-dir {hub}",
        f"or, for the whole repository: hf-haul download org/other --revision {COMMIT} --cache-dir {hub}",
    ]


def test_what_is_being_fetched_is_said_with_the_program_and_no_command(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(claim(hub / "models--org--name/blobs", SHA, SIZE)) as staged:
        put(staged, 0, 10)
        cli.main(["status", str(hub)])
    out = capsys.readouterr().out
    assert f"process {os.getpid()} on " in out
    assert "is fetching it" in out
    assert "hf-haul download" not in out


def test_files_of_huggingface_hubs_and_of_urls_are_said_to_be_such(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(hub / "datasets--org--data/blobs" / f"{SHA}.0123abcd.incomplete", b"x" * 500)
    left_behind(hub / "files", key="a.bin.0123456789abcdef")
    cli.main(["status", str(hub)])
    out = capsys.readouterr().out
    assert "org/data (dataset)" in out
    assert "huggingface_hub left it, and never goes on from it" in out
    assert "files of no known repository" in out
    assert "a download of the same URL to the same place goes on from it" in out


def test_json_has_every_field_of_the_result(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _left(hub, 1)
    assert cli.main(["status", str(hub), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert set(found) == {field.name for field in fields(hf_haul.PartialStatus)}
    (file,) = found["files"]
    assert set(file) == {field.name for field in fields(hf_haul.PartialFile)}
    assert (file["file"], file["bytes_done"], file["bytes_total"], file["percent"]) == (
        "1.bin",
        400,
        SIZE,
        40.0,
    )
    assert file["owner"]["state"] == "dead"
    assert file["path"].startswith(str(hub))


def test_a_folder_that_is_not_there_is_not_found(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(hub / "none")]) == 3
    assert capsys.readouterr() == ("", f"hf-haul: error: there is no folder {hub / 'none'}\n")


def test_a_folder_beside_a_cache_is_wrong_usage(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(hub), "--cache-dir", str(hub)]) == 2
    assert "cannot be used together" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_told_and_the_rest_is_listed(
    hub: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _left(hub, 1)
    (hub / "closed").mkdir()
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert cli.main(["status", str(hub)]) == 6
    out, err = capsys.readouterr()
    assert "1.bin" in out
    assert err == f"hf-haul: warning: {hub / 'closed'}: Permission denied\n"


def test_names_that_others_gave_do_not_reach_the_terminal_as_commands(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = uri_of("model", "org/name", COMMIT, "a\x1b[2Jb\nc.bin")
    left_behind(hub / "models--org--name/blobs", key=SHA, uri=uri)
    cli.main(["status", str(hub)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "a?[2Jb?c.bin" in out
