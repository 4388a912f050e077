"""Tests that need what a machine may not have."""

from __future__ import annotations

import pytest
from tests.support.wants import NO_SKIP, want_modules, want_program


@pytest.fixture(params=["", "0", "1"], ids=["unset", "0", "1"])
def outcome(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    """What becomes of a test that lacks something."""
    monkeypatch.setenv(NO_SKIP, request.param)
    return pytest.fail.Exception if request.param == "1" else pytest.skip.Exception


def test_what_is_missing_skips_a_test_and_fails_it_where_nothing_may_be(outcome: type[BaseException]) -> None:
    with pytest.raises(outcome, match=r"hf_haul_no_such_package.*hf-haul\[loaders\]"):
        want_modules("json", "hf_haul_no_such_package", extra="loaders")
    with pytest.raises(outcome, match="hf-haul-no-such-program"):
        want_program("hf-haul-no-such-program")


@pytest.mark.usefixtures("outcome")
def test_what_is_there_is_used() -> None:
    want_modules("json", "pytest", extra="loaders")
    assert "python" in want_program("python3")
