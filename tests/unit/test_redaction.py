"""What libraries say while they work for us, and what they say otherwise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.listening import listening

from hf_haul.hub.metadata import FileMetadata
from hf_haul.hub.repository import Repository
from hf_haul.localhub import Account
from hf_haul.redaction import redact_error, redact_text, redacting
from hf_haul.storage.destinations import FileDestination
from hf_haul.task import DownloadTask, FileRequest, NetworkPath, RemoteFile
from hf_haul.transports.pool import ConnectionPool
from hf_haul.urls import parse_url

SIGNED = "https://user:pass@cdn.test/f?Signature=secret"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"HTTP Request: GET {SIGNED} 200", "HTTP Request: GET https://cdn.test/f 200"),
        (f"Failed (url='{SIGNED}'): why", "Failed (url='https://cdn.test/f'): why"),
        ('"GET /f?Signature=secret&Expires=1 HTTP/1.1" 200', '"GET /f HTTP/1.1" 200'),
        (
            "for url 'http://hub/tree/x?recursive=true&expand=false'.",
            "for url 'http://hub/tree/x?recursive=true&expand=false'.",
        ),
        (
            "http://hub/tree/x?recursive=true&expand=false.\nWhy",
            "http://hub/tree/x?recursive=true&expand=false.\nWhy",
        ),
        ("http://hub/tree/x?recursive=true&cursor=secret", "http://hub/tree/x"),
        ('"GET /tree/x?expand=false HTTP/1.1"', '"GET /tree/x?expand=false HTTP/1.1"'),
        ("with url: /f?Signature=secret (Caused by", "with url: /f (Caused by"),
        ("from socks5://user:pass@proxy:1080", "from socks5://proxy:1080"),
        ("authorization: Bearer hf_secret, x", "authorization: Bearer ..., x"),
        ("what? to?/awful?name is http://hub/a", "what? to?/awful?name is http://hub/a"),
        ("", ""),
    ],
)
def test_secrets_are_taken_out_of_a_text(text: str, told: str) -> None:
    assert redact_text(text) == told


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("r" * 300_000, id="letters"),
        pytest.param("?" * 300_000, id="question marks"),
        pytest.param("a://" + "." * 300_000, id="dots"),
        pytest.param("http://" * 40_000, id="schemes"),
        pytest.param("bearer" + " " * 300_000, id="blanks"),
    ],
)
def test_a_long_text_that_somebody_else_sends_takes_no_time(text: str) -> None:
    began = time.process_time()
    redact_text(f"Invalid rev id: {text} is http://user:secret@hub/a")
    assert time.process_time() - began < 5.0


def test_a_url_behind_a_long_word_is_redacted() -> None:
    assert redact_text("x" * 1000 + SIGNED) == "x" * 1000 + "https://cdn.test/f"


@pytest.mark.parametrize(
    ("name", "message", "args", "told"),
    [
        ("urllib3.connectionpool", '%s "%s %s"', ("http://cdn:80", "GET", "/f?Signature=s"), 'http://cdn:80 "GET /f"'),
        ("urllib3.connection", "Failed (url=%s): %s", (SIGNED, "[Defect()], unparsed data: 'Set-Cookie: s'"),
         "Failed (url=https://cdn.test/f): [Defect()]"),
        ("urllib3.util.retry", "Incremented Retry for (url='%s'): %r", ("/f?a=secret", None),
         "Incremented Retry for (url='/f'): None"),
        ("httpx", "HTTP Request: %s %s", ("GET", SIGNED), "HTTP Request: GET https://cdn.test/f"),
        ("httpcore2.http11", "%s return_value=%r", ("done", (b"HTTP/1.1", 302, b"Found", [(b"Location", b"/x?s=1")])),
         "done return_value=(b'HTTP/1.1', 302, b'Found'"),
        ("hpack.hpack", "Adding (b'authorization', b'secret') to the header table", (), "Adding"),
        ("huggingface_hub.utils._http", f"thrown while requesting GET {SIGNED}", (),
         "thrown while requesting GET https://cdn.test/f"),
    ],
)  # fmt: skip
def test_a_record_of_what_is_done_for_us_holds_no_secret(
    caplog: pytest.LogCaptureFixture, name: str, message: str, args: tuple[Any, ...], told: str
) -> None:
    logger = logging.getLogger(name)
    with caplog.at_level(logging.DEBUG, name):
        logger.debug(message, *args)
        with redacting():
            logger.debug(message, *args)
        logger.debug(message, *args)
    before, ours, after = caplog.records
    assert ours.getMessage() == told
    for record in (before, after):  # the application's own
        assert (record.msg, record.args) == (message, args)


def test_a_logger_made_later_is_looked_after(caplog: pytest.LogCaptureFixture) -> None:
    with redacting():
        pass
    logger = logging.getLogger("urllib3.made_by_a_later_version")
    with caplog.at_level(logging.DEBUG, logger.name), redacting():
        logger.warning("to %s", SIGNED)
    assert caplog.messages == ["to https://cdn.test/f"]


def test_other_threads_are_told_everything(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "httpx"), redacting():
        thread = threading.Thread(target=logging.getLogger("httpx").info, args=("to %s", SIGNED))
        thread.start()
        thread.join()
    assert caplog.messages == [f"to {SIGNED}"]


def test_a_record_with_an_error_tells_its_words_only() -> None:
    with listening() as heard, redacting():
        try:
            raise ValueError(SIGNED)
        except ValueError:
            logging.getLogger("urllib3.connection").warning("failed", exc_info=True)
    assert heard.holds("pass", "secret") == []
    assert "ValueError: https://cdn.test/f" in heard.told[0][1]


def test_a_broken_record_is_left_to_its_handler(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[logging.LogRecord] = []
    logger = logging.getLogger("httpx")
    monkeypatch.setattr(logger, "callHandlers", seen.append)
    with caplog.at_level(logging.DEBUG, "httpx"), redacting():
        logger.info("%d", "x")
    assert (seen[0].msg, seen[0].args) == ("%d", ("x",))


def nested() -> Exception:
    inner = OSError(f"cannot ask {SIGNED}")
    try:
        try:
            raise inner
        except OSError as error:
            raise ValueError(f"for {SIGNED}", error) from error
    except ValueError as error:
        outer = RuntimeError("it failed", error)
        outer.__context__ = error
        outer.__notes__ = [f"also {SIGNED}"]  # type: ignore[attr-defined]  # as add_note of 3.11
        error.__context__ = outer  # a circle
        return outer


@pytest.mark.parametrize("redacted", [redact_error, lambda error: leave(error)])
def test_an_error_is_told_without_secrets_down_to_its_roots(redacted: Callable[[Exception], None]) -> None:
    error = nested()
    redacted(error)
    with listening() as heard:
        heard.hear_error(error)
    assert heard.holds("pass", "secret") == []
    assert "https://cdn.test/f" in "".join(text for _, text in heard.told)
    assert error.args[0] == "it failed"


def leave(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, redacting():
        raise error
    assert caught.value is error


def test_an_error_with_errno_keeps_it() -> None:
    error = FileNotFoundError(2, f"no {SIGNED}", "name")
    redact_error(error)
    assert (error.errno, error.filename) == (2, "name")


@pytest.mark.parametrize(
    "value",
    [
        RemoteFile("a", SIGNED, headers={"Authorization": "secret"}, location=SIGNED),
        FileRequest(RemoteFile("a", SIGNED), FileDestination(Path("a"), SIGNED)),
        DownloadTask("m", "a", SIGNED, Path("a")),
        Repository(
            "org/m", endpoint="https://user:pass@hub.test", token="secret", headers={"X-Key": "secret"}
        ),
        FileMetadata("a" * 40, "etag", 1, location=SIGNED),
        ConnectionPool(1, proxies={"https": SIGNED}, headers={"X-Key": "secret"})._options,
        NetworkPath(proxy=SIGNED, proxy_headers=(("X-Key", "secret"),)),
        parse_url(SIGNED, userinfo=True),
        Account("ann", "secret"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_holds_a_secret_does_not_show_it(value: object) -> None:
    assert "secret" not in repr(value)
    assert "pass@" not in repr(value)
