"""Repositories are found by type and name, old names and new arrivals included."""

from __future__ import annotations

import pytest

from hf_haul.localhub.catalog import Catalog
from hf_haul.localhub.repository import Repo


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_type_and_id_together_name_a_repository() -> None:
    model, dataset = Repo("o/r"), Repo("o/r", "dataset")
    catalog = Catalog([model, dataset])
    assert catalog.get("model", "o/r") is model
    assert catalog.get("dataset", "o/r") is dataset
    assert catalog.get("space", "o/r") is None
    assert model.internal_id != dataset.internal_id
    catalog.remove(model)
    assert catalog.all() == [dataset]


def test_an_old_name_is_known_and_leads_to_the_new_one() -> None:
    catalog = Catalog([Repo("new/r")])
    catalog.rename("old", "new/r")
    assert catalog.knows("model", "old")
    assert catalog.new_id("model", "old") == "new/r"
    assert catalog.get("model", "old") is None
    assert not catalog.knows("dataset", "old")
    with pytest.raises(LookupError, match="nope"):
        catalog.rename("old", "nope")


def test_lfs_objects_are_found_by_repository_and_digest() -> None:
    one, two = Repo("o/one"), Repo("o/two")
    one.commit({"w.bin": b"weights"})
    catalog = Catalog([one, two])
    etag = one.head.tree.files["w.bin"].etag
    assert catalog.lfs_object(one.internal_id, etag) is one.head.tree.files["w.bin"].content
    assert catalog.lfs_object(two.internal_id, etag) is None
    assert catalog.lfs_object("nope", etag) is None


def test_new_repositories_are_looked_for_now_and_then() -> None:
    clock = Clock()
    first, there = Repo("o/first"), [Repo("o/first")]
    catalog = Catalog([first])
    catalog.look_again()
    assert not catalog.follows
    catalog.follow(lambda: there, 5, clock)
    assert catalog.follows
    catalog.look_again()
    assert catalog.all() == [first]  # one that is served already is left alone
    there.append(Repo("o/second"))
    catalog.look_again()
    assert len(catalog.all()) == 1  # too early
    clock.now = 5
    catalog.look_again()
    assert catalog.all() == [first, there[1]]
