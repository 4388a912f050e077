from __future__ import annotations

import importlib
import json
import logging
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.hub_answers import REDACTED, SHA, SHA256, XET

from hf_haul.hub.file_listing import FileListing, pack
from hf_haul.hub.long_listings import FORMAT, read_long, write_long
from hf_haul.hub.metadata import ListedFile

upstream = importlib.import_module("huggingface_hub._tree_cache")
LFS = ListedFile(130, SHA, SHA256, 1 << 40)
FILES = {
    "z/plain": ListedFile(7, SHA),
    'odd "ü\\\n': ListedFile(7, "?"),
    "lfs": LFS,
    "xet": replace(LFS, xet_hash=XET),
    # Names that the format itself uses.
    "blob_id": ListedFile(1, SHA),
    "files": ListedFile(2, SHA),
    "format_version": ListedFile(3, SHA),
}


def _entries(files: dict[str, ListedFile]) -> dict[str, Any]:
    return {
        path: upstream.TreeCacheEntry(
            size=file.size,
            blob_id=file.blob_id,
            lfs_sha256=file.lfs_sha256,
            lfs_size=file.lfs_size,
            xet_hash=file.xet_hash,
        )
        for path, file in files.items()
    }


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return Path(upstream._tree_cache_path(str(tmp_path), SHA))


def test_huggingface_hub_reads_what_is_written_here(tmp_path: Path, ours: Path) -> None:
    assert upstream.TREE_CACHE_FORMAT_VERSION == FORMAT
    write_long(str(ours), FileListing(FILES))
    assert upstream.read_tree_cache(str(tmp_path), SHA) == _entries(FILES)
    assert [path.name for path in ours.parent.iterdir()] == [ours.name], "nothing is left beside it"


def test_it_says_the_same_as_huggingface_hubs_own(tmp_path: Path, ours: Path) -> None:
    upstream.write_tree_cache(str(tmp_path / "theirs"), SHA, _entries(FILES))
    write_long(str(ours), FileListing(FILES))
    theirs = Path(upstream._tree_cache_path(str(tmp_path / "theirs"), SHA))
    kept = json.loads(ours.read_text(encoding="utf-8"))
    assert kept == json.loads(theirs.read_text(encoding="utf-8"))
    assert list(kept["files"]) == sorted(FILES)
    assert read_long(str(theirs)) == read_long(str(ours)) == FILES


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2000])
def test_any_number_of_files_is_read_back(ours: Path, count: int) -> None:
    files = {f"{number}": ListedFile(number, SHA) for number in range(count)}
    write_long(str(ours), FileListing(files))
    assert read_long(str(ours)) == files


def test_a_redacted_listing_is_neither_written_nor_read(tmp_path: Path, ours: Path) -> None:
    redacted = {"a": replace(LFS, xet_hash=REDACTED)}
    write_long(str(ours), FileListing(redacted))
    assert not ours.exists()
    ours.parent.mkdir()
    ours.write_text(json.dumps({"format_version": FORMAT, "files": {"a": _entries(redacted)["a"].to_json()}}))
    assert read_long(str(ours)) is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{", id="cut"),
        pytest.param("[]", id="a list"),
        pytest.param('{"format_version": 2, "files": {}}', id="another format"),
        pytest.param('{"format_version": 1}', id="no files"),
        pytest.param('{"format_version": 1, "files": []}', id="files in a list"),
        pytest.param('{"format_version": 1, "files": {"a": 7}}', id="a number for a file"),
        pytest.param('{"format_version": 1, "files": {"a": {"size": 7}}}', id="no id"),
        pytest.param('{"format_version": 1, "files": {"a": {"blob_id": "x"}}}', id="no size"),
        pytest.param(
            f'{{"format_version": 1, "files": {{"a": {{"size": 1.5, "blob_id": "{SHA}"}}}}}}',
            id="half a byte",
        ),
        pytest.param(b"\xff", id="no text"),
    ],
)
def test_what_is_no_listing_counts_as_none(ours: Path, text: str | bytes) -> None:
    ours.parent.mkdir()
    ours.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_long(str(ours)) is None


def test_without_a_file_there_is_no_listing_and_no_warning(
    ours: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert read_long(str(ours)) is None
    assert not caplog.records


def test_a_listing_that_cannot_be_written_is_a_warning(ours: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours.parent.parent.joinpath("trees").write_text("a file where the folder goes")
    with caplog.at_level(logging.WARNING):
        write_long(str(ours), FileListing(FILES))
    assert "Ignored error while writing tree cache file" in caplog.text


def test_writing_and_reading_take_few_bytes_for_each_file(ours: Path) -> None:
    count = 20_000
    listing = FileListing()
    for number in range(count):
        listing.put(f"images/{number:08d}.png", pack(ListedFile(7, SHA)))
    peaks = []
    for act in (lambda: write_long(str(ours), listing), lambda: read_long(str(ours))):
        tracemalloc.start()
        try:
            act()
            peaks.append(tracemalloc.get_traced_memory()[1] / count)
        finally:
            tracemalloc.stop()
    assert peaks[0] < 60
    assert peaks[1] < 600
