"""Variables of ours that are no settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hf_haul.config import Settings, ca_bundle, serve_token, setting_fields, source_token
from hf_haul.config.layers import SHORT_NAMES
from hf_haul.config.variables import OTHER_VARIABLES

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("value", [None, "", "hf_x"])
def test_the_token_of_serve_is_what_its_variable_holds(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("HF_HAUL_SERVE_TOKEN", value)
    assert serve_token() == value
    assert "hf_x" not in repr(Settings.from_environment())


@pytest.mark.parametrize(("value", "found"), [(None, None), ("", None), ("/ca.pem", "/ca.pem")])
def test_certificates_are_named_by_a_variable(value: str | None, found: str | None) -> None:
    assert ca_bundle({} if value is None else {"HF_HAUL_CA_BUNDLE": value}) == found


@pytest.mark.parametrize(("value", "token"), [(None, None), (" ", None), ("hf_x", "hf_x")])
def test_the_token_of_sources_is_what_its_variable_holds_unless_that_is_nothing(
    value: str | None, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("HF_HAUL_SOURCE_TOKEN", value)
    assert source_token() == token


def test_every_variable_that_is_written_about_is_known() -> None:
    known = {*OTHER_VARIABLES, *(f"HF_HAUL_{name.upper()}" for name in SHORT_NAMES)}
    known |= {f"HF_HAUL_{field.name.upper()}" for field in setting_fields()}
    places = [*ROOT.glob("src/**/*.py"), *ROOT.glob("examples/*"), *ROOT.glob("*.md"), ROOT / ".ci/run"]
    written = {
        name for place in places for name in re.findall(r"\bHF_HAUL_[A-Z_]*[A-Z]", place.read_text("utf-8"))
    }
    assert written - known == set(), "a setting, or a line of OTHER_VARIABLES: else whoever sets it is warned"
