from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import RepoFolder

from hf_haul.filesystem import pinned
from hf_haul.filesystem.pinned import PinnedApi
from hf_haul.hub.api import HubApi
from hf_haul.hub.listing import SamePageError

SHA = "a" * 40
FILES = [f"{folder}{i}" for folder in ("", "a/", "b/", "b/c/") for i in range(3)]
PAGE = 5


def entries(folder: str, recursive: bool) -> list[dict[str, Any]]:
    """What a Hub lists of a folder with ``FILES``."""
    start = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path in FILES:
        first, *rest = path.removeprefix(start).split("/")
        if not path.startswith(start):
            continue
        if rest:
            found[start + first] = {"type": "directory", "path": start + first, "oid": SHA}
        if recursive or not rest:
            found[path] = {"type": "file", "path": path, "size": 7, "oid": SHA}
    return list(found.values())


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> PinnedApi:
    """Of a mirror that has the first page of each listing only."""

    def tree_pages(base: str, url: str, headers: Any, *, recursive: bool, **_: Any) -> Iterator[Any]:
        found = entries(url.partition(f"/tree/{SHA}")[2].strip("/").replace("%2F", "/"), recursive)
        yield found[:PAGE], len(found) <= PAGE
        if len(found) > PAGE:
            raise SamePageError(base, PAGE, url)

    monkeypatch.setattr(pinned, "tree_pages", tree_pages)
    return PinnedApi(endpoint="http://hub.test", token=False)


def test_what_a_mirror_lists_a_page_of_is_put_together_from_its_folders_once_each(api: PinnedApi) -> None:
    found = list(api.list_repo_tree("org/m", revision=SHA, recursive=True))
    assert sorted(each.path for each in found) == sorted([*FILES, "a", "b", "b/c"])
    assert {each.path for each in found if isinstance(each, RepoFolder)} == {"a", "b", "b/c"}


def test_only_the_last_page_says_it_is_the_last(api: PinnedApi) -> None:
    pages = list(api._iter_repo_tree_pages("org/m", revision=SHA, recursive=True))
    assert [last for _, last in pages] == [False, True]
    assert [last for _, last in api._iter_repo_tree_pages("org/m", "a", revision=SHA)] == [True]


def test_a_single_folder_of_more_than_a_page_is_an_error_and_not_half_a_folder(
    api: PinnedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PAGE", 2)
    with pytest.raises(SamePageError, match="the first 2 entries"):
        list(api.list_repo_tree("org/m", revision=SHA))


def test_of_very_many_revisions_the_latest_are_remembered(
    api: PinnedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def repo_info(_: Any, repo_id: str, **__: Any) -> Any:
        asked.append(repo_id)
        return SimpleNamespace(sha=SHA)

    monkeypatch.setattr(HubApi, "repo_info", repo_info)
    for number in range(25_000):
        api.pinned_commit("model", f"org/m{number}", "main")
    assert len(api.commits) <= 10_000
    asked.clear()
    assert api.pinned_commit("model", "org/m24999", "main") == SHA
    assert asked == []
