"""Errors tell the caller what to do."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle

import pytest

from hf_haul import errors
from hf_haul.errors import (
    CertificateError,
    ConnectionFailedError,
    DiskFullError,
    DownloadCancelledError,
    HaulError,
    HttpStatusError,
    IntegrityError,
    InvalidUrlError,
    LinkExpiredError,
    RangeRefusedError,
    RetriesExhaustedError,
    ServerBusyError,
    SourceChangedError,
    StalledError,
    StopRequestedError,
    TooManyOpenFilesError,
    TransferError,
    UnsafePathError,
    WrongBytesError,
    name_file,
)

EXAMPLES = [
    HaulError("plain"),
    UnsafePathError("../x"),
    DownloadCancelledError("a: cancelled"),
    StopRequestedError(),
    IntegrityError("a.bin", "0" * 64, "1" * 64, 5),
    DiskFullError("needs 10 GB, has 1 GB"),
    TooManyOpenFilesError("256 of 256 are open"),
    TransferError("plain", retry_after=2.5),
    InvalidUrlError("not an http(s) URL"),
    ConnectionFailedError("reset"),
    StalledError("slow"),
    ServerBusyError("429", retry_after=7.0),
    LinkExpiredError("403"),
    RangeRefusedError("200"),
    WrongBytesError("its Content-Digest is another"),
    SourceChangedError("etag"),
    HttpStatusError("404", status=404, url="https://hub/a", headers={"X": "y"}, body=b"gone"),
    CertificateError("self-signed"),
    RetriesExhaustedError("gave up", retry_after=1.0),
]


def test_every_error_of_the_module_has_an_example_here_and_is_listed() -> None:
    defined = {
        name for name, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__
    }
    assert (
        {type(error).__name__ for error in EXAMPLES}
        == defined
        == {name for name in errors.__all__ if name[0].isupper()}
    )


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_error_survives_pickling_and_copying(error: HaulError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)
        assert getattr(again, "errno", None) == getattr(error, "errno", None)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_error_is_caught_as_a_haul_error(error: HaulError) -> None:
    with pytest.raises(HaulError):
        raise error


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [
        (TransferError, False), (ConnectionFailedError, True), (StalledError, True), (ServerBusyError, True),
        (LinkExpiredError, True), (RangeRefusedError, False), (SourceChangedError, True), (HttpStatusError, False),
        (CertificateError, False), (RetriesExhaustedError, False),
    ],
)  # fmt: skip
def test_whether_another_attempt_can_help_is_said_by_the_class(
    kind: type[TransferError], retryable: bool
) -> None:
    assert kind.retryable is retryable


def test_errors_of_a_transfer_are_os_errors_so_that_old_except_clauses_work() -> None:
    assert issubclass(TransferError, OSError)
    assert issubclass(IntegrityError, OSError)
    assert issubclass(UnsafePathError, ValueError)


def test_a_full_disk_is_known_by_its_errno_and_reads_like_a_sentence() -> None:
    error = DiskFullError("needs 10 GB, has 1 GB")
    assert error.errno == errno.ENOSPC
    assert str(error) == "needs 10 GB, has 1 GB"


@pytest.mark.parametrize(
    ("resumed", "says"),
    [pytest.param(0, False, id="fetched at once"), pytest.param(7, True, id="resumed")],
)
def test_a_wrong_digest_tells_both_digests_and_whether_old_bytes_are_in_it(resumed: int, says: bool) -> None:
    error = IntegrityError("a.bin", "0" * 64, "1" * 64, resumed)
    assert str(error).startswith("a.bin: ")
    assert "0" * 64 in str(error)
    assert "1" * 64 in str(error)
    assert ("7 bytes of it from an earlier session" in str(error)) is says


@pytest.mark.parametrize(
    ("error", "said", "notes"),
    [
        (TransferError("reset"), "a.bin: reset", []),
        (TransferError("a.bin: reset"), "a.bin: reset", []),
        (DiskFullError("No space left"), "a.bin: No space left", []),
        (OSError(errno.EIO, "Input/output error"), f"[Errno {errno.EIO}] Input/output error: 'a.bin'", []),
        (OSError(errno.EIO, "No", "/x"), f"[Errno {errno.EIO}] No: '/x'", ["The file is 'a.bin'."]),
        (OSError("odd"), "odd", ["The file is 'a.bin'."]),
        (MemoryError(), "", ["The file is 'a.bin'."]),
        (StopRequestedError(), "", ["The file is 'a.bin'."]),
    ],
)
def test_an_error_names_its_file_once(error: Exception, said: str, notes: list[str]) -> None:
    for path in ("a.bin", "a.bin", "b.bin"):  # one error may end several files
        name_file(error, path)
    assert str(error) == said
    assert getattr(error, "__notes__", []) == notes
