"""Names that fit into a folder, and names that tell which process gave them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_haul.storage.file_names import (
    STAGED_SUFFIX,
    cut_name,
    fit_key,
    name_giver,
    name_length,
    name_limit,
    passing_name,
    process_digits,
    temporary_name,
)
from hf_haul.storage.staged_names import SEALED_SUFFIX, giver_of, private_name

pytestmark = pytest.mark.skipif(os.name == "nt", reason="counts bytes, as POSIX does")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    name_limit.cache_clear()
    yield
    name_limit.cache_clear()


@pytest.fixture(params=[143, 255])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What the file system takes: eCryptfs 143, most others 255."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_namemax=request.param))
    return int(request.param)


LETTERS = {"ascii": "a", "cyrillic": "ж", "cjk": "模", "emoji": "😀", "bytes": os.fsdecode(b"\xff")}


@pytest.mark.parametrize("letter", LETTERS.values(), ids=LETTERS)
@pytest.mark.parametrize("count", [1, 30, 60, 99, 100, 116, 117, 200, 255])
def test_a_key_fits_with_what_comes_behind_it_and_another_key_has_another(
    tmp_path: Path, limit: int, letter: str, count: int
) -> None:
    key = letter * count
    fitting = fit_key(key, tmp_path)
    assert name_length(fitting) + STAGED_SUFFIX <= limit
    assert (fitting == key) == (name_length(key) + STAGED_SUFFIX <= limit)
    assert fit_key(f"{key}b", tmp_path) != fitting
    fitting.encode("utf-8", "surrogateescape")  # no letter is cut in two


def test_the_longest_name_of_a_staged_file_is_what_keys_leave_room_for() -> None:
    path = private_name(Path("folder"), "key", SEALED_SUFFIX)
    assert len(path.name) == len("key") + STAGED_SUFFIX


def test_a_name_is_cut_between_letters() -> None:
    assert [cut_name("aжb模", room) for room in range(8)] == [
        "",
        "a",
        "a",
        "aж",
        "aжb",
        "aжb",
        "aжb",
        "aжb模",
    ]
    assert name_length("aжb模") == 7
    assert name_length("\ud800") == 3


def test_short_names_need_no_look_at_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: pytest.fail("looked"))
    assert fit_key("f" * 64, tmp_path) == "f" * 64
    assert temporary_name("folder/config.json.metadata", ".tmp").startswith("folder/config.json.metadata.")


def test_a_folder_need_not_exist_nor_a_file_system_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(os, "statvfs", lambda path: asked.append(path) or SimpleNamespace(f_namemax=0))
    assert name_limit(f"{tmp_path}/not/yet") == 255
    assert asked == [str(tmp_path)]

    def refuse(_: str) -> None:
        raise OSError

    monkeypatch.setattr(os, "statvfs", refuse)
    assert name_limit(f"{tmp_path}/another") == 255


@pytest.mark.parametrize("letter", LETTERS.values(), ids=LETTERS)
def test_a_temporary_name_fits_beside_the_longest_there_is(tmp_path: Path, limit: int, letter: str) -> None:
    longest = cut_name(letter * 255, limit)
    for suffix, prefix in [(".tmp", ""), (".new", ".")]:
        path = temporary_name(str(tmp_path / longest), suffix, prefix)
        assert os.path.dirname(path) == str(tmp_path)
        assert name_length(os.path.basename(path)) <= limit
        with open(path, "x"):
            pass


def test_digits_tell_who_gave_a_name() -> None:
    assert {name_giver(process_digits()) for _ in range(5)} == {os.getpid() & ((1 << 22) - 1)}
    assert name_giver("00000000") == 0


def test_names_of_one_process_are_told_apart() -> None:
    names = [passing_name("/folder") for _ in range(1000)]
    assert len(set(names)) == 1000
    assert {giver_of(os.path.basename(name)) for name in names} == {os.getpid()}
