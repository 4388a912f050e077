"""What ``hf-haul env`` says of the settings."""

from __future__ import annotations

import pytest

import hf_haul.hub.snapshot
import hf_haul.localhub
import hf_haul.manager
from hf_haul.cli import command as cli


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
