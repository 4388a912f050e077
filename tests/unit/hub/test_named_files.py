"""What is said of files that are named and are not there."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import EntryNotFoundError

from hf_haul.hub.named_files import names_hint, require_named

PATHS = ["README.md", "config.json", "nested/one/also.json", "nested/two.txt", "tokenizer_config.json"]


def test_every_name_has_to_stand_for_a_file() -> None:
    paths = ["a.json", "b/c.txt"]
    require_named([], paths, "org/m")
    require_named(["a.json", "b/", "*.txt"], paths, "org/m")
    for name in ("c.txt", "c/", "b", "*.bin"):
        with pytest.raises(EntryNotFoundError, match="in org/m"):
            require_named(["a.json", name], paths, "org/m")


def test_all_that_are_missing_are_told_and_the_nearest_of_each() -> None:
    with pytest.raises(EntryNotFoundError) as raised:
        require_named(["config.jsn", "config.json", "readme.md"], PATHS, "org/m")
    assert str(raised.value) == (
        "There is no config.jsn, no readme.md in org/m. Did you mean config.json, README.md?"
    )
    assert raised.value.named_file == "config.jsn"  # type: ignore[attr-defined]  # any error takes attributes


def test_of_many_that_are_missing_some_are_told() -> None:
    with pytest.raises(EntryNotFoundError, match=r"no 4 and 3 more in org/m$"):
        require_named([str(number) for number in range(8)], PATHS, "org/m")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("config.jsn", "config.json"),
        ("CONFIG.JSON", "config.json"),
        ("also.json", "nested/one/also.json"),
        ("one/also.json", "nested/one/also.json"),
        ("nested", "nested/"),
        ("nested/won/", "nested/one/"),
        ("one/", "nested/one/"),
    ],
)
def test_the_nearest_name_is_found(name: str, near: str) -> None:
    assert names_hint([name], PATHS) == f"Did you mean {near}?"


def test_where_nothing_is_near_nothing_is_said() -> None:
    assert names_hint(["zzz.bin"], PATHS) is None
    assert names_hint(["a"], []) is None
