"""What ``hf-haul get`` is asked for: URLs on its command line, and lists of them in files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from hf_haul.cli.exit_codes import refuse_lines
from hf_haul.digests import Digest, read_digest
from hf_haul.errors import InvalidUrlError, UnsafePathError
from hf_haul.storage.safe_paths import require_safe_path
from hf_haul.urls import parse_url, redact

__all__ = ["WantedUrl", "last_name", "read_list", "read_lists"]


@dataclass(frozen=True, slots=True)
class WantedUrl:
    """A file that is asked for.

    Attributes:
        url: Where it is.
        name: What it is to be called; ``None`` for the last name of the URL.
        digest: What it must hash to.
        said_in: Where that stands, such as ``list.txt:3``; empty for the command line.
    """

    url: str = field(repr=False)  # it may be signed
    name: str | None = None
    digest: Digest | None = None
    said_in: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """What messages call it."""
        name = self.name if self.said_in or self.name is None else Path(self.name).name
        return name or last_name(self.url) or redact(self.url)


def last_name(url: str) -> str | None:
    """Return the last name in the path of a URL; ``None`` if that is no name of a file.

    Raises:
        InvalidUrlError: It is no URL of http or https.
    """
    name = unquote(parse_url(url, userinfo=True).path.rpartition("/")[2])
    if name in {"", ".", ".."} or set(name) & set("/\\\0") or Path(name).name != name:
        return None
    return name


def read_lists(names: Sequence[str]) -> list[WantedUrl]:
    """Return what stands in several lists; ``-`` is stdin.

    Raises:
        UsageError: A line is wrong; the message names each of them.
        OSError: One cannot be read.
    """
    found: list[WantedUrl] = []
    for name in names:
        text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        lines = text.decode("utf-8-sig", "surrogateescape").splitlines()
        found += read_list(lines, "stdin" if name == "-" else name)
    return found


def read_list(lines: Iterable[str], name: str) -> list[WantedUrl]:
    """Return what stands in a list.

    Args:
        lines: Its lines.
        name: Of the list, for messages.

    Raises:
        UsageError: A line is wrong; the message names each of them.
    """
    found: list[WantedUrl] = []
    wrong: list[str] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        where = f"{name}:{number}"
        try:
            found.append(_read_line(text, where))
        except (ValueError, UnsafePathError) as error:
            wrong.append(f"{where}: {error}")
    refuse_lines(name, wrong)
    return found


def _read_line(text: str, where: str) -> WantedUrl:
    url, *rest = text.split(None, 1)
    try:
        parse_url(url, userinfo=True)
    except InvalidUrlError as error:
        raise ValueError(str(error)) from None
    name = digest = None
    for key, value in _fields(rest[0] if rest else ""):
        if key == "checksum":
            digest = read_digest(value)
        else:
            require_safe_path(value)
            name = value
    return WantedUrl(url, name, digest, where)


def _fields(text: str) -> Iterator[tuple[str, str]]:
    """Return what stands behind a URL, by its keys."""
    while text:
        key, equals, value = text.partition("=")
        if not equals or key not in {"checksum", "out"}:
            word = text.split(None, 1)[0]
            raise ValueError(f"{word!r} behind the URL means nothing; it may be checksum=... or out=...")
        if key == "out":
            yield key, value.strip()
            return
        value, *rest = value.split(None, 1) or [""]
        yield key, value
        text = rest[0] if rest else ""
