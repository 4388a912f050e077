"""What was pickled before modules moved still loads: errors, values, filesystems and open files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.pickled.make import (
    DATA,
    ENDPOINT,
    NAME,
    OF_A_HUB,
    PICKLES,
    POSITION,
    make_errors,
    make_hub,
    make_values,
)

import hf_haul
from hf_haul.filesystem import HaulFile, HaulStreamFile

OLD: dict[str, str] = json.loads(PICKLES.read_text(encoding="utf-8"))


def _load(name: str, url: str = ENDPOINT) -> Any:
    return pickle.loads(OLD[name].replace(ENDPOINT, url).encode("ascii"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with make_hub() as hub:
        yield hub.url


def test_every_kind_that_is_made_is_kept() -> None:
    assert set(OLD) == {*make_errors(), *make_values(), *OF_A_HUB}


def test_every_public_error_is_among_them() -> None:
    public = {name for name in hf_haul.__all__ if name.endswith("Error")}
    assert set(make_errors()) == public


@pytest.mark.parametrize("name", make_errors())
def test_an_error_loads_with_all_it_said(name: str) -> None:
    now, then = make_errors()[name], _load(name)
    assert type(then) is type(now) is getattr(hf_haul, name)
    assert (str(then), then.args, vars(then)) == (str(now), now.args, vars(now))


@pytest.mark.parametrize("name", make_values())
def test_a_value_loads_and_is_equal(name: str) -> None:
    assert _load(name) == make_values()[name]


@pytest.mark.parametrize("name", ["HaulFileSystem", "HaulFileSystem, used"])
def test_a_filesystem_loads_and_reads(url: str, name: str) -> None:
    fs = _load(name, url)
    assert isinstance(fs, hf_haul.HaulFileSystem)
    assert fs.cat_file(NAME) == DATA


@pytest.mark.parametrize(("name", "kind"), [("HaulFile", HaulFile), ("HaulStreamFile", HaulStreamFile)])
def test_an_open_file_loads_and_reads_on_from_where_it_stood(url: str, name: str, kind: type[Any]) -> None:
    with _load(name, url) as file:
        assert type(file) is kind
        assert file.tell() == POSITION
        assert file.read() == DATA[POSITION:]
