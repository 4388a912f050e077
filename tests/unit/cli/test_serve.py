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
    said = capsys.readouterr().err.splitlines()[1:]
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


def test_serve_passes_its_options_on_and_says_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def fake(path: str, *, on_ready: Any, **options: Any) -> None:
        seen.update(options, path=path)
        catalog = types.SimpleNamespace(all=list)
        on_ready(types.SimpleNamespace(url="http://127.0.0.1:1234", catalog=catalog))

    monkeypatch.setattr(hf_haul.localhub, "serve", fake)
    line = "serve models --host 0.0.0.0 --port 0 --token t --pace 80Mbit/s --certfile c --keyfile k"
    assert cli.main(line.split()) == 0
    assert seen == {
        "path": "models", "host": "0.0.0.0", "port": 0, "token": "t", "max_bytes_per_s": 10_000_000,
        "certfile": "c", "keyfile": "k",
    }  # fmt: skip
    out, err = capsys.readouterr()
    assert out == "http://127.0.0.1:1234\n"
    assert "HF_ENDPOINT=http://127.0.0.1:1234" in err
