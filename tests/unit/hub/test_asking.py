from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
)
from tests.support.hub_answers import (
    ENDPOINT,
    SHA,
    SHA256,
    Pages,
    Waits,
    error_of,
    failing,
    head,
    http,
    item,
    repository,
    response,
    serve_all,
)

from hf_haul import waits as haul_waits
from hf_haul.config import Timings
from hf_haul.errors import ConnectionFailedError, HttpStatusError
from hf_haul.failures import describe
from hf_haul.hub import asking, listing
from hf_haul.urls import host_of


@pytest.mark.parametrize(("seconds", "expected"), [(10, 75.0), (5, 5.0), (300, 300.0)])
def test_the_time_out_of_questions_about_metadata_is_huggingface_hubs_where_it_is_set(
    monkeypatch: pytest.MonkeyPatch, seconds: int, expected: float
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", seconds)
    assert asking.uncached_timeout() == expected
    asked = serve_all(monkeypatch, lambda _: http.Response(200, content=b"[]"))
    repository().list_files(SHA)
    assert asked[0].extensions["timeout"]["read"] == expected


@pytest.mark.parametrize(
    "body",
    [b"[1]", b'{"errors": 5}', b"[" * 100_000, b'{"error": {"a": 1}}', b"\xff"],
    ids=lambda b: repr(b[:10]),
)
def test_a_refusal_whose_words_cannot_be_read_is_a_refusal_all_the_same(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    refused = HttpStatusError("no", status=403, url=f"{ENDPOINT}/x", body=body)
    assert isinstance(repository().explain("a", SHA, refused), HfHubHTTPError)
    serve_all(monkeypatch, lambda _: http.Response(403, content=body))
    with pytest.raises(HfHubHTTPError):
        repository().list_files(SHA)


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "text"),
    [
        pytest.param(
            403, {"X-Error-Code": "GatedRepo", "Content-Encoding": "gzip", "Content-Length": "9"}, b"Ask first",
            GatedRepoError, "Ask first", id="gated",
        ),
        pytest.param(404, {"x-error-code": "EntryNotFound"}, b"", RemoteEntryNotFoundError, "Entry Not Found", id="no file"),
        pytest.param(410, {}, b'{"error": "Moved out"}', HfHubHTTPError, "Moved out", id="another status"),
    ],
)  # fmt: skip
def test_a_refused_download_is_explained_in_the_hubs_words(
    status: int, headers: dict[str, str], body: bytes, kind: type[Exception], text: str
) -> None:
    refused = HttpStatusError("no", status=status, url=f"{ENDPOINT}/x", headers=headers, body=body)
    explained = repository().explain("a", SHA, refused)
    assert type(explained) is kind
    assert text in str(explained)
    assert explained.response.status_code == status  # type: ignore[attr-defined]  # kind says so


@pytest.mark.parametrize(
    ("sent_token", "text"),
    [
        pytest.param(True, "The token is not valid", id="a token"),
        pytest.param(False, "may not be seen without a token", id="none"),
    ],
)
def test_who_sent_a_token_that_is_refused_is_not_told_to_send_one(sent_token: bool, text: str) -> None:
    headers = {"x-error-code": "RepoNotFound"}
    refused = HttpStatusError(
        "no", status=401, url=f"{ENDPOINT}/org/m/resolve/main/a", headers=headers, sent_token=sent_token
    )
    assert text in describe(repository().explain("a", SHA, refused)).text


def test_other_failures_keep_their_own_error() -> None:
    lost = ConnectionFailedError("lost")
    assert repository().explain("a", SHA, lost) is lost
    odd = HttpStatusError("odd", status=200, url=ENDPOINT)
    assert repository().explain("a", SHA, odd) is odd


@pytest.mark.parametrize(
    ("error", "waited"),
    [
        pytest.param(lambda: error_of(503), 1.0, id="503"),
        pytest.param(lambda: error_of(429, Retry_After="7"), 7.0, id="429 with Retry-After"),
        pytest.param(lambda: error_of(503, Retry_After="9" * 400), 120.0, id="503 that asks for ages"),
        pytest.param(lambda: error_of(429, Retry_After="9" * 400), 3600.0, id="429 that asks for ages"),
        pytest.param(
            lambda: HfHubHTTPError("busy", response=response(429, RateLimit='"api";r=0;t=' + "9" * 5000)),
            3600.0, id="a window without end",
        ),
        pytest.param(lambda: error_of(429, Retry_After="0"), 1.0, id="429 that says at once"),
        pytest.param(lambda: error_of(429, RateLimit='"api";r=0;t=3'), 4.0, id="429 with RateLimit"),
        pytest.param(lambda: error_of(429, RateLimit='"api";r=9;t=3'), 1.0, id="429 with quota left"),
        pytest.param(lambda: http.ReadTimeout("slow"), 1.0, id="timeout"),
    ],
)  # fmt: skip
def test_an_error_that_may_pass_is_waited_out(
    waits: Waits, error: Callable[[], Exception], waited: float
) -> None:
    assert asking.retry_busy(failing(error())) == "answer"
    assert waits.seconds == [waited]


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        pytest.param(
            lambda: error_of(429, url=f"{ENDPOINT}/x", Retry_After="7"), "rate_limit",
            "hub.test limits requests (status 429); retry 1 of 5 in 7 s", id="429",
        ),
        pytest.param(
            lambda: error_of(502, url=f"{ENDPOINT}/x"), "server_busy",
            "hub.test is busy (status 502); retry 1 of 5 in 1 s", id="502",
        ),
        pytest.param(
            lambda: http.ReadTimeout("slow"), "network", "hub.test did not answer in time; retry 1 of 5 in 1 s", id="slow"
        ),
        pytest.param(
            lambda: http.ConnectTimeout("slow"), "network", "hub.test cannot be reached; retry 1 of 5 in 1 s", id="away"
        ),
        pytest.param(
            lambda: http.ReadError("reset"), "network", "hub.test broke the connection; retry 1 of 5 in 1 s", id="reset"
        ),
        pytest.param(
            lambda: json.JSONDecodeError("x", "<html>", 0), "network",
            "hub.test answered with something that is not JSON; retry 1 of 5 in 1 s", id="a web page",
        ),
    ],
)  # fmt: skip
def test_a_wait_for_the_hub_is_one_event_and_one_line_and_counts_as_a_retry(
    waits: Waits,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], Exception],
    reason: str,
    message: str,
) -> None:
    caplog.set_level("INFO", "hf_haul")
    monkeypatch.setattr(haul_waits, "_log", haul_waits._Log())  # which knows of no other call's waits
    reported, told = haul_waits.Waits(), list[dict[str, Any]]()
    reported.listener = told.append
    ask = failing(error())
    assert asking.retry_busy(ask, what=f"{ENDPOINT}/org/m", retry_connect=True, waits=reported) == "answer"
    assert [(wait["reason"], wait["message"], wait["host"]) for wait in told] == [
        (reason, message.replace("hub.test", host_of(ENDPOINT)), host_of(ENDPOINT))
    ]
    assert caplog.messages == [told[0]["message"]]
    assert reported.asked_again == 1
    assert reported.current() == []


@pytest.mark.parametrize(
    ("error", "waited"),
    [
        pytest.param(lambda: error_of(429, url=f"{ENDPOINT}/x", Retry_After="57"), [57.0], id="429"),
        pytest.param(lambda: error_of(503, url=f"{ENDPOINT}/x"), [1.0], id="503 without a time"),
        pytest.param(lambda: error_of(404, url=f"{ENDPOINT}/x", Retry_After="57"), [], id="not for now"),
        pytest.param(lambda: http.ReadTimeout("slow"), [], id="waited for already"),
    ],
)
def test_a_question_is_not_asked_anew_before_the_time_that_the_last_answer_named(
    waits: Waits, error: Callable[[], Exception], waited: list[float]
) -> None:
    reported, told = haul_waits.Waits(), list[dict[str, Any]]()
    reported.listener = told.append
    asking.wait_as_requested(error(), reported)
    assert waits.seconds == waited
    assert [each["message"].rpartition("; ")[2] for each in told] == [
        f"asked again in {seconds:.0f} s" for seconds in waited
    ]


def test_patience_ends_after_five_waits_with_the_last_error(waits: Waits) -> None:
    with pytest.raises(HfHubHTTPError, match="/5"):
        asking.retry_busy(failing(*(error_of(503, url=f"{ENDPOINT}/{i}") for i in range(6))))
    assert waits.seconds == [1.0, 2.0, 4.0, 8.0, 8.0]


def test_the_waits_are_those_of_the_timings(waits: Waits) -> None:
    timings = Timings(ask_again=(0.5, 3.0))
    with pytest.raises(HfHubHTTPError, match="/2"):
        asking.retry_busy(failing(*(error_of(503, url=f"{ENDPOINT}/{i}") for i in range(3))), timings=timings)
    asking.wait_as_requested(error_of(503), timings=timings)
    assert waits.seconds == [0.5, 3.0, 0.5]


def test_a_hub_that_never_answers_is_asked_twice(waits: Waits) -> None:
    with pytest.raises(http.ReadTimeout, match="1"):
        asking.retry_busy(failing(*(http.ReadTimeout(str(i)) for i in range(6))))
    assert waits.seconds == [1.0]


@pytest.mark.parametrize(
    ("status", "asked", "waited"),
    [
        pytest.param(503, 50, [50.0, 50.0, 20.0], id="two minutes of a server that is busy"),
        pytest.param(503, 10**9, [120.0], id="a server that is busy for ages"),
        pytest.param(429, 1500, [1500.0, 1500.0, 600.0], id="an hour of one that counts requests"),
    ],
)
def test_patience_with_a_server_that_names_a_time_is_bounded_in_all(
    waits: Waits, status: int, asked: int, waited: list[float]
) -> None:
    busy = [error_of(status, Retry_After=str(asked)) for _ in range(6)]
    with pytest.raises(HfHubHTTPError, match=str(status)):
        asking.retry_busy(failing(*busy))
    assert waits.seconds == waited


def test_a_page_and_the_metadata_of_a_file_are_waited_for_as_everything_is(
    monkeypatch: pytest.MonkeyPatch, waits: Waits
) -> None:
    monkeypatch.setattr(
        listing, "_get", Pages(response(503, Retry_After="10000000000"), response(body=[item("a")]))
    )
    assert list(repository().list_files(SHA)) == ["a"]
    answers = iter([error_of(429, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"), head()])

    def asked(**_: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(file_download, "get_hf_file_metadata", asked)
    assert repository().metadata("a", SHA, timeout=3, retry=True).etag == SHA256
    assert waits.seconds == [120.0, 3600.0]


def test_the_error_of_a_question_that_nobody_answered_in_time_names_the_setting(waits: Waits) -> None:
    with pytest.raises(http.ReadTimeout, match=r"^slow \(HF_HUB_ETAG_TIMEOUT sets how long is waited\)$"):
        asking.retry_busy(failing(*(http.ReadTimeout("slow") for _ in range(6))))


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(lambda: error_of(403), id="refused"),
        pytest.param(lambda: http.ConnectError("refused"), id="nobody there"),
        pytest.param(lambda: http.ConnectTimeout("silence"), id="no way there"),
    ],
)
def test_an_error_that_will_not_pass_is_raised_at_once(waits: Waits, error: Callable[[], Exception]) -> None:
    with pytest.raises((HfHubHTTPError, http.ConnectError, http.ConnectTimeout)):
        asking.retry_busy(failing(error()))
    assert waits.seconds == []


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (lambda: error_of(500), True),
        (lambda: error_of(408), True),
        (lambda: error_of(404), False),
        (lambda: http.ReadError("reset"), True),
        (lambda: http.RemoteProtocolError("cut"), True),
        (lambda: FileMetadataError("no"), False),
        (lambda: asking.OfflineModeIsEnabled("off"), False),
    ],
)
def test_transient_errors_are_told_from_lasting_ones(error: Callable[[], Exception], transient: bool) -> None:
    assert asking.is_transient(error()) is transient
