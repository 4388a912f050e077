"""What people are told of each error: its kind, and one sentence without the name of a class."""

from __future__ import annotations

import errno
import json
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub.errors import (
    DryRunError,
    FileMetadataError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # public, but without an __all__

from hf_haul import errors
from hf_haul.failures import Failure, FailureKind, describe
from hf_haul.hub.asking import BadAnswerError, httpx

HUB = "https://hub.test"
API = f"{HUB}/api/models/org/m/revision/main"
FILE = f"{HUB}/org/m/resolve/v1/sub/a%20b.json"


def refused(
    status: int, url: str = API, *, code: str = "", token: bool = False, body: str = "", **headers: str
) -> HfHubHTTPError:
    """huggingface_hub's error for an answer of a Hub."""
    sent = {"Authorization": "Bearer hf_secret"} if token else {}
    response = httpx.Response(
        status,
        headers={"X-Request-Id": "Root=1-7", **({"X-Error-Code": code} if code else {}), **headers},
        text=body,
        request=httpx.Request("GET", url, headers=sent),
    )
    with pytest.raises(HfHubHTTPError) as caught:
        hf_raise_for_status(response)
    return caught.value


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def at(url: str, error: Callable[..., Any], text: str) -> Any:
    """An error of httpx's about a URL."""
    return error(text, request=httpx.Request("GET", url))


def numbered(number: int, path: str | None = None) -> OSError:
    return OSError(number, "what the system says", path)


def not_json(body: str) -> json.JSONDecodeError:
    return json.JSONDecodeError("Expecting value", body, 0)


K = FailureKind
CASES = [
    pytest.param(
        refused(404, code="RepoNotFound", token=True),
        K.NOT_FOUND,
        "Repository org/m does not exist, or this token may not see it",
        id="no such repository",
    ),
    pytest.param(
        refused(401),
        K.NOT_FOUND,
        "Repository org/m does not exist, or may not be seen without a token",
        id="no such repository, and no token",
    ),
    pytest.param(
        refused(404, f"{HUB}/api/datasets/org/d/revision/main", code="RepoNotFound", token=True),
        K.NOT_FOUND,
        "Repository datasets/org/d does not exist, or this token may not see it",
        id="no such dataset",
    ),
    pytest.param(
        refused(404, f"{HUB}/gpt2/resolve/main/a.json", code="RepoNotFound"),
        K.NOT_FOUND,
        "Repository gpt2 does not exist, or this token may not see it",
        id="a name without an organisation",
    ),
    pytest.param(
        refused(401, token=True),
        K.DENIED,
        "The token is not valid: https://hub.test does not accept it",
        id="a wrong token",
    ),
    pytest.param(
        refused(401, token=True, **{"X-Error-Message": "Invalid credentials in Authorization header"}),
        K.DENIED,
        "The token is not valid: https://hub.test does not accept it",
        id="a wrong token, as the Hub says it",
    ),
    pytest.param(
        refused(404, f"{HUB}/api/models/org/m/revision/v%2F9", code="RevisionNotFound"),
        K.NOT_FOUND,
        "Revision v/9 does not exist in repository org/m",
        id="no such revision",
    ),
    pytest.param(
        refused(404, FILE, code="EntryNotFound"),
        K.NOT_FOUND,
        "File sub/a b.json does not exist in repository org/m at v1",
        id="no such file",
    ),
    pytest.param(
        refused(404, f"{HUB}/spaces/org/s/resolve/main/app.py", code="EntryNotFound"),
        K.NOT_FOUND,
        "File app.py does not exist in repository spaces/org/s",
        id="no such file of a space",
    ),
    pytest.param(
        refused(401, FILE, code="GatedRepo"),
        K.DENIED,
        "Repository org/m is gated, and no valid token was sent",
        id="gated, without a token",
    ),
    pytest.param(
        refused(403, FILE, code="GatedRepo", token=True),
        K.DENIED,
        "Repository org/m is gated, and this token's account has not been let in",
        id="gated",
    ),
    pytest.param(
        refused(403, **{"X-Error-Message": "Access to this resource is disabled."}),
        K.DENIED,
        "Access to repository org/m is disabled",
        id="disabled",
    ),
    pytest.param(refused(403), K.DENIED, f"{API} may not be read (403)", id="forbidden"),
    pytest.param(refused(429), K.NETWORK, "https://hub.test is rate-limiting requests (429)", id="429"),
    pytest.param(
        errors.HttpStatusError("a: said 507", status=507, url=f"{HUB}/a.bin"),
        K.NETWORK,
        "https://hub.test has no room for https://hub.test/a.bin (507)",
        id="507",
    ),
    pytest.param(refused(503), K.NETWORK, "https://hub.test is unavailable or overloaded (503)", id="503"),
    pytest.param(refused(418), K.OTHER, f"{API} was refused (418)", id="another status"),
    pytest.param(
        at(API, httpx.ConnectError, "[Errno 111] Connection refused"),
        K.NETWORK,
        "https://hub.test cannot be reached: the connection was refused",
        id="connection refused",
    ),
    pytest.param(
        at(API, httpx.ConnectError, "[Errno -2] Name or service not known"),
        K.NETWORK,
        "https://hub.test cannot be reached: its name cannot be resolved",
        id="no such host",
    ),
    pytest.param(
        at(API, httpx.ConnectError, "[Errno 101] Network is unreachable"),
        K.NETWORK,
        "https://hub.test cannot be reached: Network is unreachable",
        id="no network",
    ),
    pytest.param(
        at(
            API,
            httpx.ConnectError,
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1016)",
        ),
        K.NETWORK,
        "https://hub.test cannot be trusted: its certificate was refused "
        "(certificate verify failed: self-signed certificate)",
        id="a certificate nobody vouches for",
    ),
    pytest.param(
        at(API, httpx.ReadTimeout, "timed out"),
        K.NETWORK,
        "https://hub.test did not answer in time",
        id="no answer",
    ),
    pytest.param(
        at(API, httpx.RemoteProtocolError, "Server disconnected without sending a response."),
        K.NETWORK,
        "The connection to https://hub.test broke: Server disconnected without sending a response",
        id="cut off",
    ),
    pytest.param(
        at(API, httpx.ProxyError, "407 Proxy Authentication Required"),
        K.NETWORK,
        "The proxy before https://hub.test cannot be used: 407 Proxy Authentication Required",
        id="a proxy",
    ),
    pytest.param(
        httpx.ConnectError("Connection refused"),
        K.NETWORK,
        "The Hub cannot be reached: the connection was refused",
        id="of an unknown server",
    ),
    pytest.param(
        caused(BadAnswerError(f"{HUB}/org/m", not_json("")), not_json(" <!DOCTYPE html>")),
        K.NETWORK,
        "https://hub.test answered with a web page instead of data, as networks do that want a log-in first",
        id="a captive portal",
    ),
    pytest.param(
        not_json("hello"),
        K.NETWORK,
        "The Hub did not answer with data of a Hub",
        id="no JSON",
    ),
    pytest.param(
        FileMetadataError(
            f"Response from {FILE} is missing the 'X-Repo-Commit' header, so it does not seem to be"
        ),
        K.NETWORK,
        "https://hub.test does not answer as a Hub does: something in between may be answering, such as a network "
        "that wants a log-in first",
        id="a captive portal, of one file",
    ),
    pytest.param(
        FileMetadataError(
            "https://hub.test lists only the first 3 entries. Set HF_ENDPOINT to another mirror."
        ),
        K.NETWORK,
        "https://hub.test lists only the first 3 entries",
        id="a mirror's fault",
    ),
    pytest.param(
        caused(
            LocalEntryNotFoundError("An error happened"), at(API, httpx.ConnectError, "Connection refused")
        ),
        K.NETWORK,
        "https://hub.test cannot be reached: the connection was refused; and the cache does not have it",
        id="neither the Hub nor the cache",
    ),
    pytest.param(
        LocalEntryNotFoundError("Cannot find it and outgoing traffic has been disabled."),
        K.NOT_FOUND,
        "It is not in the cache, and the Hub may not be asked: offline mode is on (HF_HUB_OFFLINE), or was asked for",
        id="offline",
    ),
    pytest.param(
        LocalEntryNotFoundError("The model org/m is not in the cache /cache"),
        K.NOT_FOUND,
        "The model org/m is not in the cache /cache",
        id="not in the cache, and the Hub was not to be asked",
    ),
    pytest.param(
        caused(IncompleteSnapshotError("17 file(s) are missing", "/cache/x"), OfflineModeIsEnabled("no")),
        K.NOT_FOUND,
        "Offline mode is on (HF_HUB_OFFLINE), so the Hub was not asked; and the cache has only a part of it "
        "(17 files are missing)",
        id="offline, and a part is there",
    ),
    pytest.param(
        IncompleteSnapshotError("1 file(s) are missing", "/cache/x"),
        K.NOT_FOUND,
        "Offline, and the cache has only a part of it (1 file is missing)",
        id="a part is there, and that was all that was asked",
    ),
    pytest.param(
        caused(ValueError("Force download failed due to the above error."), refused(503)),
        K.NETWORK,
        "https://hub.test is unavailable or overloaded (503)",
        id="fetched anew",
    ),
    pytest.param(
        caused(
            DryRunError("Dry run cannot be performed as the repository cannot be accessed."), refused(503)
        ),
        K.NETWORK,
        "https://hub.test is unavailable or overloaded (503)",
        id="a dry run",
    ),
    pytest.param(
        LocalTokenNotFoundError("Token is required"),
        K.DENIED,
        "A token is required, and none is stored",
        id="no token",
    ),
    pytest.param(
        HFValidationError("Repo id must be in the form 'a/b': 'a/b/c'. Use `repo_type` argument if needed."),
        K.USAGE,
        "Repo id must be in the form 'a/b': 'a/b/c'",
        id="no name of a repository",
    ),
    pytest.param(
        errors.HttpStatusError("a: said 404", status=404, url=f"{HUB}/a.bin"),
        K.NOT_FOUND,
        "https://hub.test/a.bin does not exist (404)",
        id="any URL",
    ),
    pytest.param(
        errors.HttpStatusError("a: said 401", status=401, url=f"{HUB}/a.bin"),
        K.DENIED,
        "https://hub.test/a.bin may not be read without a token (401)",
        id="any URL, refused",
    ),
    pytest.param(
        errors.HttpStatusError("a: said 401", status=401, url=f"{HUB}/a.bin", sent_token=True),
        K.DENIED,
        "https://hub.test/a.bin may not be read with the token or password that was sent (401)",
        id="any URL, refused although something was sent",
    ),
    pytest.param(
        errors.HttpStatusError("no Location", status=302), K.NETWORK, "no Location", id="of no known URL"
    ),
    pytest.param(
        errors.IntegrityError("a.bin", "aa", "bb"),
        K.INTEGRITY,
        "a.bin: digest does not match (expected aa, got bb)",
        id="wrong bytes",
    ),
    pytest.param(
        errors.RetriesExhaustedError("a.bin: gave up after 9 attempts"),
        K.NETWORK,
        "a.bin: gave up after 9 attempts",
        id="given up",
    ),
    pytest.param(errors.DiskFullError("Not enough. Free some."), K.DISK, "Not enough", id="will not fit"),
    pytest.param(errors.InvalidUrlError("no URL"), K.USAGE, "no URL", id="no URL"),
    pytest.param(errors.CertificateError("h: no trust"), K.NETWORK, "h: no trust", id="TLS"),
    pytest.param(
        errors.CertificateError(
            "a.bin: h: TLS refused the server: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed "
            "certificate (_ssl.c:1006). Behind a proxy that opens TLS, name its certificate in REQUESTS_CA_BUNDLE"
        ),
        K.NETWORK,
        "a.bin: h cannot be trusted: its certificate was refused (certificate verify failed: self-signed certificate)",
        id="TLS of bytes",
    ),
    pytest.param(
        errors.CertificateError(
            "h: TLS refused the server: [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1)"
        ),
        K.NETWORK,
        "h does not speak TLS (wrong version number)",
        id="no TLS at all",
    ),
    pytest.param(errors.UnsafePathError("../a leads out"), K.OTHER, "../a leads out", id="an unsafe path"),
    pytest.param(errors.TooManyOpenFilesError("too many"), K.OTHER, "too many", id="too many files"),
    pytest.param(
        numbered(errno.ENOSPC, "/d/a"), K.DISK, "No space is left on the disk: /d/a", id="a full disk"
    ),
    pytest.param(numbered(errno.EACCES, "/d/a"), K.DISK, "Permission denied: /d/a", id="not writable"),
    pytest.param(numbered(errno.EROFS), K.DISK, "The file system is read-only", id="read-only"),
    pytest.param(numbered(errno.ENOENT, "/d/a"), K.OTHER, "No such file or folder: /d/a", id="not there"),
    pytest.param(numbered(errno.ECONNRESET), K.NETWORK, "what the system says", id="a broken connection"),
    pytest.param(
        numbered(errno.EADDRINUSE), K.OTHER, "what the system says", id="another error of the system"
    ),
    pytest.param(
        ssl.SSLError(1, "handshake failure"), K.NETWORK, "handshake failure", id="an error of ssl's"
    ),
    pytest.param(
        RuntimeError("Could not determine home directory."),
        K.DISK,
        "There is no home folder: HOME is not set, and the system knows none of this user",
        id="no home",
    ),
    pytest.param(
        RuntimeError("the manager is shut down"), K.OTHER, "the manager is shut down", id="words of ours"
    ),
    pytest.param(KeyError("x"), K.UNFORESEEN, "KeyError: 'x'", id="unforeseen"),
    pytest.param(MemoryError(), K.UNFORESEEN, "MemoryError", id="unforeseen, without a word"),
    pytest.param(
        OSError(), K.OTHER, "The system reported an unspecified error", id="of the system, without a word"
    ),
    pytest.param(IsADirectoryError("a is a folder"), K.DISK, "a is a folder", id="a folder in the way"),
]


@pytest.mark.parametrize(("error", "kind", "text"), CASES)
def test_an_error_is_said_in_words(error: BaseException, kind: FailureKind, text: str) -> None:
    failure = describe(error)
    assert (failure.kind, failure.text) == (kind, text)


@pytest.mark.parametrize(("error", "kind", "text"), CASES)
def test_nothing_of_it_is_of_several_lines_or_empty(
    error: BaseException, kind: FailureKind, text: str
) -> None:
    failure = describe(error)
    for line in (failure.text, failure.hint or "no hint", *failure.details):
        assert line
        assert len(line.splitlines()) == 1
    assert "hf_secret" not in str(failure)


def test_what_helps_to_look_into_it_is_below() -> None:
    error = refused(404, f"{HUB}/org/m/resolve/main/a.json?sig=secret", code="EntryNotFound", body="no\nsuch")
    assert describe(error).details == (
        f"GET {HUB}/org/m/resolve/main/a.json: 404",
        "the server says: no such",
        "request id: Root=1-7",
    )


def test_what_to_do_is_said() -> None:
    assert "hf auth login" in str(describe(refused(401)).hint)
    assert f"{HUB}/org/m" in str(describe(refused(403, FILE, code="GatedRepo")).hint)
    assert "in 17 s" in str(describe(refused(429, **{"Retry-After": "17"})).hint)
    full = errors.DiskFullError("Not enough space: 3 bytes. Free some space, or choose another folder.")
    assert describe(full).hint == "Free some space, or choose another folder"


def test_a_server_cannot_command_the_terminal() -> None:
    error = refused(404, code="EntryNotFound", body="gone\x1b]0;owned\x07\x1b[2J")
    assert not any("\x1b" in line or "\x07" in line for line in describe(error).details)


def test_a_failure_of_a_subclass_that_nobody_knows_is_said_as_its_base_class_is() -> None:
    class Odd(errors.ConnectionFailedError):
        pass

    assert describe(Odd("h: closed")) == Failure(
        K.NETWORK, "h: closed", "Run it again a little later: it goes on from what is there"
    )


def test_what_lasted_is_told_first_and_how_long_it_was_tried_below() -> None:
    last = errors.ServerBusyError("a.bin: https://cdn.test/lfs/aa/bb?X=1 answered 500")
    error = errors.RetriesExhaustedError(
        "a.bin: gave up after 9 attempts, the last 8 of them and 60 s without a new byte; the last error: ..."
    )
    error.__cause__ = last
    found = describe(error)
    assert found.text == "a.bin: https://cdn.test answered 500"
    assert found.hint is not None
    assert found.details[0] == "gave up after 9 attempts, the last 8 of them and 60 s without a new byte"
    assert "https://cdn.test/lfs/aa/bb" in found.details[1]
    error.__cause__ = errors.ConnectionFailedError("a.bin: h: Connection refused")
    assert "proxy" in str(describe(error).hint)
