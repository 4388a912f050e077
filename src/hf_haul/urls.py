r"""The one place that reads a URL: who may get secrets, where the connection goes, what may be shown.

Parsers differ. The host of ``http://a\@b/`` is ``b`` to Python's and ``a`` to urllib3's: judged by the one
and sent by the other, a redirect to it took a token to ``a``. So every URL is read here, and written anew:
what is judged is what is sent. Whatever parsers could read in two ways is refused: a backslash, a control
character, a host that is neither a plain name nor an address, a scheme without ``//``.

What may vary is made one: scheme and host in lower case, a default port left out, no fragment, no user and
password (they are kept aside), names beyond ASCII in their form for the DNS, all else beyond ASCII
percent-encoded as UTF-8.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from hf_haul.errors import InvalidUrlError

__all__ = [
    "HttpUrl",
    "host_of",
    "join_url",
    "origin_of",
    "parse_url",
    "quote_header",
    "redact",
    "source_of",
    "without_signature",
]

_PORTS: Final = {"http": 80, "https": 443}
_ASCII_ONLY: Final = re.ASCII | re.IGNORECASE  # otherwise a long s would do for the s of https
_URL: Final = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:(?P<userinfo>[^/?#]*)@)?"
    r"(?P<host>\[[0-9a-f:.]+\]|[^/?#@:\[\]]+)(?::(?P<port>[0-9]{0,5}))?"
    r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?",
    _ASCII_ONLY,
)
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*:", _ASCII_ONLY)
_BEGIN: Final = re.compile(r"((?:[a-z][a-z0-9+.-]*:)?[/\\]{2,}|)(.*)", _ASCII_ONLY | re.DOTALL)
_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
#: A path, and perhaps a query, from the root of its host, in which there is nothing to quote.
_FROM_ROOT: Final = re.compile(r"/[\w%~!$&'()*+,=:@-][\w./%~!$&'()*+,=:@?-]*(?<!\?)", re.ASCII)
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")
_VISIBLE: Final = bytes(range(0x21, 0x7F))
_TO_QUOTE: Final = re.compile(rb"[^\x21-\x7e]")
_BEYOND_ASCII: Final = re.compile(rb"[\x80-\xff]")


_AWS: Final = frozenset(
    f"x-amz-{name}"
    for name in ("algorithm", "content-sha256", "credential", "date", "expires", "security-token", "signature", "signedheaders")
)  # fmt: skip
_GOOGLE: Final = frozenset(
    f"x-goog-{name}"
    for name in ("algorithm", "credential", "date", "expires", "security-token", "signature", "signedheaders")
)
#: CloudFront's, and those of the older versions of AWS and Google.
_CLOUDFRONT: Final = frozenset(
    {"awsaccesskeyid", "expires", "googleaccessid", "hash-algorithm", "key-pair-id", "policy", "signature", "x-amz-security-token"}
)  # fmt: skip
_AZURE: Final = frozenset(
    {
        "sv", "ss", "srt", "sp", "st", "se", "spr", "sip", "sig", "sr", "sdd", "si", "skoid", "sktid", "skt", "ske", "sks",
        "skv", "saoid", "suoid", "scid", "skdutid",
    }
)  # fmt: skip
#: Query parameters that sign a URL, each set with those whose presence shows that the others mean that.
_SIGNED_BY: Final = (
    (frozenset({"x-amz-signature"}), _AWS),
    (frozenset({"x-goog-signature"}), _GOOGLE),
    (frozenset({"signature", "expires"}), _CLOUDFRONT),
    (frozenset({"signature", "policy"}), _CLOUDFRONT),
    (frozenset({"sig", "sv"}), _AZURE),
)


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """An http(s) URL that every parser reads alike, as the text that is sent.

    Attributes:
        scheme: ``http`` or ``https``.
        host: Name or address, in lower case; an IPv6 address in brackets.
        port: The port, the scheme's own filled in.
        target: Path and query, from the first slash on.
        userinfo: User and password, as they stood before the host; not part of the text.
    """

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)  # its query may be a signature
    userinfo: str | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        """``scheme://host:port``; equal where a secret meant for one may go to the other."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def source(self) -> str:
        """The same without a default port, to show and to keep speeds and limits by."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port, without a default port: the value of the ``Host`` header."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def path(self) -> str:
        """The path alone."""
        return self.target.partition("?")[0]

    @property
    def with_userinfo(self) -> str:
        """Return the text with user and password, for a client that makes a header of them itself."""
        userinfo = "" if self.userinfo is None else f"{self.userinfo}@"
        return str(self).replace("://", f"://{userinfo}", 1)

    @property
    def authorization(self) -> str | None:
        """The value of the ``Authorization`` header that user and password stand for, if there are any."""
        if not self.userinfo:
            return None
        user, _, password = self.userinfo.partition(":")
        text = f"{unquote(user)}:{unquote(password)}"
        try:
            raw = text.encode("latin-1")  # as requests does
        except UnicodeEncodeError:
            raw = text.encode()
        return f"Basic {base64.b64encode(raw).decode()}"

    def __str__(self) -> str:
        return self.source + self.target


def parse_url(url: str, *, userinfo: bool = False) -> HttpUrl:
    """Read a URL.

    Args:
        url: The URL, from its scheme on.
        userinfo: Whether it may hold a user and a password: those of a user may, a server's may not.

    Raises:
        InvalidUrlError: It is no URL of http or https, or not one that everybody reads alike.
    """
    url = url.strip(" ")
    plain = _is_plain(url)
    if not plain and _CONTROLS.search(url):
        raise _invalid(url, "it holds a control character")
    if "\\" in url:
        raise _invalid(url, "it holds a backslash")
    match = _URL.fullmatch(url)
    if match is None:
        raise _invalid(url, "it does not begin with http:// or https://, a host and perhaps a port")
    if match["userinfo"] is not None and not userinfo:
        raise _invalid(url, "it holds a user or a password")
    scheme = match["scheme"].lower()
    port = int(match["port"] or _PORTS[scheme])
    if not 0 < port < 1 << 16:
        raise _invalid(url, f"{port} is no port")
    host = _read_host(match["host"])
    if host is None:
        raise _invalid(url, "its host is neither a name nor an address")
    target = (match["path"] or "/") + (match["query"] or "")
    try:
        target = target if plain else _quote(target)
    except UnicodeEncodeError:
        raise _invalid(url, "it holds half a character") from None
    return HttpUrl(scheme, host, port, target, match["userinfo"])


def join_url(base: HttpUrl, reference: str) -> HttpUrl:
    """Return the target of a reference in an answer to ``base``: a ``Location``, the next page of a listing.

    Args:
        base: What was asked for.
        reference: A URL, or what stands for one relative to ``base``.

    Raises:
        InvalidUrlError: It leads to no address that everybody reads alike.
    """
    reference = reference.strip(" \t")
    if _FROM_ROOT.fullmatch(reference) and "/." not in reference:  # nothing to resolve either
        return HttpUrl(base.scheme, base.host, base.port, reference)
    if _SCHEME.match(reference):
        return parse_url(reference)
    if _CONTROLS.search(reference) or "\\" in reference or reference.startswith("//"):
        return parse_url(f"{base.scheme}:{reference}")  # refuses the first two in its own words
    return parse_url(urljoin(str(base), reference))


def origin_of(url: str) -> str:
    """Return ``scheme://host:port`` of a URL, with its default port, without user and password.

    Raises:
        InvalidUrlError: It is no URL that has an origin.
    """
    return parse_url(url, userinfo=True).origin


def source_of(url: str) -> str:
    """Return the key for speeds and limits: the origin without a default port; never raises."""
    return _source_of("/".join(url.split("/", 3)[:3]))


@lru_cache(maxsize=1024)
def _source_of(begin: str) -> str:
    """Return the source of a URL by its begin, up to its path."""
    try:
        return parse_url(begin, userinfo=True).source
    except InvalidUrlError:
        return redact(begin)


def host_of(url: str) -> str:
    """Return the host of a URL for people, with its port unless that is the scheme's own; never raises."""
    return source_of(url).partition("://")[2]


def quote_header(value: str, encoding: str = "latin-1") -> str:
    """Return a URL from a header, with its bytes beyond ASCII percent-encoded as they came.

    Servers that quote nothing (nginx, MinIO) send the UTF-8 of a file's name; Python reads headers as
    Latin-1.

    Args:
        value: The header's value.
        encoding: What its bytes were read as.
    """
    if value.isascii():
        return value
    try:
        raw = value.encode(encoding)
    except UnicodeEncodeError:  # they were not, after all
        raw = value.encode("utf-8", "surrogatepass")
    return _BEYOND_ASCII.sub(lambda match: b"%%%02X" % match[0][0], raw).decode("ascii")


def without_signature(url: str) -> str:
    """Return ``url`` without its signature: what two links to one object have in common.

    Known are the signatures of AWS, Google Cloud Storage, CloudFront, Azure, Akamai and the Hub. All else
    stays as it is, letter by letter: it may tell one object from another.
    """
    head, mark, rest = url.partition("?")
    query, hash_mark, fragment = rest.partition("#")
    if not mark or "#" in head:
        return url
    fields = [(unquote(field.partition("=")[0]).lower(), field) for field in query.split("&")]
    names = {name for name, _ in fields}
    signing: set[str] = set().union(*(more for marks, more in _SIGNED_BY if marks <= names))
    kept = [
        field
        for name, field in fields
        if not (name in signing or name.startswith("x-xet-") or _is_akamai_token(field))
    ]
    if len(kept) == len(fields):
        return url
    query = "&".join(kept)
    return head + (mark + query if query else "") + hash_mark + fragment


def _is_akamai_token(field: str) -> bool:
    """Return whether a query parameter, which may have any name, is a token of Akamai's."""
    name, _, value = unquote(field).partition("=")
    parts = dict(part.partition("=")[::2] for part in value.split("~"))
    return name == "__gda__" or (parts.get("exp", "").isdecimal() and "hmac" in parts)


def redact(url: str) -> str:
    """Return ``url`` fit to be shown: without user, password, query and fragment."""
    shown, *_ = re.split(r"[?#]", _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", url), maxsplit=1)
    try:
        urlsplit(shown)
    except ValueError:
        return "<unreadable URL>"
    match = _URL.fullmatch(shown)
    if match is not None:
        return shown if match["userinfo"] is None else f"{match['scheme']}://{shown[match.start('host') :]}"
    begin, rest = _BEGIN.fullmatch(shown).groups()  # type: ignore[union-attr]  # matches anything
    if {"@", ":"}.isdisjoint(rest.partition("/")[0]):
        return shown
    # A password may have been meant, with any character in it.
    return begin + (rest.rpartition("@")[2] if "@" in rest or "@" not in url else "...")


def _invalid(url: str, why: str) -> InvalidUrlError:
    return InvalidUrlError(f"not an http(s) URL: {redact(url)!r}: {why}")


def _is_plain(text: str) -> bool:
    """Return whether there is nothing but visible ASCII in a text: a tenth of what a search takes."""
    return text.isascii() and not text.encode("ascii").translate(None, _VISIBLE)


def _quote(text: str) -> str:
    return _TO_QUOTE.sub(lambda match: b"%%%02X" % match[0][0], text.encode()).decode("ascii")


@lru_cache(maxsize=1024)
def _read_host(text: str) -> str | None:
    """Return a host as it is sent; ``None`` if it is invalid."""
    if text.startswith("["):
        try:
            ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            return None
        return text.lower()
    labels = [label if label.isascii() else _in_ascii(label) for label in text.split(".")]
    host = ".".join(label or "" for label in labels).lower()
    return host if _NAME.fullmatch(host) else None


def _in_ascii(label: str) -> str | None:
    """Return the DNS form of a label beyond ASCII, where all versions of IDNA agree on it."""
    label = re.sub("[A-Z]+", lambda match: match[0].lower(), label)
    agreed = label == label.lower() == unicodedata.normalize("NFKC", label) and label[:4] != "xn--"
    if not agreed or not all(c in "-_" or c.isalnum() or unicodedata.combining(c) for c in label):
        return None
    return f"xn--{label.encode('punycode').decode('ascii')}"
