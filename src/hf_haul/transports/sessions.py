"""What a user sets on a pool's sessions, and how a request obeys it.

A session carries settings as ``requests`` knows them. Those that a pool has itself (``verify``, ``cert``,
``proxies``, ``trust_env``, ``headers``) hold as if the pool had been made with them. Any other (an adapter
that was mounted, cookies, ``auth``, hooks, ``params``) has requests go the way of ``requests``, but for
redirects, which are the caller's to follow. There the rules of ``requests`` say what goes along: ``auth``,
and headers and cookies that are secrets, stay at the host that they were meant for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from http.cookiejar import CookieJar
from typing import Any, Final, TypeVar

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar
from requests.hooks import dispatch_hook
from requests.sessions import SessionRedirectMixin
from requests.structures import CaseInsensitiveDict
from requests.utils import default_headers
from urllib3.exceptions import HTTPError

from hf_haul.transports.network import Adapter
from hf_haul.urls import HttpUrl

__all__ = [
    "PoolSession",
    "UsualHeaders",
    "close_mounted",
    "keeps_secrets",
    "needs_requests",
    "obey",
    "receive",
    "renew_in_child",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: How often settings are looked at once more that are being changed.
_LOOKS: Final = 100
#: Headers of a session that are for the host alone that they were meant for.
_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
#: What ``requests`` says where nobody says anything else.
_UNSAID: Final = {name.lower(): value for name, value in default_headers().items()}
#: What closing an answer may raise whose connection is broken.
_BROKEN: Final = (requests.RequestException, HTTPError, OSError)
#: What adapters had in the parent of this process. Given up, it would be closed under locks that threads of
#: the parent may have held.
_of_parents: Final[list[object]] = []


class PoolSession(requests.Session):
    """One thread's session. All of a pool share their settings: what is set on one is set on each."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.__dict__ = settings  # the same for all

    def close(self) -> None:
        """Do nothing: other threads may be using the adapters, which the pool closes at its own end."""

    def __reduce__(self) -> Any:
        """Pickle as a session of ``requests`` with the same settings, and without the pool's connections."""
        state = {name: getattr(self, name) for name in self.__attrs__}
        mounted = {prefix: each for prefix, each in self.adapters.items() if not isinstance(each, Adapter)}
        return _plain_session, ({**state, "adapters": mounted},)


def _plain_session(state: dict[str, Any]) -> requests.Session:
    session = requests.Session()
    adapters: dict[str, BaseAdapter] = state.pop("adapters")
    vars(session).update(state)
    for prefix, adapter in adapters.items():
        session.mount(prefix, adapter)
    return session


def needs_requests(session: requests.Session) -> bool:
    """Return whether anything is set on a session that only ``requests`` knows how to obey."""
    return bool(
        session.auth is not None
        or session.params
        or any(list(session.hooks.values()))
        or not all(isinstance(each, Adapter) for each in list(session.adapters.values()))
        or _has_any(session.cookies)
    )


def _has_any(cookies: Any) -> bool:
    try:
        return next(iter(cookies), None) is not None
    except RuntimeError:  # another thread is adding one
        return True


def keeps_secrets(session: requests.Session | None, home: HttpUrl | None, url: HttpUrl) -> bool:
    """Return whether ``url`` gets what is secret of the settings, by the rules of ``requests``.

    Args:
        session: The session; ``None`` where nobody has had one.
        home: The file's URL, where ``url`` is asked for instead; ``None`` if it is that.
        url: What is asked for.
    """
    if home is None or home.origin == url.origin:
        return True
    rules: Any = SessionRedirectMixin() if session is None else session
    return not rules.should_strip_auth(str(home), str(url))


class UsualHeaders:
    """The headers of all requests: a pool's own, as they were changed on a session.

    Found once for what a session says: to look whether it still says the same takes a fifth of that.

    Args:
        own: The pool's.
    """

    def __init__(self, own: Mapping[str, str]) -> None:
        self._own = own
        self._own_harmless = _harmless(own)
        self._last: tuple[object, dict[str, str], dict[str, str]] = (None, {}, {})

    def unchanged(self, home: HttpUrl | None, url: HttpUrl) -> Mapping[str, str]:
        """Return the pool's own, where nobody has had a session.

        Args:
            home: The file's URL, where ``url`` is asked for instead; ``None`` if it is that.
            url: What is asked for.
        """
        if len(self._own) == len(self._own_harmless) or keeps_secrets(None, home, url):
            return self._own
        return self._own_harmless

    def of(self, session: requests.Session, *, secrets: bool) -> dict[str, str]:
        """Return them; not to be changed.

        Args:
            session: The session.
            secrets: Whether those that are secrets are among them.
        """
        said: Any = session.headers
        now = _settled(partial(_items, said))
        then, usual, harmless = self._last
        if now != then:
            usual = self._changed_by(_settled(partial(CaseInsensitiveDict, said)))
            harmless = _harmless(usual)
            self._last = (now, usual, harmless)
        return usual if secrets else harmless

    def _changed_by(self, said: CaseInsensitiveDict[Any]) -> dict[str, str]:
        usual = {name: value for name, value in self._own.items() if said.get(name) is not None}
        for name, value in said.items():
            lower = name.lower()
            same = next((each for each in usual if each.lower() == lower), None)
            if value in (None, _UNSAID.get(lower), usual.get(same or "")):
                continue
            if same is not None:
                del usual[same]
            usual[name] = value
        return usual


def _items(said: Any) -> tuple[Any, ...]:
    return tuple(said.lower_items() if isinstance(said, CaseInsensitiveDict) else said.items())


def _settled(look: Callable[[], T]) -> T:
    """Return what was seen of settings that another thread may change at any time, which ends a look."""
    for _ in range(_LOOKS):
        with suppress(RuntimeError, KeyError):
            return look()
    return look()


def _harmless(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _SECRET}


def obey(
    session: requests.Session, prepared: requests.PreparedRequest, *, first: bool, secrets: bool
) -> None:
    """Add what a session asks for to a request that has its URL and headers.

    Args:
        session: The session.
        prepared: The request.
        first: Whether nothing redirected to it.
        secrets: Whether it gets what is meant for the host of the first one alone.
    """
    if first and session.params:
        prepared.prepare_url(str(prepared.url), session.params)
    prepared.prepare_cookies(session.cookies if secrets else _with_domain(session.cookies))
    if secrets and session.auth is not None:
        prepared.prepare_auth(session.auth)
    prepared.prepare_hooks(session.hooks)


def _with_domain(cookies: Any) -> RequestsCookieJar:
    """Return the cookies that say which hosts they are for; the others are for the first host only."""
    jar = RequestsCookieJar()
    if isinstance(cookies, CookieJar):
        with getattr(cookies, "_cookies_lock", nullcontext()):
            for each in list(cookies):
                if each.domain:
                    jar.set_cookie(each)
    return jar


def receive(
    session: requests.Session, answer: requests.Response, prepared: requests.PreparedRequest, **sent: Any
) -> requests.Response:
    """Call a session's hooks for an answer, and keep its cookies.

    Returns:
        The answer, or what hooks have put in its place; then, and if they fail, the answer itself is closed.
    """
    keep_cookies: Any = extract_cookies_to_jar
    try:
        got = _through_hooks(answer, prepared, sent)
    except BaseException:
        _close(answer)
        raise
    if got.raw is not answer.raw:
        _close(answer)  # or its connection would never serve again
    if isinstance(session.cookies, CookieJar):
        for each in (*got.history, got):
            keep_cookies(session.cookies, each.request, each.raw)
    return got


def _through_hooks(
    answer: requests.Response, prepared: requests.PreparedRequest, sent: Mapping[str, Any]
) -> requests.Response:
    call_hooks: Any = dispatch_hook
    try:
        got: requests.Response = call_hooks("response", prepared.hooks, answer, **sent)
    except requests.HTTPError as error:  # raise_for_status: whoever asked judges that
        if error.response is None:
            raise
        got = error.response
    return got


def _close(answer: requests.Response) -> None:
    if answer.raw is not None:
        with suppress(*_BROKEN):
            answer.close()


def close_mounted(session: requests.Session) -> None:
    """Close the adapters that were mounted."""
    for each in list(session.adapters.values()):
        if not isinstance(each, Adapter):
            each.close()


def renew_in_child(session: requests.Session) -> None:
    """Make a session's settings usable in a forked child: its adapters' connections are the parent's."""
    if isinstance(session.cookies, CookieJar):
        vars(session.cookies)["_cookies_lock"] = threading.RLock()
    for each in list(session.adapters.values()):
        if isinstance(each, HTTPAdapter) and not isinstance(each, Adapter):
            _of_parents.append((each.poolmanager, each.proxy_manager))
            adapter: Any = each
            try:  # as when it is unpickled
                adapter.__setstate__(adapter.__getstate__())
            except Exception as error:  # noqa: BLE001  a subclass may do anything here
                logger.debug("%s: not renewed in a forked child: %r", type(each).__name__, error)
