"""What ``hf-haul get`` is asked for, and where that goes."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from hf_haul.cli import command as cli
from hf_haul.cli import get_urls
from hf_haul.cli.url_lists import WantedUrl
from hf_haul.digests import Digest


def _wanted(*argv: str) -> tuple[list[WantedUrl], Path]:
    return get_urls._wanted(cli._parser().parse_args(["get", *argv]))


@pytest.mark.parametrize(
    ("url", "output", "target"),
    [
        pytest.param("https://h/x/a.bin", None, "a.bin", id="the last name"),
        pytest.param("https://h/x/a%20b.bin?sig=1#f", None, "a b.bin", id="decoded, without query"),
        pytest.param("https://h/", "given.bin", "given.bin", id="given"),
        pytest.param("https://h/a.bin", "new/", "new/a.bin", id="a folder to be made"),
        pytest.param("https://h/a.bin", ".", "a.bin", id="a folder that is there"),
    ],
)
def test_a_urls_file_goes_where_one_expects(
    url: str, output: str | None, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted, folder = _wanted(url, *([] if output is None else ["-o", output]))
    (only,) = wanted
    assert folder / (only.name or only.label) == Path(target)


@pytest.mark.parametrize("name", ["", "..", "%2e%2e", "..%2F..%2Fetc%2Fpasswd", "a%5Cb", "%2Fetc%2Fpasswd"])
def test_a_url_cannot_choose_a_folder(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["get", f"https://user:secret@h/x/{name}?sig=secret"]) == 2
    err = capsys.readouterr().err
    assert "say with -o what to call it" in err
    assert "secret" not in err


def test_a_folder_is_where_names_begin(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert _wanted("https://h/a", "--dir", str(tmp_path), "-o", "b") == (
        [WantedUrl("https://h/a", "b")],
        tmp_path,
    )
    assert _wanted("https://h/a", "--dir", str(tmp_path), "-o", "there")[1] == tmp_path / "there"


def test_what_is_named_twice_is_wanted_once() -> None:
    assert len(_wanted("https://h/a", "https://h/b", "https://h/a")[0]) == 2


def test_lists_and_arguments_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "list"
    listed.write_bytes(b"\xef\xbb\xbfhttps://h/b\r\nhttps://h/c\r\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"https://h/d\n")))
    wanted, _ = _wanted("https://h/a", "-i", str(listed), "-i", "-")
    assert [each.url[-1] for each in wanted] == ["a", "b", "c", "d"]
    assert [each.said_in for each in wanted] == ["", f"{listed}:1", f"{listed}:2", "stdin:1"]


@pytest.mark.parametrize(
    ("option", "digest"),
    [
        (["--checksum", f"sha1:{'AB' * 20}"], Digest("sha1", "ab" * 20)),
        (["--checksum", f"md5:{'ab' * 16}"], Digest("md5", "ab" * 16)),
        (["--sha256", "ab" * 32], Digest("sha256", "ab" * 32)),
    ],
)
def test_one_url_may_have_a_checksum(option: list[str], digest: Digest) -> None:
    assert _wanted("https://h/a", *option)[0] == [WantedUrl("https://h/a", digest=digest)]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        pytest.param([], "nothing to get", id="nothing"),
        pytest.param(["a.bin"], "not an http(s) URL", id="no URL"),
        pytest.param(["https://h/a", "https://h/b", "-o", "c"], "-o is for one URL", id="one name for two"),
        pytest.param(
            ["https://h/a", "https://h/b", "--sha256", "ab" * 32],
            "--checksum is for one URL",
            id="one digest for two",
        ),
        pytest.param(
            ["https://h/a", "https://i/a"], "another file would be called a, too", id="one name twice"
        ),
        pytest.param(["https://h/a", "--sha256", "ab"], "--sha256: not a sha256 digest", id="too short"),
        pytest.param(
            ["https://h/a", "--sha256", "ab" * 32, "--checksum", f"md5:{'ab' * 16}"],
            "together",
            id="two digests",
        ),
        pytest.param(["https://h/a", "--dir", __file__], "is a file, and no folder", id="a file as a folder"),
        pytest.param(["-i", "not there"], "No such file", id="no list"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_asked(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_haul.manager.ParallelDownloadManager", None)
    assert cli.main(["get", *argv]) == (1 if said == "No such file" else 2)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("value", ["12", "crc:12", "md5:12", "ab" * 32])
def test_a_checksum_says_which_it_is(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["get", "https://h/a", "--checksum", value])
    assert ended.value.code == 2
    assert "--checksum" in capsys.readouterr().err
