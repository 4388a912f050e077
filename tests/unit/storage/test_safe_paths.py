from __future__ import annotations

import os

import pytest
from tests.support.storage import COMMIT

from hf_haul.errors import UnsafePathError
from hf_haul.storage.destinations import (
    LocalDirDestination,
)
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.storage.safe_paths import (
    extended_path,
    is_content_addressed,
    require_safe_commit,
    require_safe_name,
    require_safe_path,
)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("../up", id="parent"),
        pytest.param("a/../../up", id="parent inside"),
        pytest.param("a\\..\\..\\up", id="parent with backslashes"),
        pytest.param("..", id="parent alone"),
        pytest.param("/etc/passwd", id="absolute"),
        pytest.param("\\windows", id="root-relative on Windows"),
        pytest.param("C:\\x", id="drive"),
        pytest.param("C:x", id="drive-relative"),
        pytest.param("a/C:/x", id="drive inside"),
        pytest.param("a/\\\\host\\share\\x", id="share inside"),
        pytest.param("\\\\host\\share\\x", id="share"),
        pytest.param("//host/share", id="share with slashes"),
        pytest.param("", id="nothing"),
        pytest.param(".", id="the folder itself"),
        pytest.param("a/..", id="the folder itself by a detour"),
        pytest.param("a\0b", id="nul"),
    ],
)
def test_a_path_that_leaves_its_folder_under_posix_or_windows_rules_is_refused(path: str) -> None:
    with pytest.raises(UnsafePathError):
        require_safe_path(path)


@pytest.mark.parametrize("path", ["a\ud800", "a/\udcff.bin"])
def test_a_path_that_is_no_text_is_refused(path: str) -> None:
    with pytest.raises(UnsafePathError, match="not Unicode"):
        require_safe_path(path)


@pytest.mark.parametrize(
    "path",
    [
        ".cache/huggingface/download/model.safetensors.metadata",
        ".cache/huggingface",
        ".CACHE/HuggingFace/x",
        "./.cache//huggingface/x",
        ".cache\\huggingface\\x",
        ".cache./huggingface /x",
        ".cache . ./huggingface.../x",
        ".cache:stream/huggingface::$INDEX_ALLOCATION/x",
        ".ca\u200cche/hugging\ufeffface/x",
        "\uff0ecache/\uff48uggingface/x",
        "CACHE~1/HUGGIN~1/x",
        "CA12AB~1/HUF00D~2/x",
        " ./.cache/huggingface/x",
    ],
)
def test_a_path_to_the_notes_of_a_local_dir_is_refused_however_it_is_written(
    local: LocalFolder, path: str
) -> None:
    for use in (local.file, local.metadata_path, lambda name: LocalDirDestination(local, name, COMMIT, "e")):
        with pytest.raises(UnsafePathError, match="own metadata"):
            use(path)


@pytest.mark.parametrize(
    "path",
    [
        ".cache",
        ".cache/other/x",
        "huggingface/.cache/x",
        "a/.cache/huggingface/x",
        "cache/huggingface/x",
        ".cache/x",
    ],
)
def test_a_path_beside_the_notes_of_a_local_dir_is_accepted(local: LocalFolder, path: str) -> None:
    assert local.file(path) == os.path.join(local.root, path)


@pytest.mark.parametrize(
    "path",
    ["a", "a/b/c.bin", "..a", "a..b/c..", "to?/awful?name%you:never", "a b", "ünï/日本語", "CON", ".git"],
)
def test_odd_names_that_stay_inside_are_accepted(path: str) -> None:
    require_safe_path(path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "C:x", "a\0", "x" * 201])
def test_an_etag_or_commit_that_cannot_name_one_file_is_refused(name: str) -> None:
    with pytest.raises(UnsafePathError, match="etag"):
        require_safe_name(name, what="etag")


@pytest.mark.parametrize(
    "name", ["", ".", "../x", "a/../b", "/a", "a//b", "a/", "a\\b", "C:/x", "a\0", "x" * 201]
)
def test_a_commit_that_would_leave_the_snapshots_is_refused(name: str) -> None:
    with pytest.raises(UnsafePathError, match="commit"):
        require_safe_commit(name)


@pytest.mark.parametrize(
    ("name", "lasting"),
    [
        pytest.param("c" * 40, True, id="sha1"),
        pytest.param("c" * 64, True, id="sha256"),
        pytest.param("main", False, id="branch"),
        pytest.param("release/1.0", False, id="tag with a slash"),
        pytest.param("refs/pr/1", False, id="pull request"),
        pytest.param("c" * 39, False, id="short id"),
    ],
)
def test_only_an_id_made_from_content_lasts(name: str, lasting: bool) -> None:
    assert require_safe_commit(name) == name
    assert is_content_addressed(name) is lasting


@pytest.mark.parametrize(
    ("path", "limit", "expected"),
    [
        pytest.param("C:\\short", 255, "C:\\short", id="short"),
        pytest.param("C:\\" + "a" * 260, 255, "\\\\?\\C:\\" + "a" * 260, id="long"),
        pytest.param("C:\\" + "a" * 246, 247, "\\\\?\\C:\\" + "a" * 246, id="too long for a folder"),
        pytest.param("C:\\" + "a" * 246, 255, "C:\\" + "a" * 246, id="not too long for a file"),
        pytest.param("\\\\h\\s\\" + "a" * 260, 255, "\\\\?\\UNC\\h\\s\\" + "a" * 260, id="share"),
        pytest.param("\\\\?\\C:\\" + "a" * 260, 255, "\\\\?\\C:\\" + "a" * 260, id="extended already"),
    ],
)
def test_long_windows_paths_take_their_extended_form(path: str, limit: int, expected: str) -> None:
    assert extended_path(path, limit, windows=True) == expected
    assert extended_path(path, limit, windows=False) == path


def test_names_in_more_folders_than_can_be_made_are_refused() -> None:
    deep = "d/" * 255
    require_safe_path(f"{deep}x")
    require_safe_commit(f"{deep}x")
    for refuse in (require_safe_path, require_safe_commit):
        with pytest.raises(UnsafePathError, match="in more than 255 folders"):
            refuse(f"{deep}d/x")
