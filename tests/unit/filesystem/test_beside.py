"""Which files follow one."""

from __future__ import annotations

from typing import Any

import pytest

from hf_haul.filesystem.beside import FilesBeside, natural_key


def listing(*names: str) -> list[dict[str, Any]]:
    return [
        {"name": each.rstrip("/"), "type": "directory" if each.endswith("/") else "file"} for each in names
    ]


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["part-10", "part-9", "part-09", "a", "part-2-of-3", "part-2-of-20", "9", "10", ""]
    assert sorted(names, key=natural_key) == [
        "", "9", "10", "a", "part-2-of-3", "part-2-of-20", "part-9", "part-09", "part-10",
    ]  # fmt: skip
    assert natural_key("9" * 10_000)  # more digits than an int is read from


@pytest.mark.parametrize(
    ("name", "after"),
    [
        pytest.param(
            "r/c/0/1", ["r/c/0/2", "r/c/0/10", "r/c/2/0", "r/c/10/0"], id="goes on in the next folder"
        ),
        pytest.param("r/c/0/10", ["r/c/2/0", "r/c/10/0"], id="last of a folder"),
        pytest.param("r/c/10/0", [], id="last"),
        pytest.param("r/a.json", ["r/b.json"], id="of its kind"),
        pytest.param("r/c/5/0", [], id="no such file"),
        pytest.param("elsewhere/x", [], id="no such listing"),
    ],
)
def test_the_files_after_one_are_those_of_its_kind_in_its_folder_and_in_the_next(
    name: str, after: list[str]
) -> None:
    listings = {
        "r": listing("r/c/", "r/b.json", "r/a.json", "r/readme.md"),
        "r/c": listing("r/c/10/", "r/c/0/", "r/c/2/"),
        "r/c/0": listing("r/c/0/10", "r/c/0/1", "r/c/0/2"),
        "r/c/2": listing("r/c/2/0"),
        "r/c/10": listing("r/c/10/0"),
    }
    assert list(FilesBeside().after(listings, name)) == after


def test_folders_that_are_not_listed_end_the_order() -> None:
    listings = {"r": listing("r/a/", "r/b/", "r/c/"), "r/a": listing("r/a/1"), "r/c": listing("r/c/1")}
    assert list(FilesBeside().after(listings, "r/a/1")) == []


def test_listings_that_change_are_looked_at_again_and_few_are_remembered() -> None:
    beside = FilesBeside()
    listings = {"r": listing("r/1", "r/3")}
    assert list(beside.after(listings, "r/1")) == ["r/3"]
    listings["r"].append(listing("r/2")[0])
    assert list(beside.after(listings, "r/1")) == ["r/2", "r/3"]
    listings["r"] = listing("r/1")
    assert list(beside.after(listings, "r/1")) == []
    for number in range(2000):
        list(beside.after({f"f{number}": listing(f"f{number}/1")}, f"f{number}/1"))
    assert len(beside._orders) <= 256


def test_huge_folders_are_not_sorted() -> None:
    names = [f"r/{number}" for number in range(50_001)]
    assert list(FilesBeside().after({"r": listing(*names)}, "r/5")) == []
