"""``hf-haul serve``: a folder or a Hub cache, for the machines around."""

from __future__ import annotations

import argparse
import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.arguments import add_command, read_port, read_rate, read_seconds, read_size, read_token_file
from hf_haul.cli.exit_codes import ExitCode, UsageError
from hf_haul.cli.messages import say, warn
from hf_haul.cli.progress.texts import count_of
from hf_haul.cli.streams import print_result
from hf_haul.config import serve_token
from hf_haul.failures import describe
from hf_haul.urls import redact

if TYPE_CHECKING:
    from hf_haul.lab.lab import Lab
    from hf_haul.localhub import LocalHub

__all__ = ["add_serve"]

_FIRST_FREE_PORT: Final = 1024  # that needs no special rights
_MAX_NAMES: Final = 5  # repositories that a line has room for
_MAX_GAPS: Final = 20  # lines about what is not there
_COMMIT_DIGITS: Final = 7  # characters of a commit
_REFRESH: Final = 60.0  # seconds


def add_serve(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "serve",
        _serve,
        "Share a folder or a Hub cache, as a small read-only Hub for the machines around.",
        examples=(
            "hf-haul serve ~/.cache/huggingface/hub --host 0.0.0.0 --token-file lab.token",
            "hf-haul serve /data/hub --host 0.0.0.0 --token-file lab.token --upstream https://huggingface.co --max-size 2TB",
        ),
    )
    parser.add_argument(
        "path", metavar="FOLDER", help="a Hub cache, a folder of <org>/<name>/, or one repository"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all; default: %(default)s"
    )
    parser.add_argument(
        "--port", type=read_port, default=8000, help="0 for any free one; default: %(default)s"
    )
    tokens = parser.add_mutually_exclusive_group()
    tokens.add_argument(
        "--token-file",
        metavar="FILE",
        help="ask for the token in this file; HF_HAUL_SERVE_TOKEN may hold it, too. Needed beyond this machine",
    )
    tokens.add_argument(
        "--token", help="the same, but others on this machine can read it in the list of processes"
    )
    parser.add_argument(
        "--allow-anyone",
        action="store_true",
        help="ask for no token, although other machines can reach it: all that is served is public then",
    )
    parser.add_argument(
        "--allowed-host",
        metavar="NAME",
        type=_host,
        action="append",
        default=[],
        help="without a token: a further name under which it may be asked, besides this machine's own; repeatable",
    )
    parser.add_argument(
        "--complete",
        action="store_true",
        help="vouch that all files are there of each commit in the cache that the Hub's listing was not kept of",
    )
    parser.add_argument(
        "--hidden",
        action="store_true",
        help="in folders that are no cache, serve all files whose names begin with a dot, but never .git",
    )
    _add_upstream_options(parser)
    parser.add_argument(
        "--max-rate",
        "--pace",
        dest="max_rate",
        type=read_rate,
        metavar="RATE",
        help="send no faster than this over all connections, such as 500MB/s",
    )
    parser.add_argument(
        "--access-log", metavar="FILE", help="add a line for each request to this file; - for stderr"
    )
    parser.add_argument("--certfile", metavar="PEM", help="a certificate, to serve https")
    parser.add_argument("--keyfile", metavar="PEM", help="its key")


def _add_upstream_options(parser: Any) -> None:
    parser.add_argument(
        "--upstream",
        metavar="URL",
        help="fetch what is absent from this Hub, once for all who ask, into the cache that is served",
    )
    parser.add_argument(
        "--refresh",
        metavar="SECONDS",
        type=read_seconds,
        default=_REFRESH,
        help="ask the upstream for a branch or tag no more often than this; default: %(default)g",
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="ask the upstream with this machine's own token; what it opens is given to whoever has the serve token",
    )
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        type=read_size,
        help="bytes that fetched files may take, such as 2TB; what was not used for longest is removed",
    )


def _host(text: str) -> str:
    from hf_haul.localhub.hosts import host_name  # needs the extra "serve"

    try:
        return host_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _serve(arguments: argparse.Namespace) -> int:
    from hf_haul.localhub.sharing import require_token  # needs the extra "serve"

    try:
        if arguments.keyfile is not None and arguments.certfile is None:  # it would serve plain http
            raise ValueError(
                "--keyfile is the key of a certificate, and there is none: name it with --certfile"
            )
        token = _serve_token(arguments)
        require_token(arguments.host, token, allow_anyone=arguments.allow_anyone)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(describe(error).text) from error
    with _access_log(arguments.access_log) as log:
        lab = _make_lab(arguments, has_token=token is not None, log=log)
        try:
            _run(arguments, lab, token)
        finally:
            lab.close()
    return ExitCode.DONE


def _make_lab(arguments: argparse.Namespace, *, has_token: bool, log: Callable[[str], None] | None) -> Lab:
    from hf_haul.lab.lab import Lab  # needs the extra "serve"

    try:
        return Lab(
            arguments.path,
            upstream=arguments.upstream,
            token=has_token,
            private=arguments.private,
            refresh=arguments.refresh,
            max_size=arguments.max_size,
            access_log=log,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


@contextlib.contextmanager
def _access_log(name: str | None) -> Iterator[Callable[[str], None] | None]:
    """Open the access log; a line that cannot be written is lost, and nothing else."""
    if name is None:
        yield None
    elif name == "-":
        yield say
    else:
        with Path(name).open("a", encoding="utf-8", buffering=1) as file:

            def write(line: str) -> None:
                with contextlib.suppress(OSError):
                    file.write(f"{line}\n")

            yield write


def _run(arguments: argparse.Namespace, lab: Lab, token: str | None) -> None:
    from hf_haul.lab.wiring import hub_options
    from hf_haul.localhub import serve

    def ready(hub: LocalHub) -> None:
        lab.attach(hub)
        print_result(hub.url, flush=True)
        _tell_what_is_served(arguments, hub)

    more = {
        "hidden": arguments.hidden,
        "complete": arguments.complete,
        "allow_anyone": arguments.allow_anyone,
        "allowed_hosts": arguments.allowed_host,
    }
    try:
        serve(
            arguments.path,
            host=arguments.host,
            port=arguments.port,
            token=token,
            max_bytes_per_s=arguments.max_rate,
            certfile=arguments.certfile,
            keyfile=arguments.keyfile,
            on_ready=ready,
            **hub_options(lab),
            **{name: value for name, value in more.items() if value},
        )
    except OSError as error:
        reason = _cannot_listen(error, arguments.host, arguments.port)
        if reason is None:
            raise
        raise OSError(reason) from error


def _tell_what_is_served(arguments: argparse.Namespace, hub: LocalHub) -> None:
    from hf_haul.localhub.hosts import urls_for_others

    served = sorted(repo.repo_id for repo in hub.catalog.all())
    if not served and arguments.upstream is None:
        warn(
            f"{arguments.path} holds no repository: it is no Hub cache, and has neither files nor folders "
            "called <org>/<name>. Nothing is shared until there is one"
        )
    say(f"sharing {_summary(served)} of {arguments.path} until Ctrl+C; use it with HF_ENDPOINT={hub.url}")
    if arguments.upstream is not None:
        say(f"what is absent is fetched from {redact(arguments.upstream)}")
    others = urls_for_others(hub.url, arguments.host)
    if others:
        say(f"on other machines: HF_ENDPOINT={' or '.join(others)}")
    say(f"what it does: {hub.url}/ in a browser, {hub.url}/metrics for Prometheus, {hub.url}/health")
    for line in _gaps(hub, complete=arguments.complete or arguments.upstream is not None):
        say(line)


def _cannot_listen(error: OSError, host: str, port: int) -> str | None:
    """Return what to say where the address cannot be listened on; ``None`` for other errors."""
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is taken by another program. Choose another one with --port, or 0 for any that is free"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine. Choose one with --host; 0.0.0.0 stands for all of them"
    if error.errno in {errno.EACCES, errno.EPERM} and 0 < port < _FIRST_FREE_PORT and error.filename is None:
        return (
            f"Port {port} is for the system's own programs. Choose one from {_FIRST_FREE_PORT} on with --port"
        )
    return None


def _serve_token(arguments: argparse.Namespace) -> str | None:
    """Return the token to ask for.

    Raises:
        ValueError: It is empty, or the file cannot be read.
    """
    if arguments.token_file is not None:
        return read_token_file(arguments.token_file, "--token-file")
    if arguments.token is not None:
        warn("others on this machine can read --token in the list of processes; use --token-file")
        source, token = "--token", arguments.token
    else:
        source, token = "HF_HAUL_SERVE_TOKEN", serve_token()
    if token is not None and not token.strip():
        raise ValueError(f"the token in {source} is empty")
    return None if token is None else token.strip()


def _gaps(hub: Any, *, complete: bool) -> Iterator[str]:
    """Return what is missing, or may be, of the commits that are served."""
    lines = [
        line
        for repo in sorted(hub.catalog.all(), key=lambda repo: repo.repo_id)
        for holding in (repo.holdings() if hasattr(repo, "holdings") else ())
        if not (complete and holding.listed is None) and (line := _gap(repo.repo_id, holding))
    ]
    yield from lines[:_MAX_GAPS]
    if len(lines) > _MAX_GAPS:
        yield f"... and {len(lines) - _MAX_GAPS} more"


def _gap(repo_id: str, holding: Any) -> str | None:
    where = f"{repo_id} at {', '.join(holding.names) or holding.commit[:_COMMIT_DIGITS]}"
    if holding.listed is None:
        return (
            f"{where}: {count_of(holding.files, 'file')}, and no listing that says whether these are all; a whole "
            "snapshot can be had only with --complete"
        )
    if holding.files < holding.listed:
        return f"{where}: {holding.files} of {count_of(holding.listed, 'file')}"
    return None


def _summary(served: Sequence[str]) -> str:
    """Return how many repositories there are, and which."""
    if not served:
        return "0 repositories"
    shown = ", ".join(served[:_MAX_NAMES]) + (", ..." if len(served) > _MAX_NAMES else "")
    return f"{len(served)} {'repository' if len(served) == 1 else 'repositories'} ({shown})"
