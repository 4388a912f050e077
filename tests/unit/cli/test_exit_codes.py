"""Which error ends with which exit code."""

from __future__ import annotations

import errno

import pytest
from huggingface_hub.errors import LocalTokenNotFoundError

from hf_haul.cli.exit_codes import EXIT_CODES_HELP, ExitCode, UsageError, exit_code_of
from hf_haul.errors import ConnectionFailedError, HttpStatusError, IntegrityError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(RuntimeError("odd"), 1, id="another"),
        pytest.param(UsageError("odd"), 2, id="usage"),
        pytest.param(HttpStatusError("", status=404, url="https://h/a"), 3, id="not found"),
        pytest.param(LocalTokenNotFoundError("none"), 4, id="denied"),
        pytest.param(ConnectionFailedError("reset"), 5, id="network"),
        pytest.param(OSError(errno.ENOSPC, "full", "/d"), 6, id="disk"),
        pytest.param(IntegrityError("a", "aa", "bb"), 7, id="integrity"),
    ],
)
def test_each_kind_of_failure_has_a_code(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


def test_the_help_names_every_code_but_the_one_nobody_can_see() -> None:
    named = {code for code in ExitCode if f"{code.value} " in EXIT_CODES_HELP}
    assert set(ExitCode) - named == {ExitCode.HUNG_UP}  # the terminal is gone by then
