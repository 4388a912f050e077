"""Variables of ours that are no settings."""

from __future__ import annotations

import pytest

from hf_haul.config import Settings, serve_token


@pytest.mark.parametrize("value", [None, "", "hf_x"])
def test_the_token_of_serve_is_what_its_variable_holds(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("HF_HAUL_SERVE_TOKEN", value)
    assert serve_token() == value
    assert "hf_x" not in repr(Settings.from_environment())
