"""A file before its first part and after its last: what becomes of it where it cannot be put into its place."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from hf_haul.config import Settings
from hf_haul.engine.file_steps import verify_and_publish
from hf_haul.engine.transfer import Transfer
from hf_haul.storage.claiming import claim
from hf_haul.storage.staged_file import StagedLostError


@dataclass
class _Request:
    destination: Any


@dataclass
class _Transfer:
    """As much of a transfer as finishing takes."""

    staged: Any
    request: _Request
    verifier: None = None


class _Place:
    """A destination that fails after it has done something with the sealed file."""

    def __init__(self, error: OSError, *, takes: bool) -> None:
        self._error = error
        self._takes = takes

    def publish(self, staged: Path) -> None:
        if self._takes:
            staged.unlink()
        if self._error.filename == "itself":
            self._error.filename = os.fspath(staged)
        raise self._error


def finish(folder: Path, error: OSError, *, takes: bool = False) -> OSError | StagedLostError:
    staged = claim(folder, "etag", 4)
    staged.write(0, memoryview(b"done"))
    staged.record(0, 4)
    transfer = cast("Transfer", _Transfer(staged, _Request(_Place(error, takes=takes))))
    with pytest.raises((OSError, StagedLostError)) as caught:
        verify_and_publish(transfer, Settings(durable=False))
    return cast("OSError | StagedLostError", caught.value)


def test_a_file_that_is_gone_before_it_is_placed_was_taken(tmp_path: Path) -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file", "itself")
    assert isinstance(finish(tmp_path, error, takes=True), StagedLostError)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "pointer"),
        FileNotFoundError(errno.ENOENT, "No such file", "folder of the pointer"),
        OSError(errno.ENAMETOOLONG, "File name too long", "note"),
    ],
    ids=lambda error: error.filename,
)
def test_what_fails_after_a_file_was_placed_is_no_theft(tmp_path: Path, error: OSError) -> None:
    assert finish(tmp_path, error, takes=True) is error


@pytest.mark.parametrize("code", ["ENAMETOOLONG", "ENOTDIR", "EISDIR", "EEXIST", "EINVAL", "EILSEQ"])
def test_of_a_file_that_has_no_place_nothing_is_left(tmp_path: Path, code: str) -> None:
    error = OSError(getattr(errno, code), "no place", "target")
    assert finish(tmp_path, error) is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", ["ENOSPC", "EACCES", "EROFS", "EIO", "ENOENT"])
def test_a_file_that_could_not_be_placed_this_time_is_kept_for_the_next(tmp_path: Path, code: str) -> None:
    error = OSError(getattr(errno, code), "not now", "target")
    assert finish(tmp_path, error) is error
    (left,) = tmp_path.iterdir()
    assert left.name == "etag.00000000.sealed.incomplete"
    assert left.read_bytes() == b"done"
