"""What ``hf-haul env`` says of the settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hf_haul.hub.snapshot
import hf_haul.localhub
import hf_haul.manager
from hf_haul.cli import command as cli
from hf_haul.config import setting_fields


def test_env_marks_what_a_variable_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HAUL_MAX_CONNECTIONS", "5")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert cli.main(["env"]) == 0
    out = capsys.readouterr().out
    lines = [line.rstrip() for line in out.splitlines()]
    assert "* HF_HAUL_MAX_CONCURRENT_DOWNLOADS         5            HF_HAUL_MAX_CONNECTIONS" in lines
    assert "  HF_HAUL_VERIFY                           True         default" in lines
    assert f"hf-haul {hf_haul.__version__}" in out
    assert "token            yes" in out
    assert "hf_secret" not in out


def test_env_names_the_variable_that_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HAUL_MAX_RETRIES", "many")
    assert cli.main(["env"]) == 2
    assert "HF_HAUL_MAX_RETRIES='many'" in capsys.readouterr().err


def _write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_env_says_which_file_and_key_a_value_comes_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = _write(tmp_path / "c.toml", "max_retries = 3\nverify = false\n")
    monkeypatch.setenv("HF_HAUL_CONFIG", str(path))
    monkeypatch.setenv("HF_HAUL_MAX_RETRIES", "4")
    assert cli.main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("Configuration file") + 1] == f"  {path}"
    assert f"* HF_HAUL_VERIFY                           False        {path}: verify" in lines
    assert "* HF_HAUL_MAX_RETRIES                      4            HF_HAUL_MAX_RETRIES" in lines


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        pytest.param(None, "none", id="none wanted"),
        pytest.param(0o600, "", id="read"),
        pytest.param(0o666, " (not read: others may write it (mode 666))", id="others may write it"),
    ],
)
def test_env_says_whether_the_file_is_read(
    mode: int | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    if mode is not None:
        monkeypatch.setenv("HF_HAUL_CONFIG", str(_write(tmp_path / "c.toml", "verify = false\n", mode)))
        said = f"{tmp_path / 'c.toml'}{said}"
    assert cli.main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("Configuration file") + 1] == f"  {said}"


def test_env_as_json_has_every_setting_with_its_origin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = _write(tmp_path / "c.toml", "max_bandwidth = '5MB/s'\n")
    monkeypatch.setenv("HF_HAUL_CONFIG", str(path))
    monkeypatch.setenv("HF_HAUL_DISK_CHECK", "warn")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert cli.main(["env", "--json"]) == 0
    out = capsys.readouterr().out
    said = json.loads(out)
    assert "hf_secret" not in out
    assert said["hf_haul"] == hf_haul.__version__
    assert said["hub"]["token"] is True
    assert said["config_file"] == {"path": str(path), "state": "read", "reason": None}
    assert list(said["settings"]) == [field.name for field in setting_fields()]
    assert said["settings"]["max_bandwidth_bps"] == {
        "value": 5_000_000, "variable": "HF_HAUL_MAX_BANDWIDTH_BPS", "from": "file", "name": "max_bandwidth",
        "file": str(path),
    }  # fmt: skip
    assert said["settings"]["disk_check"]["from"] == "environment"
    assert said["settings"]["durable"] == {
        "value": True, "variable": "HF_HAUL_DURABLE", "from": "default", "name": None, "file": None,
    }  # fmt: skip
