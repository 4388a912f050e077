"""What is raised where a server refuses a file."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hf_haul.errors import HttpStatusError, add_note
from hf_haul.filesystem.target import Target
from hf_haul.task import RemoteFile


def target(explained: object) -> Target:
    repository: Any = SimpleNamespace(explain=lambda _path, _commit, error: explained or error)
    return Target("org/m/a", "", repository, "a", "c" * 40, RemoteFile("a", "https://hub/a"), {})


def refusal() -> HttpStatusError:
    error = HttpStatusError("no", status=403)
    add_note(error, "a: bytes 0-9 were asked for.")
    return error


def test_a_refusal_is_huggingface_hubs_error_with_what_was_noted_on_ours() -> None:
    error, explained = refusal(), LookupError("not for you")
    with pytest.raises(LookupError, match="not for you") as raised, target(explained).explained():
        raise error
    assert raised.value.__notes__ == ["a: bytes 0-9 were asked for."]  # type: ignore[attr-defined]  # since 3.11
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("explained", [None, KeyboardInterrupt()])
def test_what_huggingface_hub_has_no_error_for_stays_as_it_is(explained: object) -> None:
    error = refusal()
    assert target(explained).explain(error) is error
    assert error.__notes__ == ["a: bytes 0-9 were asked for."]  # type: ignore[attr-defined]  # since 3.11
