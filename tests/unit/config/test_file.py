"""The configuration file: where it is looked for, and when it is read."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.hub import SRC

from hf_haul.config import Settings, file
from hf_haul.config.file import FILE_NAME, read_config

posix = pytest.mark.skipif(os.name == "nt", reason="Windows keeps owners and rights elsewhere")


def _write(path: Path, text: str = "max_retries = 3\n", mode: int = 0o600) -> dict[str, str]:
    """A configuration file, and the environment that names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return {"HF_HAUL_CONFIG": str(path)}


def test_the_file_in_the_users_folder_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_HAUL_CONFIG")
    monkeypatch.setattr(file.platformdirs, "user_config_path", lambda name, **_: tmp_path / name)
    assert read_config().state == "absent"
    assert read_config().path == tmp_path / "hf-haul" / FILE_NAME
    _write(tmp_path / "hf-haul" / FILE_NAME)
    assert read_config().values == {"max_retries": 3}
    assert Settings.from_environment().max_retries == 3


@pytest.mark.skipif(sys.platform != "linux", reason="where other systems have it is for platformdirs to know")
def test_on_linux_the_users_folder_is_that_of_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_HAUL_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert read_config().path == tmp_path / "hf-haul/hf-haul.toml"


def test_without_a_home_no_file_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "~/.config/hf-haul" / FILE_NAME)
    monkeypatch.setattr(file.platformdirs, "user_config_path", lambda name, **_: Path("~/.config") / name)
    assert read_config({}).state == "off"


@pytest.mark.parametrize("value", ["", " ", os.devnull])
def test_an_empty_variable_means_no_file(value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _write(tmp_path / "hf-haul" / FILE_NAME)
    monkeypatch.setattr(file.platformdirs, "user_config_path", lambda name, **_: tmp_path / name)
    assert read_config({"HF_HAUL_CONFIG": value}) == file.ConfigFile()


def test_the_variable_names_the_file_and_may_begin_with_a_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(tmp_path))
    _write(tmp_path / "mine.toml")
    assert read_config({"HF_HAUL_CONFIG": "~/mine.toml"}).values == {"max_retries": 3}


def test_a_file_that_is_named_and_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"HF_HAUL_CONFIG names .*gone\.toml, which does not exist"):
        read_config({"HF_HAUL_CONFIG": str(tmp_path / "gone.toml")})


def test_a_file_that_cannot_be_read_is_an_error_if_it_was_named_and_said_once_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ValueError, match=r"names .*c\.toml, which cannot be read: Permission denied"):
        read_config({"HF_HAUL_CONFIG": str(tmp_path / "c.toml")})
    monkeypatch.setattr(file.platformdirs, "user_config_path", lambda name, **_: tmp_path / name)
    assert [read_config({}).state for _ in range(2)] == ["refused", "refused"]
    assert caplog.text.count("is not read: it cannot be read: Permission denied") == 1


@posix
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777])
def test_a_file_that_others_may_write_is_not_read_and_said_to_be_once(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environ = _write(tmp_path / "open.toml", mode=mode)
    assert Settings.from_environment(environ) == Settings()
    assert read_config(environ).state == "refused"
    (said,) = [record.getMessage() for record in caplog.records]
    path = tmp_path / "open.toml"
    assert said == (
        f"configuration file {path} is not read: others may write it (mode {mode:o}); forbid it with: chmod go-w {path}"
    )
    path.chmod(0o644)
    assert Settings.from_environment(environ).max_retries == 3


@posix
def test_a_file_of_another_user_is_not_read_but_one_of_roots_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environ = _write(tmp_path / "theirs.toml")
    owner = (tmp_path / "theirs.toml").stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    found = read_config(environ)
    assert found.state == ("read" if owner == 0 else "refused")
    assert ("belongs to another user" in caplog.text) is (owner != 0)


@posix
def test_a_file_of_a_user_is_not_read_by_another(tmp_path: Path) -> None:
    status = os.stat(tmp_path)
    theirs = os.stat_result((0o100600, 1, 1, 1, os.geteuid() + 1, *tuple(status)[5:]))
    reason, advice = file._distrust(theirs) or ("", "")
    assert reason == f"it belongs to another user (uid {os.geteuid() + 1})"
    assert "chown" in advice


@posix
def test_a_pipe_or_a_folder_in_place_of_the_file_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert read_config({"HF_HAUL_CONFIG": str(tmp_path / "pipe")}).state == "refused"
    assert read_config({"HF_HAUL_CONFIG": str(tmp_path)}).state == "refused"
    assert caplog.text.count("it is not a file") == 2


def test_a_file_too_large_to_be_one_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_config(_write(tmp_path / "c.toml", "#" * (file._MOST_BYTES + 1))).state == "refused"
    assert "at the most are read" in caplog.text


@pytest.mark.parametrize("text", ["max_retries =\n\n", "max_retries = 1\nmax_retries = 2\n#", "= 3"])
def test_what_is_no_toml_is_an_error_that_names_file_and_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"configuration file .*c\.toml is no TOML: .*line \d") as caught:
        Settings.from_environment(_write(tmp_path / "c.toml", text))
    assert str(tmp_path) in str(caught.value)


def test_what_is_no_utf8_is_an_error_too(tmp_path: Path) -> None:
    environ = _write(tmp_path / "c.toml")
    (tmp_path / "c.toml").write_bytes(b"# gr\xfc\xdfe\n")
    with pytest.raises(ValueError, match=r"c\.toml is no TOML"):
        read_config(environ)


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    environ = _write(tmp_path / "c.toml")
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbfmax_retries = 3\r\nverify = false\r\n")
    assert read_config(environ).values == {"max_retries": 3, "verify": False}


def test_a_file_is_parsed_again_only_once_it_has_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parsed: list[bytes] = []
    parse = file._parse

    def counted(path: Path, content: bytes) -> file.ConfigFile:
        parsed.append(content)
        return parse(path, content)

    monkeypatch.setattr(file, "_parse", counted)
    environ = _write(tmp_path / "c.toml")
    assert [Settings.from_environment(environ).max_retries for _ in range(3)] == [3, 3, 3]
    assert len(parsed) == 1
    _write(tmp_path / "c.toml", "max_retries = 12\n")
    assert Settings.from_environment(environ).max_retries == 12
    assert len(parsed) == 2


def test_tables_are_kept_apart_from_settings(tmp_path: Path) -> None:
    environ = _write(tmp_path / "c.toml", 'max_retries = 3\n[tokens]\n"https://hub" = "hf_x"\n')
    found = read_config(environ)
    assert found.values == {"max_retries": 3}
    assert found.tables == {"tokens": {"https://hub": "hf_x"}}


def test_a_process_without_a_file_never_imports_the_parser(tmp_path: Path) -> None:
    code = (
        "import sys; from hf_haul.config import Settings; Settings.from_environment(); "
        "print(sorted({'tomllib', 'tomli', 'difflib'} & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": str(SRC), "XDG_CONFIG_HOME": str(tmp_path)}
    del environ["HF_HAUL_CONFIG"]
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_what_is_said_of_a_file_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Settings.from_environment(_write(tmp_path / "c.toml", "max_retry = 3\n"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
