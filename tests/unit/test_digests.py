"""Digests of files on disk, and of what is read back from them."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from tests.support.storage import stage

from hf_haul.cancellation import CancelToken
from hf_haul.digests import Digest, file_digest, hash_of, read_digest
from hf_haul.errors import StopRequestedError


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("sha256", "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"),
        ("git-sha1", "6b584e8ece562ebffc15d38808cd6b98fc3d97ea"),
        ("sha1", "040f06fd774092478d450774f5ba30c5da78acc8"),
        ("md5", "9a0364b9e99bb480dd25e1f0284c8555"),
    ],
)
def test_a_file_hashes_as_git_and_sha256sum_say(tmp_path: Path, algorithm: str, expected: str) -> None:
    path = stage(tmp_path / "f", b"content")
    assert file_digest(path, algorithm).value == expected


def test_hashing_ends_when_halted(tmp_path: Path) -> None:
    cancel_token = CancelToken()
    cancel_token.set()
    with pytest.raises(StopRequestedError):
        file_digest(stage(tmp_path / "f"), "sha256", cancel_token.check)


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "git-sha1"])
def test_a_file_read_back_has_its_digest(algorithm: str) -> None:
    data = random.Random(5).randbytes(3_000_001)

    def read_into(offset: int, view: memoryview) -> int:
        some = data[offset : offset + min(len(view), 700_000)]
        view[: len(some)] = some
        return len(some)

    header = b"blob 3000001\0" if algorithm == "git-sha1" else b""
    wanted = hashlib.new("sha256" if algorithm == "sha256" else "sha1", header + data).hexdigest()
    assert hash_of(read_into, len(data), algorithm, lambda: None) == wanted


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        pytest.param("AB" * 32, Digest("sha256", "ab" * 32), id="hex digits alone"),
        pytest.param("ab" * 20, Digest("git-sha1", "ab" * 20), id="as many as git has"),
        pytest.param("sha1:" + "ab" * 20, Digest("sha1", "ab" * 20), id="sha1 of the bytes"),
        pytest.param(" MD5:" + "Ab" * 16, Digest("md5", "ab" * 16), id="md5, in any case"),
    ],
)
def test_a_digest_is_read_from_text(text: str, digest: Digest) -> None:
    assert read_digest(text) == digest


@pytest.mark.parametrize("text", ["", "md5:", "sha256:ab", "crc32:12345678", "md5:" + "xy" * 16, "ab" * 16])
def test_a_text_that_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="digest"):
        read_digest(text)
