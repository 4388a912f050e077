"""What ``hf-haul serve`` says, and what it refuses."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

import hf_haul.hub.snapshot
import hf_haul.localhub
import hf_haul.manager
from hf_haul.cli import command as cli
from hf_haul.localhub.following import Holding
from hf_haul.localhub.requestlog import RequestRecord


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        pytest.param([], "warning: models holds no repository", id="none"),
        pytest.param(["org/a"], "sharing 1 repository (org/a) of models until", id="one"),
        pytest.param(["o/b", "o/a"], "sharing 2 repositories (o/a, o/b) of models until", id="two"),
        pytest.param(list("gfedcba"), "sharing 7 repositories (a, b, c, d, e, ...) of models", id="many"),
    ],
)
def test_serve_says_what_it_serves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ids: list[str], said: str
) -> None:
    repos = [types.SimpleNamespace(repo_id=repo_id) for repo_id in ids]
    hub = types.SimpleNamespace(url="http://h", catalog=types.SimpleNamespace(all=lambda: repos))
    monkeypatch.setattr(hf_haul.localhub, "serve", lambda *_, on_ready, **__: on_ready(hub))
    assert cli.main(["serve", "models"]) == 0
    assert said in capsys.readouterr().err


def test_serve_says_what_of_a_commit_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def repo(repo_id: str, *holdings: Holding) -> types.SimpleNamespace:
        return types.SimpleNamespace(repo_id=repo_id, holdings=lambda: list(holdings))

    sha = "0123456789" * 4
    some = [Holding(sha, ["main", "v1"], 6, 20), Holding(sha, [], 1, 3)]
    repos = [repo("o/some", *some), repo("o/all", Holding(sha, ["main"], 3, 3)), repo("o/folder")]
    repos += [repo("o/unknown", Holding(sha, ["main"], 1, None))]
    hub = types.SimpleNamespace(url="http://h", catalog=types.SimpleNamespace(all=lambda: repos))
    monkeypatch.setattr(hf_haul.localhub, "serve", lambda *_, on_ready, **__: on_ready(hub))
    assert cli.main(["serve", "models"]) == 0
    unknown = "o/unknown at main: 1 file, and no listing that says whether these are all; a whole snapshot"
    said = capsys.readouterr().err.splitlines()[2:]
    assert said == [
        "hf-haul: o/some at main, v1: 6 of 20 files",
        "hf-haul: o/some at 0123456: 1 of 3 files",
        f"hf-haul: {unknown} can be had only with --complete",
    ]
    assert cli.main(["serve", "models", "--complete"]) == 0
    assert unknown not in capsys.readouterr().err
    repos[:] = [repo(f"o/{number:02}", some[0]) for number in range(50)]
    assert cli.main(["serve", "models"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "hf-haul: ... and 30 more"


@pytest.mark.parametrize(
    ("arguments", "variable", "said"),
    [
        pytest.param(["--host", "0.0.0.0"], None, "--allow-anyone", id="everywhere"),
        pytest.param(["--host", "::"], None, "--allow-anyone", id="everywhere, of IPv6"),
        pytest.param(
            ["--host", "0.0.0.0"], "", "HF_HAUL_SERVE_TOKEN is empty", id="everywhere, an empty variable"
        ),
        pytest.param([], " ", "HF_HAUL_SERVE_TOKEN is empty", id="an empty variable"),
        pytest.param(
            ["--allow-anyone"], "", "HF_HAUL_SERVE_TOKEN is empty", id="an empty variable, for anyone"
        ),
        pytest.param(["--token", ""], None, "--token is empty", id="an empty argument"),
        pytest.param(["--token", " "], "t", "--token is empty", id="an empty argument, with a variable"),
        pytest.param(["--token-file", "EMPTY"], "t", "EMPTY is empty", id="an empty file"),
        pytest.param(["--token-file", "NONE"], "t", "NONE", id="no file"),
        pytest.param(["--token-file", "BYTES"], None, "cannot be sent", id="a file of bytes"),
        pytest.param(
            ["--host", "0.0.0.0", "--allow-anyone"], "t", "contradict", id="a token, and for anyone"
        ),
        pytest.param([], "a\tb", "cannot be sent", id="no token that can be sent"),
        pytest.param(["--host", "nobody.invalid"], None, "nobody.invalid", id="no such host"),
    ],
)
def test_serve_gives_nothing_to_others_unless_that_is_said(
    arguments: list[str],
    variable: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("EMPTY").write_text("\n")
    Path("BYTES").write_bytes(b"\xff\xfe")
    if variable is not None:
        monkeypatch.setenv("HF_HAUL_SERVE_TOKEN", variable)
    monkeypatch.setattr(hf_haul.localhub, "serve", lambda *_, **__: pytest.fail("it is served"))
    assert cli.main(["serve", ".", *arguments]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "token"),
    [
        pytest.param(["--token-file", "FILE"], "from-the-file", id="file"),
        pytest.param(["--token-file", "MARKED"], "from-a-marked-file", id="file of an editor on Windows"),
        pytest.param([], "from-the-variable", id="variable"),
        pytest.param(["--token", "given"], "given", id="argument"),
    ],
)
def test_serve_takes_its_token_from_where_others_cannot_read_it(
    arguments: list[str],
    token: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("from-the-file\n")
    Path("MARKED").write_bytes("\ufefffrom-a-marked-file\r\n".encode())
    monkeypatch.setenv("HF_HAUL_SERVE_TOKEN", "from-the-variable")
    seen: dict[str, Any] = {}
    monkeypatch.setattr(hf_haul.localhub, "serve", lambda *_, **options: seen.update(options))
    assert cli.main(["serve", ".", "--host", "0.0.0.0", *arguments]) == 0
    assert seen["token"] == token
    err = capsys.readouterr().err
    assert ("list of processes" in err) is ("--token" in arguments)
    assert token not in err


def test_serve_says_what_to_use_on_other_machines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hf_haul.localhub.hosts.own_addresses", lambda: ["192.0.2.7", "fd00::7", "127.0.0.1"])
    hub = types.SimpleNamespace(url="http://127.0.0.1:1", catalog=types.SimpleNamespace(all=list))
    monkeypatch.setattr(hf_haul.localhub, "serve", lambda *_, on_ready, **__: on_ready(hub))
    assert cli.main(["serve", "models", "--host", "0.0.0.0", "--allow-anyone"]) == 0
    assert "on other machines: HF_ENDPOINT=http://192.0.2.7:1\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--port", "65536"], "not a port", id="a port that is none"),
        pytest.param(["--port", "-1"], "not a port", id="a port below 0"),
        pytest.param(
            ["--allowed-host", "http://models.lab/"], "not the name or address of a host", id="a URL"
        ),
    ],
)
def test_serve_refuses_what_cannot_be_meant(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", ".", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_key_without_a_certificate_does_not_end_in_plain_http(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hf_haul.localhub, "serve", lambda *_, **__: pytest.fail("it served"))
    assert cli.main(["serve", "models", "--keyfile", "lab.key"]) == 2
    assert "name it with --certfile" in capsys.readouterr().err


def test_serve_names_a_certificate_that_it_cannot_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", str(tmp_path), "--port", "0", "--certfile", "lab.pem"]) == 1
    assert "certificate lab.pem: No such file" in capsys.readouterr().err


def test_serve_of_a_folder_that_is_not_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", str(tmp_path / "modles"), "--port", "0"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"hf-haul: error: no such folder: {tmp_path / 'modles'}\n"


@pytest.mark.parametrize("option", ["--max-rate", "--pace"])
def test_serve_passes_its_options_on_and_says_where(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def fake(path: str, *, on_ready: Any, **options: Any) -> None:
        seen.update(options, path=path)
        catalog = types.SimpleNamespace(all=list)
        on_ready(types.SimpleNamespace(url="http://127.0.0.1:1234", catalog=catalog))

    monkeypatch.setattr(hf_haul.localhub, "serve", fake)
    line = f"serve models --host 0.0.0.0 --port 0 --token t {option} 80Mbit/s --certfile c --keyfile k"
    assert cli.main(line.split()) == 0
    assert seen.pop("site").upstream is None
    assert seen == {
        "path": "models", "host": "0.0.0.0", "port": 0, "token": "t", "max_bytes_per_s": 10_000_000,
        "certfile": "c", "keyfile": "k",
    }  # fmt: skip
    out, err = capsys.readouterr()
    assert out == "http://127.0.0.1:1234\n"
    assert "HF_ENDPOINT=http://127.0.0.1:1234" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--private"], "--private is about what is fetched", id="private without an upstream"),
        pytest.param(["--max-size", "1GB"], "--max-size is about what is fetched", id="a size without one"),
        pytest.param(["--upstream", "ftp://h"], "--upstream: ", id="an upstream that is no Hub"),
        pytest.param(["--upstream", "http://u:secret@h"], "--upstream: ", id="an upstream with a password"),
        pytest.param(["--upstream", "http://h", "--private"], "ask for a token", id="private for anybody"),
        pytest.param(["--upstream", "http://h", "--max-size", "0"], "not a size", id="no space"),
        pytest.param(["--upstream", "http://h", "--max-size", "some"], "some", id="no size"),
        pytest.param(["--upstream", "http://h", "--refresh", "-1"], "not a number of seconds", id="a time"),
        pytest.param(["--upstream", "http://h", "--refresh", "nan"], "not a number of seconds", id="no time"),
    ],
)
def test_serve_refuses_what_cannot_be_meant_of_an_upstream(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hf_haul.localhub, "serve", lambda *_, **__: pytest.fail("it is served"))
    try:
        code: object = cli.main(["serve", str(tmp_path / "cache"), *arguments])
    except SystemExit as left:  # the parser's way
        code = left.code
    assert code == 2
    err = capsys.readouterr().err
    assert said in err
    assert "secret" not in err


def test_serve_with_an_upstream_makes_a_cache_and_of_no_other_folder_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(hf_haul.localhub, "serve", lambda *_, **options: seen.update(options))
    new = tmp_path / "some" / "hub"
    assert cli.main(["serve", str(new), "--upstream", "http://h"]) == 0
    assert new.is_dir()
    assert seen["site"].upstream is not None
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    assert cli.main(["serve", str(other), "--upstream", "http://h"]) == 2
    assert "is no Hub cache" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "token").write_text("t0ken")
    line = ["serve", str(new), "--upstream", "http://h", "--private", "--token-file", str(tmp_path / "token")]
    assert cli.main(line) == 2
    assert "there is none" in capsys.readouterr().err


def test_serve_appends_to_its_access_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "access.log"
    log.write_text("before\n")

    def fake(*_: object, site: Any, **__: object) -> None:
        record = RequestRecord(
            "GET", "home", "/?q=1", "", "", {}, 1, 0.0, status=200, client="192.0.2.1", end=1.0
        )
        site.observer.begun(record)
        site.observer.ended(record)

    monkeypatch.setattr(hf_haul.localhub, "serve", fake)
    assert cli.main(["serve", str(tmp_path), "--access-log", str(log)]) == 0
    first, second = log.read_text().splitlines()
    assert first == "before"
    assert '192.0.2.1 "GET /" 200 0 1.000s' in second
