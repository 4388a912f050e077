"""What stands for a file of a queue, and what is said of what does not."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import RepoFile, RepoFolder

from hf_haul.digests import Digest
from hf_haul.engine.file_specs import FileSpec, as_specs
from hf_haul.task import DownloadPriority

SHA256, SHA1 = "ab" * 32, "cd" * 20
LFS = {"oid": SHA256, "size": 10, "pointerSize": 1}


@pytest.mark.parametrize(
    ("value", "spec"),
    [
        pytest.param("a/b.bin", FileSpec("a/b.bin"), id="a path"),
        pytest.param({"path": "a"}, FileSpec("a"), id="a dict with a path"),
        pytest.param(
            {
                "path": "a",
                "size": 10,
                "sha256": SHA256,
                "etag": "e",
                "url": "https://x/a",
                "priority": "high",
            },
            FileSpec("a", 10, Digest("sha256", SHA256), "e", "https://x/a", DownloadPriority.HIGH),
            id="a dict with all of it",
        ),
        pytest.param(FileSpec("a", 3), FileSpec("a", 3), id="one of ours"),
        pytest.param(
            FileSpec("a", digest=SHA1), FileSpec("a", digest=Digest("git-sha1", SHA1)), id="hex digits"
        ),
        pytest.param(
            RepoFile(path="a", size=10, oid=SHA1),
            FileSpec("a", 10, Digest("git-sha1", SHA1)),
            id="a git file of the Hub",
        ),
        pytest.param(
            RepoFile(path="a", size=10, oid=SHA1, lfs=LFS),
            FileSpec("a", 10, Digest("sha256", SHA256)),
            id="an LFS file",
        ),
        pytest.param(
            SimpleNamespace(path="a", size=None), FileSpec("a"), id="anything with a path and a size"
        ),
    ],
)
def test_what_says_a_path_and_a_size_is_a_file(value: Any, spec: FileSpec) -> None:
    assert as_specs([value]) == [spec]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(3, "file_specs[1] is 3, which does not stand for a file: each is a hf_haul.FileSpec, a path", id="a number"),
        pytest.param(Path("a"), "file_specs[1] is PosixPath('a'), which does not stand for a file", id="a path object"),
        pytest.param(None, "file_specs[1] is None, which does not stand for a file", id="None"),
        pytest.param(b"a", "file_specs[1] is b'a', which does not stand for a file", id="bytes"),
        pytest.param(RepoFolder(path="a", oid=SHA1), "it has a path, but no size, as folders do", id="a folder of the Hub"),
        pytest.param(SimpleNamespace(size=3), "anything with .path and .size, such as huggingface_hub's RepoFile", id="no path"),
        pytest.param({"path": "a", "digest": 7}, "'a': a digest is a hf_haul.Digest or its hex digits, not 7", id="a digest"),
        pytest.param({"path": "a", "etag": 7}, "'a': etag must be a text, or None, not 7", id="an etag"),
    ],
)  # fmt: skip
def test_what_stands_for_no_file_is_refused_with_its_place_and_what_does(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        as_specs(["first.bin", value])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param({"size": 3}, "file_specs[0] is a dict with no 'path' in it; its keys may be path, size,", id="no path"),
        pytest.param({"path": "a", "sze": 3}, "file_specs[0] is a dict with 'sze' in it; its keys may be", id="a slip"),
        pytest.param({"path": "a", "size": "3"}, "'a': size must be a number of bytes, or None", id="a size"),
        pytest.param({"path": "a", "priority": "urgent"}, "'a': priority must be one of HIGH (1), NORMAL (2), LOW (3), not 'urgent'", id="a priority"),
        pytest.param({"path": "a", "digest": "12"}, "'a': ", id="hex digits of no digest"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_file_and_name(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        as_specs([value])


@pytest.mark.parametrize("value", ["a.bin", {"path": "a"}, b"a", 3, None], ids=repr)
def test_one_file_is_no_list_of_files(value: Any) -> None:
    with pytest.raises(TypeError, match="file_specs must be a list of files, not "):
        as_specs(value)


def test_a_spec_is_a_value_that_hides_its_url() -> None:
    spec = FileSpec("a", url="https://x/a?signature=secret")
    assert pickle.loads(pickle.dumps(spec)) == spec == FileSpec("a", url=spec.url)
    assert "secret" not in repr(spec)


@pytest.mark.parametrize("value", [DownloadPriority.LOW, 3, "LOW", "low", "Low"])
def test_a_priority_may_be_named(value: Any) -> None:
    assert DownloadPriority(value) is DownloadPriority.LOW


@pytest.mark.parametrize("value", ["urgent", 0, 4, None, ""])
def test_a_wrong_priority_is_told_the_right_ones(value: Any) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"priority must be one of HIGH (1), NORMAL (2), LOW (3), not {value!r}")
    ):
        DownloadPriority(value)
