"""Ranges of one file over HTTP: redirects followed once, signed URLs kept, every answer checked."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.config import DEFAULT_TIMINGS, Timings
from hf_haul.errors import (
    ConnectionFailedError,
    HttpStatusError,
    InvalidUrlError,
    LinkExpiredError,
    RangeRefusedError,
    ServerBusyError,
    SourceChangedError,
    StalledError,
    TransferError,
)
from hf_haul.ranges import ByteRange, parse_content_range, parse_length
from hf_haul.task import RemoteFile
from hf_haul.transports.pacing import RateLimits
from hf_haul.transports.pool import ConnectionPool, PooledResponse
from hf_haul.transports.response import DECODABLE
from hf_haul.transports.signed_links import usable_seconds
from hf_haul.transports.validators import is_comparable, kind_of, normalize_etag, versions_in
from hf_haul.urls import HttpUrl, host_of, join_url, parse_url, quote_header, redact

__all__ = ["HttpBody", "HttpSource"]

logger = logging.getLogger(__name__)

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: What a signed URL answers when its time is over, depending on who signed it.
_EXPIRED: Final = frozenset({400, 401, 403, 404, 410})
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524, 529})
#: What storage answers to a signed URL that comes with a token; S3 says 400.
_TWO_KEYS: Final = frozenset({400, 401, 403})
#: Fresh links refused in a row before a refusal is believed, if it went on for long enough: a signer's clock
#: may run late, and who checks the signatures may be down for a moment.
_REFUSALS: Final = 3


class HttpBody:
    """One answer's bytes, cut at the end of the range they were asked for.

    Attributes:
        headers: The answer's headers.
    """

    def __init__(
        self, response: PooledResponse, body_range: ByteRange | None, total: int | None, *, whole: bool
    ) -> None:
        self.range = body_range
        self.total = total
        self.headers = response.headers
        self.whole = whole
        self._response = response

    @property
    def url(self) -> str:
        """What answered, after all redirects."""
        return self._response.url

    def readinto(self, buffer: memoryview) -> int:
        """Fill the start of ``buffer``; see :class:`hf_haul.transports.base.Body`."""
        try:
            return self._response.readinto(buffer)
        except TransferError as error:
            error.host = host_of(self._response.url)
            raise

    def close(self) -> None:
        """Release the connection."""
        self._response.release()


class HttpSource:
    """Where one file's bytes come from, as learned so far; safe for many threads.

    The first request goes to the file's own URL. If it is redirected, the target is kept and serves all
    parts until it expires or is refused: one resolve per file, not per range. Only one thread asks at a time
    while the target is unknown; the others wait for its answer.

    Locking: ``_changed`` guards the attributes below it. It is never held during a request.
    """

    def __init__(
        self,
        remote: RemoteFile,
        pool: ConnectionPool,
        rate_limits: RateLimits,
        *,
        compress: bool = False,
        timings: Timings = DEFAULT_TIMINGS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.remote = remote
        self._home = parse_url(remote.url, userinfo=True)
        self.origin = self._home.origin
        original = remote.original_url
        self._secrets_for = parse_url(original, userinfo=True) if original else self._home
        self._server_wait = 0.0  # seconds spent on waits that the source asked for
        self._pool = pool
        self._rate_limits = rate_limits
        self._compress = compress
        self._timings = timings
        self._clock = clock
        self._changed = threading.Condition()
        self._target: HttpUrl | None = None  # what the file's URL led to; the URL itself if nowhere else
        self._target_expires = float("inf")
        self._target_answers = False  # whether it answered when it was last asked
        self._resolving = False
        self._refused_fresh = 0
        self._refused_since = 0.0
        self._token_ends_here = False  # whether only the file's own URL gets the token
        self.version: str | None = None  # etag or date of the bytes, where no digest will tell
        if remote.location is not None:
            try:
                self._remember(join_url(self._home, remote.location))
            except InvalidUrlError as error:  # the source will say so itself
                logger.debug("%s: its announced location is %s", remote.path, error)

    def open(self, want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool = False) -> HttpBody:
        """Request a range; see :class:`hf_haul.transports.base.Transport`. Every error names the file."""
        try:
            return self._open(want, cancel_token, fresh=fresh)
        except TransferError as error:
            if self.remote.path not in str(error):
                error.args = (f"{self.remote.path}: {error}", *error.args[1:])
            raise

    def _open(self, want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool) -> HttpBody:
        target = self._wait_for_target(cancel_token)
        if target is not None:
            response = self._ask(target, want, cancel_token, fresh=fresh)
            if response.status in _REDIRECTS:  # the mirror behind it moved
                self._forget(target)
                return self._answer(
                    self._follow(target, response, want, cancel_token, fresh=fresh), want, cancel_token
                )
            if response.status in _EXPIRED and target != self._home:
                self._forget(target)
                response.release()
                raise LinkExpiredError(
                    f"{redact(response.url)} answered {response.status}: its signed URL expired"
                )
            return self._answer(response, want, cancel_token)
        try:
            response = self._follow(self._home, None, want, cancel_token, fresh=fresh)
        finally:
            with self._changed:
                self._resolving = False
                self._changed.notify_all()
        return self._answer(response, want, cancel_token)

    # ---- one resolve per file

    def _wait_for_target(self, cancel_token: CancelToken) -> HttpUrl | None:
        """Return the known target, or ``None`` once it is this thread's turn to find it."""
        with self._changed:
            if self._target is None and not self._resolving:  # nobody has to be waited for
                cancel_token.check()
                self._resolving = True
                return None

        def wake() -> None:
            with self._changed:
                self._changed.notify_all()

        with cancel_token.waking(wake), self._changed:
            while True:
                cancel_token.check()
                if self._target is not None:
                    if self._clock() < self._target_expires:
                        return self._target
                    self._target = None
                if not self._resolving:
                    self._resolving = True
                    return None
                server_wait, began = self._server_wait, self._clock()
                with cancel_token.queueing():
                    self._changed.wait()
                # Whoever waits for one who was asked to wait was asked, too.
                cancel_token.server_wait += min(self._server_wait - server_wait, self._clock() - began)

    def _ask(
        self, target: HttpUrl, want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool
    ) -> PooledResponse:
        """Request the known target.

        Forget it if it cannot be reached, as the file's URL may lead elsewhere now.

        One that has answered may miss one answer, so that a connection that breaks costs no resolve. One that
        is given up because it takes its time is there.
        """
        try:
            response = self._get(target, want, cancel_token, fresh=fresh)
        except StalledError:
            raise
        except ConnectionFailedError:
            with self._changed:
                answered, self._target_answers = self._target_answers, False
            if not answered:
                self._forget(target)
            raise
        self._target_answers = True
        return response

    def _forget(self, target: HttpUrl) -> None:
        with self._changed:
            if self._target == target:
                self._target = None

    def _remember(self, target: HttpUrl, *, answers: bool = False) -> None:
        seconds = usable_seconds(str(target)) if "?" in target.target else float("inf")
        with self._changed:
            self._target = target
            self._target_answers = answers
            self._target_expires = self._clock() + seconds
            self._changed.notify_all()

    def _follow(
        self,
        url: HttpUrl,
        response: PooledResponse | None,
        want: ByteRange | None,
        cancel_token: CancelToken,
        *,
        fresh: bool,
    ) -> PooledResponse:
        """Follow redirects, from what ``url`` answered if that is known, to an answer that is none."""
        if response is None:
            response = self._get(url, want, cancel_token, fresh=fresh)
        hops, most = 0, self._pool.max_redirects
        while response.status in _REDIRECTS:
            hops += 1
            if hops > most:
                response.release()
                self._forget(url)
                raise TransferError(f"{redact(self.remote.url)}: more than {most} redirects")
            cancel_token.answered()
            url = self._led_to(url, response)
            if url.origin != self._home.origin and not self._refused_fresh:
                # Nobody has to wait until it has answered, which may take long. (On the own origin the token
                # is in doubt; and where the last link was refused, one connection is enough to see whether
                # this one is, too.)
                self._remember(url)
            try:
                response = self._get(url, want, cancel_token, fresh=fresh)
            except TransferError as error:
                if not isinstance(error, StalledError):
                    self._forget(url)  # the next attempt may be led elsewhere
                raise
            if response.status in _TWO_KEYS and url != self._home and self._has_token(url):
                response = self._without_token(response, url, want, cancel_token, fresh=fresh)
        if response.status in _EXPIRED and url != self._home:
            self._forget(url)
            self._refuse_fresh(response)
        if response.status in {200, 206}:
            self._refused_fresh = 0
            self._remember(url, answers=True)
        return response

    def _led_to(self, url: HttpUrl, response: PooledResponse) -> HttpUrl:
        """Return where a redirect of ``url`` leads."""
        location = response.headers.get("Location", "").split(", http", 1)[0]
        response.drain()
        self._check_linked(response.headers)
        if not (location and self.remote.redirects):
            why = "without a Location" if self.remote.redirects else "and may not lead elsewhere"
            told = f"{redact(response.url)} answered {response.status} {why}"
            raise HttpStatusError(told, status=response.status)
        try:
            return join_url(url, quote_header(location))
        except InvalidUrlError as error:
            raise InvalidUrlError(f"{redact(response.url)} redirects to an invalid URL: {error}") from None

    def _has_token(self, url: HttpUrl) -> bool:
        return any(k.lower() == "authorization" for k in self._headers_for(url))

    def _without_token(
        self,
        response: PooledResponse,
        url: HttpUrl,
        want: ByteRange | None,
        cancel_token: CancelToken,
        *,
        fresh: bool,
    ) -> PooledResponse:
        """Request a redirect's target once more, without the token.

        Behind a mirror that has everything on one origin, a signed URL looks like the Hub's own; what
        answers it is a storage that refuses a signature and a token together.
        """
        response.drain()
        self._token_ends_here = True
        response = self._get(url, want, cancel_token, fresh=fresh)
        if response.status in _TWO_KEYS:  # that was not it
            self._token_ends_here = False
        return response

    def _refuse_fresh(self, response: PooledResponse) -> None:
        """Deal with a link that is refused although it was signed a moment ago."""
        now = self._clock()
        if not self._refused_fresh:
            self._refused_since = now
        self._refused_fresh += 1
        body = response.head()
        response.release()
        message = f"{redact(response.url)} answered {response.status} to a fresh link"
        if self._refused_fresh > _REFUSALS and now - self._refused_since >= self._timings.refused_links:
            raise HttpStatusError(
                f"{message}, {self._refused_fresh} times", status=response.status, url=redact(response.url),
                headers=response.headers, body=body,
            )  # fmt: skip
        raise LinkExpiredError(message)

    # ---- one request

    def _get(
        self, url: HttpUrl, want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool
    ) -> PooledResponse:
        origin = url.origin
        headers = self._headers_for(url)
        decode = want is None and self._compress
        # A compressed body has no byte ranges of the file; and its Content-Length would not be the file's.
        headers["Accept-Encoding"] = "gzip" if decode else "identity"
        if want is not None:
            headers["Range"] = want.header
        self._server_wait += self._rate_limits.wait(origin, cancel_token)
        debugging = logger.isEnabledFor(logging.DEBUG)
        if debugging:
            logger.debug("GET %s%s %s", url.source, url.path, headers.get("Range", ""))
        # Whatever is encoded is undone: some do it unasked, and what a refusal says of its reason is to be
        # read.
        try:
            response = self._pool.open(
                url, headers, cancel_token, fresh=fresh, decode=True, network=self.remote.network, home=self._secrets_for,
            )  # fmt: skip
        except TransferError as error:
            error.host = url.authority
            raise
        if debugging:
            logger.debug("%d from %s%s", response.status, url.source, url.path)
        if response.status in _BUSY:
            retry_after = self._rate_limits.note(origin, response.status, response.headers)
            response.drain()
            busy = ServerBusyError(
                f"{redact(response.url)} answered {response.status}", retry_after=retry_after
            )
            busy.counts_requests = response.status == 429
            busy.host = url.authority
            raise busy
        return response

    def _headers_for(self, url: HttpUrl) -> dict[str, str]:
        """Return the file's headers for trusted origins; for others only what cannot be secret."""
        own = url.origin == self.origin
        if url != self._home and (
            self._token_ends_here or not (own or url.origin in self.remote.trusted_origins)
        ):
            return {k: v for k, v in self.remote.headers.items() if k.lower() == "user-agent"}
        headers = dict(self.remote.headers)
        password = self._home.authorization
        if own and password is not None:  # of the URL itself; it wins, as with requests and httpx
            headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
            headers["Authorization"] = password
        return headers

    # ---- is this the answer to what we asked?

    def _check_linked(self, headers: Mapping[str, str]) -> None:
        """Compare what a Hub's redirect says of the file with what we expect."""
        etag, size = normalize_etag(headers.get("X-Linked-Etag")), parse_length(headers.get("X-Linked-Size"))
        if etag and self.remote.etag and etag != self.remote.etag and is_comparable(etag, self.remote):
            raise SourceChangedError(f"{self.remote.path}: etag is {etag}, expected {self.remote.etag}")
        if size is not None and self.remote.size is not None and size != self.remote.size:
            raise SourceChangedError(
                f"{self.remote.path}: {redact(self.remote.url)} says it has {size} bytes, {self._expected_size}"
            )

    @property
    def _expected_size(self) -> str:
        by = f", as {self.remote.announced_by} announced" if self.remote.announced_by else ""
        return f"expected {self.remote.size}{by}"

    def _answer(
        self, response: PooledResponse, want: ByteRange | None, cancel_token: CancelToken
    ) -> HttpBody:
        try:
            cancel_token.check()
            if response.status == 200:
                return self._whole(response, want)
            if response.status == 206 and want is not None:
                return self._ranged(response, want)
            if response.status == 416:
                self._refused_range(response)
            raise HttpStatusError(
                f"{redact(response.url)} answered {response.status}", status=response.status,
                url=redact(response.url), headers=response.headers, body=response.head(),
                sent_token=self._has_token(response.asked),
            )  # fmt: skip
        except BaseException:
            response.release()
            raise

    def _whole(self, response: PooledResponse, want: ByteRange | None) -> HttpBody:
        if want is not None and want.start > 0:
            # Written at want.start, it would put the head of the file in its middle.
            raise RangeRefusedError(f"{redact(response.url)} sent the whole file instead of {want.header}")
        length = parse_length(response.headers.get("Content-Length"))
        encoding = self._encoding(response, length, self.remote.size)
        if encoding is not None and not self._compress:
            self._require_decodable(response, encoding)
        total = length if encoding is None else None
        self._check_same(response, total)
        size = self.remote.size if total is None else total
        return HttpBody(response, None if size is None else ByteRange(0, size), total, whole=True)

    def _ranged(self, response: PooledResponse, want: ByteRange) -> HttpBody:
        got = parse_content_range(response.headers.get("Content-Range"))
        if got is None or got.range is None:
            raise RangeRefusedError(f"{redact(response.url)} sent 206 without saying which bytes")
        self._check_same(response, got.total)
        open_ended = self.remote.size is None
        expected = min(want.stop, got.total) if open_ended and got.total is not None else want.stop
        if got.range != ByteRange(want.start, max(want.start, expected)):
            raise RangeRefusedError(
                f"{redact(response.url)} sent {got.range.header} instead of {want.header}"
            )
        length = parse_length(response.headers.get("Content-Length"))
        expected_length = len(got.range) if got.total == self.remote.size else None
        if self._encoding(response, length, expected_length) is not None:
            raise RangeRefusedError(f"{redact(response.url)} encoded a range")
        if length is not None and length != len(got.range):
            # Taken as cut short, it would be asked for again for every few bytes.
            raise RangeRefusedError(
                f"{redact(response.url)} says that it sends {got.range.header}, but as {length} bytes"
            )
        return HttpBody(response, got.range, got.total, whole=False)

    @staticmethod
    def _encoding(response: PooledResponse, length: int | None, expected: int | None) -> str | None:
        """Return how a body was encoded; ``None`` if its bytes are the file's as they come.

        A storage that keeps a file encoded says so of its very bytes: they are then as many as they must be.
        """
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding in {"", "identity"}:
            return None
        if expected is not None and length == expected:
            response.leave_encoded()
            return None
        return encoding

    def _require_decodable(self, response: PooledResponse, encoding: str) -> None:
        """Refuse an unrequested encoding, unless it can be undone and a digest checks the bytes."""
        said = f"{redact(response.url)} sent a body encoded as {encoding!r}, which was not asked for"
        if encoding not in DECODABLE:
            if self.remote.digest is not None and self.remote.size is None:
                response.leave_encoded()  # no encoding at all, perhaps (aws-chunked, utf-8); the digest will tell
                return
            raise RangeRefusedError(
                f"{said} and cannot be decoded. Use another mirror, or bypass the proxy; if the file is meant to be so, give its"
                " digest or its size (hf-haul get --sha256)."
            )
        if self.remote.digest is None and self.remote.size is None:
            raise RangeRefusedError(
                f"{said}, and nothing is known to check it by: give its digest or its size (hf-haul get --sha256)."
            )

    def _refused_range(self, response: PooledResponse) -> None:
        said = parse_content_range(response.headers.get("Content-Range"))
        self._check_same(response, said.total if said else None)
        raise RangeRefusedError(f"{redact(response.url)} answered 416 (range not satisfiable)")

    def _check_same(self, response: PooledResponse, total: int | None) -> None:
        """Refuse an answer that is about another file, or another version of it."""
        expected = self.remote.size
        if total is not None and expected is not None and total != expected:
            raise SourceChangedError(
                f"{self.remote.path}: {redact(response.url)} says it has {total} bytes, {self._expected_size}"
            )
        if self.remote.digest is not None or response.status == 416:
            return  # the digest tells better: two nodes of one CDN may name the same bytes differently
        said = versions_in(response.headers)
        with self._changed:
            known = self.version
            # Of the kind known already: not every node of a CDN sends both.
            now = said.get(kind_of(known)) if known is not None else next(iter(said.values()), None)
            if now is None or now == known:
                return
            self.version = now
        if known is not None:
            raise SourceChangedError(f"{self.remote.path}: changed at its source while being fetched ({now})")
