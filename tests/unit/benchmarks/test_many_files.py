"""A repository that is made page by page names every file once, and gives what it lists."""

from __future__ import annotations

from tests.benchmarks.many_files import FIRST, CountedTree

from hf_haul.localhub.objects import blob_id
from hf_haul.localhub.trees import FileEntry


def test_the_pages_have_each_file_once_and_the_one_that_goes_first_last() -> None:
    tree = CountedTree(2345)
    page, after = tree.page("", recursive=True, after=None, limit=1000)
    pages = [page]
    while after is not None:
        page, after = tree.page("", recursive=True, after=after, limit=1000)
        pages.append(page)
    found = [entry for page in pages for entry in page]
    files = [entry for entry in found if isinstance(entry, FileEntry)]
    assert list(map(len, pages)) == [1000, 1000, 349]
    assert len({entry.path for entry in files}) == len(files) == len(tree) == 2345
    assert found[-1].path == FIRST


def test_a_file_is_what_its_listing_says() -> None:
    tree = CountedTree(2345)
    page, _ = tree.page("", recursive=True, after=None, limit=1000)
    listed = page[-1]
    assert isinstance(listed, FileEntry)
    given = tree.files[listed.path].content
    assert listed.git_oid == blob_id(given.read(0, 100))
    assert tree.get("images/00000/99999999.png") is None
    assert tree.get("README.md") is None
