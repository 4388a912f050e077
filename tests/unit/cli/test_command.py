"""The command's arguments, exit codes and messages; nothing is downloaded."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import tqdm
from huggingface_hub import DryRunFileInfo

import hf_haul.hub.snapshot
import hf_haul.localhub
import hf_haul.manager
from hf_haul.cli import command as cli
from hf_haul.errors import DiskFullError, IntegrityError
from hf_haul.localhub.following import Holding


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """What the command asked the library for; every call returns a path."""
    seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    for name in ("snapshot_download", "hf_hub_download"):

        def fake(*args: Any, _name: str = name, **options: Any) -> str:
            seen.append(
                (_name, args, {key: value for key, value in options.items() if value not in (None, False)})
            )
            return "/there"

        monkeypatch.setattr(hf_haul.hub.snapshot, name, fake)
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


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="no command"),
        pytest.param("upload org/m", id="an unknown command"),
        pytest.param("download", id="no repository"),
        pytest.param("download org/m --max-bandwidth fast", id="no rate"),
        pytest.param("download org/m --max-bandwidth 0", id="a limit of nothing"),
        pytest.param("download org/m --max-connections 0", id="no connections"),
        pytest.param("download org/m --preset pickles", id="an unknown preset"),
        pytest.param("get http://h/a --header nonsense", id="no header"),
    ],
)
def test_wrong_usage_ends_with_2_and_shows_the_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as over:
        cli.main(line.split())
    assert over.value.code == 2
    assert "usage: hf-haul" in capsys.readouterr().err


def _raise(error: BaseException) -> Any:
    def fake(*_: Any, **__: Any) -> None:
        raise error

    return fake


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        pytest.param(KeyboardInterrupt(), 130, "interrupted; what was fetched is kept", id="interrupt"),
        pytest.param(
            IntegrityError("a.bin", "aa", "bb"), 1, "error: a.bin: digest does not match", id="ours"
        ),
        pytest.param(DiskFullError("no room"), 1, "error: no room", id="disk"),
        pytest.param(PermissionError("read-only"), 1, "error: read-only", id="the system's"),
        pytest.param(ValueError("odd"), 1, "error: odd", id="bad input"),
        pytest.param(OSError(), 1, "error: OSError", id="without a word"),
    ],
)
def test_an_error_becomes_one_message_and_an_exit_code(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hf_haul.hub.snapshot, "snapshot_download", _raise(error))
    assert cli.main(["download", "org/m"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"hf-haul: {message}")
    assert "Traceback" not in err


def test_an_errors_notes_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError("first")
    error.__notes__ = ["also failed: b.bin"]  # type: ignore[attr-defined]  # add_note is 3.11's
    monkeypatch.setattr(hf_haul.hub.snapshot, "snapshot_download", _raise(error))
    assert cli.main(["download", "org/m"]) == 1
    assert capsys.readouterr().err.splitlines() == ["hf-haul: error: first", "hf-haul: also failed: b.bin"]


def test_a_bug_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_haul.hub.snapshot, "snapshot_download", _raise(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["download", "org/m"])


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
    monkeypatch.setattr(hf_haul.hub.snapshot, "snapshot_download", lambda *_, **__: files)
    assert cli.main(["download", "org/m", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "[dry-run] Will download 2 files (out of 3) totalling 2.5 GB.",
        "     512 B  a.json",
        "    2.5 GB  b.bin",
        "         -  c.txt",
    ]


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
    assert cli._target(url, output) == Path(target)


@pytest.mark.parametrize("name", ["", "..", "%2e%2e", "..%2F..%2Fetc%2Fpasswd", "a%5Cb", "%2Fetc%2Fpasswd"])
def test_a_url_cannot_choose_a_folder(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["get", f"https://user:secret@h/x/{name}?sig=secret"]) == 1
    err = capsys.readouterr().err
    assert "say with -o what to call it" in err
    assert "secret" not in err


def test_what_an_earlier_get_left_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    class Shown(tqdm.tqdm):  # type: ignore[type-arg]  # no subscripts at run time
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "disable": False})
            bars.append(self)

    outcomes = iter(
        {"total_bytes": 100, "bytes_done": done, "bytes_resumed": resumed, "timed_out": done < 100}
        for done, resumed in ((0, 0), (70, 60), (100, 60))
    )
    monkeypatch.setattr(tqdm, "tqdm", Shown)
    manager = types.SimpleNamespace(wait_for_model_completion=lambda *_: next(outcomes))
    cli._watch(manager, "task", "a.bin", quiet=False)
    (bar,) = bars
    assert (bar.n, bar.initial, bar.total) == (100, 60, 100)


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


def test_env_marks_what_a_variable_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HAUL_MAX_CONNECTIONS", "5")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert cli.main(["env"]) == 0
    out = capsys.readouterr().out
    assert "* HF_HAUL_MAX_CONCURRENT_DOWNLOADS         5" in out.splitlines()
    assert "  HF_HAUL_VERIFY                           True" in out.splitlines()
    assert f"hf-haul {hf_haul.__version__}" in out
    assert "token            yes" in out
    assert "hf_secret" not in out


def test_env_names_the_variable_that_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HAUL_MAX_RETRIES", "many")
    assert cli.main(["env"]) == 1
    assert "HF_HAUL_MAX_RETRIES='many'" in capsys.readouterr().err


def test_what_is_no_header_is_not_quoted_for_it_may_be_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["get", "http://hub.test/a", "-H", "Authorization Bearer hf_secret"])
    said = capsys.readouterr().err
    assert "not a header; write 'Name: value'" in said
    assert "hf_secret" not in said
