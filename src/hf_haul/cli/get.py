"""``hf-haul get``: files from any http(s) URLs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.arguments import add_command, add_progress_option, read_header
from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.settings_options import add_settings_options

if TYPE_CHECKING:
    from hf_haul.digests import Digest

__all__ = ["add_get"]

_ABOUT: Final = """\
Download files from any http(s) URLs. A file that is there already, in the
version that its server has now, is not fetched again: its etag and the time of
its last change are kept with it. A file that changed is. What was interrupted
goes on where it was."""
_EXAMPLES: Final = (
    "hf-haul get https://example.org/a.bin https://example.org/b.bin --dir data",
    "hf-haul get https://example.org/a.bin --checksum md5:9a0364b9e99bb480dd25e1f0284c8555",
    "hf-haul get -i urls.txt --dir data --json",
)
_NOTES: Final = """\
lists:
  of -i: a URL on each line, and behind it, where it is known, what the file is:
    URL checksum=sha256:HEX out=FOLDER/NAME
  checksum= takes sha256:, sha1: or md5: and hex digits; out= takes the rest of
  the line, a path below --dir. Empty lines and lines that begin with # are
  passed over."""
_FILES: Final = (
    ("NAME.*.incomplete", "beside a file: what an interrupted command left, and goes on from"),
    (".NAME.origin.json", "beside a file, where it has no extended attributes: its etag and time"),
)


def add_get(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "get", _get, "Download files from any http(s) URLs.",
        examples=_EXAMPLES, notes=_NOTES, files=_FILES,
    )  # fmt: skip
    parser.description = _ABOUT
    parser.add_argument("urls", metavar="URL", nargs="*", help="of http or https; any number")
    parser.add_argument(
        "-i", "--input", metavar="FILE", action="append", default=[],
        help="a list of URLs, see below; - is stdin; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "-d", "--dir", metavar="DIR", help="where the files go; made if it is not there; default: here"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="a file or a folder, for one URL; default: the URL's last name"
    )
    parser.add_argument(
        "--content-disposition",
        action="store_true",
        help="let servers say what files are called; they cannot choose a folder, nor replace another file",
    )
    parser.add_argument(
        "--checksum", metavar="ALGO:HEX", type=_read_checksum,
        help="what the file must hash to: sha256:, sha1: or md5: and hex digits; for one URL",
    )  # fmt: skip
    parser.add_argument("--sha256", metavar="HEX", help="the same as --checksum sha256:HEX")
    parser.add_argument("--force-download", action="store_true", help="fetch every file anew")
    parser.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", type=read_header, action="append", default=[],
        help="sent to the URLs' own origins only; repeatable",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of paths")
    add_settings_options(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    add_progress_option(parser)


def _read_checksum(text: str) -> Digest:
    from hf_haul.digests import read_digest  # brings OpenSSL along

    try:
        if ":" not in text:
            raise ValueError(f"write sha256:, sha1: or md5: before the hex digits, not {text!r}")
        return read_digest(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _get(arguments: argparse.Namespace) -> int:
    if arguments.output == "-":
        raise UsageError(
            "get writes files, whose digests are checked before they get their names; it cannot write to stdout"
        )
    from hf_haul.cli.get_urls import get_urls  # what it brings along is of no use to other commands

    return get_urls(arguments)
