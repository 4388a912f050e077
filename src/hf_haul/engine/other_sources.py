"""Reads which other sources a caller names for files, and what is sent to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from hf_haul.config import Settings, source_token
from hf_haul.errors import InvalidUrlError
from hf_haul.task import OtherSource
from hf_haul.urls import origin_of, parse_url, redact

__all__ = ["other_sources"]

_USER_AGENT: Final = "user-agent"


def other_sources(
    urls: Sequence[str],
    settings: Settings,
    *,
    headers: Mapping[str, str],
    make_url: Callable[[str], str] = str,
    joins_path: bool = True,
) -> tuple[OtherSource, ...]:
    """Return the sources that some URLs mean, each once.

    A source gets its own token: that of its origin in the settings, or else ``HF_HAUL_SOURCE_TOKEN``. Nothing
    that is meant for the files' origin is sent to it.

    Args:
        urls: What the caller named.
        settings: Whose tokens count.
        headers: What the files' origin gets; only the user agent is passed on.
        make_url: Makes of each what files' paths are appended to, or the file's own URL.
        joins_path: Whether paths are appended.

    Raises:
        TypeError: ``urls`` is no list of texts.
        InvalidUrlError: One is no URL of http or https.
        ValueError: A token cannot be sent.
    """
    given: Any = urls
    listed = isinstance(given, Collection) and not isinstance(given, str)
    if not listed or not all(isinstance(each, str) for each in given):
        shown = redact(given) if isinstance(given, str) else given
        raise TypeError(f"sources must be a list of URLs, not {shown!r}")
    own = {name: value for name, value in headers.items() if name.lower() == _USER_AGENT}
    tokens = {origin_of(url): token for url, token in settings.source_tokens.items()}
    found: dict[str, OtherSource] = {}
    for url in urls:
        try:
            parse_url(url, userinfo=True)
        except InvalidUrlError as error:
            raise InvalidUrlError(f"a source (sources=, --source, HF_HAUL_SOURCES) is {error}") from None
        token = tokens.get(origin_of(url), "").strip() or source_token()
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise ValueError(
                f"the token of the source {redact(url)} cannot be sent: it has blanks, or other than printable ASCII"
            )
        sent = {**own, **({"Authorization": f"Bearer {token}"} if token else {})}
        made = make_url(url)
        found.setdefault(made, OtherSource(made, MappingProxyType(sent), joins_path))
    return tuple(found.values())
