"""Who answers to hf:// URLs, and when."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import fsspec
import pytest
from huggingface_hub import HfFileSystem

import hf_haul
from hf_haul.filesystem import registration
from hf_haul.filesystem.registration import HfUrlFileSystem


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = fsspec.registry.get("hf")
    monkeypatch.setattr(registration, "_former", None)
    fsspec.register_implementation("hf", HfFileSystem, clobber=True)
    yield
    fsspec.register_implementation("hf", before or HfFileSystem, clobber=True)


def test_hf_urls_lead_to_ours_from_register_to_unregister() -> None:
    assert type(fsspec.filesystem("hf")) is HfFileSystem
    hf_haul.register("hf")
    fs, path = fsspec.core.url_to_fs("hf://datasets/org/data/a.csv")
    assert type(fs) is HfUrlFileSystem
    assert isinstance(fs, hf_haul.HaulFileSystem)
    assert path == "datasets/org/data/a.csv"
    assert fs.unstrip_protocol(path) == "hf://datasets/org/data/a.csv"
    hf_haul.unregister("hf")
    assert type(fsspec.filesystem("hf")) is HfFileSystem


def test_registered_twice_is_unregistered_once() -> None:
    hf_haul.register()
    hf_haul.register()
    hf_haul.unregister()
    assert fsspec.get_filesystem_class("hf") is HfFileSystem
    hf_haul.unregister()
    assert fsspec.get_filesystem_class("hf") is HfFileSystem


class _Theirs(HfFileSystem):  # type: ignore[misc]  # fsspec has no py.typed
    """Somebody else's."""


def test_what_was_registered_before_comes_back() -> None:
    fsspec.register_implementation("hf", _Theirs, clobber=True)
    hf_haul.register()
    hf_haul.unregister()
    assert fsspec.get_filesystem_class("hf") is _Theirs


def test_what_was_registered_over_ours_stays() -> None:
    hf_haul.register()
    fsspec.register_implementation("hf", _Theirs, clobber=True)
    hf_haul.unregister()
    assert fsspec.get_filesystem_class("hf") is _Theirs


def test_unpickling_a_filesystem_registers_it() -> None:
    hf_haul.register()
    pickled = pickle.dumps(fsspec.filesystem("hf", token=False))
    hf_haul.unregister()
    fs = pickle.loads(pickled)
    assert type(fs) is HfUrlFileSystem
    assert fs.token is False
    assert fsspec.get_filesystem_class("hf") is HfUrlFileSystem


@pytest.mark.parametrize("url", ["hf://org/m/a", "haul://org/m/a", "hf::org/m/a", "org/m/a"])
def test_paths_of_both_protocols_are_understood_under_either(url: str) -> None:
    assert HfUrlFileSystem._strip_protocol(url) == "org/m/a"
    assert hf_haul.HaulFileSystem._strip_protocol(url) == "org/m/a"


@pytest.mark.parametrize("change", [hf_haul.register, hf_haul.unregister])
def test_other_protocols_are_refused(change: object) -> None:
    with pytest.raises(ValueError, match="only 'hf' can be registered, not 's3'"):
        change("s3")  # type: ignore[operator]  # a function of one text
