"""``hf-haul distribute``: a repository onto all machines of a Dask or Ray cluster."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.arguments import add_command, add_progress_option, read_limit, read_seconds
from hf_haul.cli.download_results import error_as_dict, print_json
from hf_haul.cli.exit_codes import ExitCode, UsageError, exit_code_of
from hf_haul.cli.messages import say, say_error
from hf_haul.cli.repo_arguments import add_repo_options, read_wanted
from hf_haul.cli.streams import print_result
from hf_haul.failures import FailureKind, describe

if TYPE_CHECKING:
    from hf_haul.cluster.distribution import Distribution

__all__ = ["add_distribute"]

_ABOUT: Final = """\
Download a repository onto all machines of a Dask or Ray cluster. Each part
comes from the Hub once; the machines give each other the rest, and each of them
ends with an ordinary, verified cache. What is there already is not fetched."""
_EXAMPLES: Final = (
    "hf-haul distribute org/model --scheduler tcp://head:8786",
    "hf-haul distribute org/model --scheduler tcp://head:8786 --local-dir '/scratch/{node}/model' --json",
    "hf-haul distribute org/model --ray",
)
_NOTES: Final = """\
what a node is:
  one worker of each host and cache, or with --per worker every worker, which
  then needs a folder of its own: {node} in --cache-dir or --local-dir stands for
  its name. Workers need the same version of hf-haul. They listen on the address
  that they have in the cluster, for this job only, and ask for its token."""
_WORKER_TIMEOUT: Final = 30.0


def add_distribute(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "distribute",
        _distribute,
        "Download a repository onto all machines of a cluster, each part once.",
        examples=_EXAMPLES,
        notes=_NOTES,
    )
    parser.description = _ABOUT
    parser.add_argument(
        "repo", metavar="REPO", help="org/name, datasets/org/name, either with @revision, or hf://..."
    )
    parser.add_argument(
        "filenames", metavar="FILE", nargs="*", help="files, or folders if they end with a slash"
    )
    cluster = parser.add_argument_group("which machines").add_mutually_exclusive_group(required=True)
    cluster.add_argument(
        "--scheduler", metavar="ADDRESS", help="of Dask, such as tcp://head:8786; needs the extra dask"
    )
    cluster.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const="auto",
        help="the Ray cluster at this address, or the one that this machine is part of; needs the extra ray",
    )
    add_repo_options(parser)
    parser.add_argument(
        "--send-token",
        action="store_true",
        help="give the nodes this machine's own token; without it, and without --token, each uses its own",
    )
    parser.add_argument(
        "--per", choices=("host", "worker"), default="host", help="what a node is; default: %(default)s"
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="the cache on each node; default: that node's own")
    parser.add_argument(
        "--local-dir", metavar="DIR", help="put plain files here on each node and not into the cache"
    )
    parser.add_argument(
        "--max-bandwidth",
        type=read_limit,
        metavar="RATE",
        help="of all nodes together from the Hub, such as 500MB/s; what they send each other does not count",
    )
    parser.add_argument(
        "--max-send-rate", type=read_limit, metavar="RATE", help="of each node to the others, such as 1GB/s"
    )
    parser.add_argument(
        "--worker-timeout",
        type=read_seconds,
        metavar="SECONDS",
        default=_WORKER_TIMEOUT,
        help="for a worker that vanished to come back; then its node fails; default: %(default)g",
    )
    group = parser.add_argument_group("what it says")
    add_progress_option(group)
    group.add_argument(
        "--json",
        action="store_true",
        help="one object: commit, nodes (path, bytes, error), seconds, exit_code",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="no progress, and the nodes alone")


def _distribute(arguments: argparse.Namespace) -> int:
    if arguments.send_token and arguments.token is not None:
        raise UsageError("--token names a token, and --send-token means this machine's own")
    wanted = read_wanted(arguments, arguments.repo, at_revision=True)
    with _cluster(arguments) as client:
        from hf_haul.cluster.distributing import distribute  # brings huggingface_hub along

        found = distribute(
            client,
            wanted.repo.repo_id,
            repo_type=wanted.repo.repo_type,
            revision=wanted.repo.revision,
            allow_patterns=wanted.allow,
            ignore_patterns=wanted.ignore,
            cache_dir=arguments.cache_dir,
            local_dir=arguments.local_dir,
            per=arguments.per,
            max_bandwidth=arguments.max_bandwidth,
            max_send_rate=arguments.max_send_rate,
            on_event=_shown(arguments),
            token=True if arguments.send_token else arguments.token,
            presets=arguments.preset,
            named=wanted.names,
            tqdm_class=_silent(),
            worker_timeout=arguments.worker_timeout,
        )
    return _tell(arguments, found)


@contextmanager
def _cluster(arguments: argparse.Namespace) -> Iterator[Any]:
    """Join a cluster during the block; yield what ``distribute`` takes for it.

    Raises:
        UsageError: What it needs is not installed.
        ControlLostError: It cannot be reached.
    """
    if arguments.ray is None:
        from hf_haul.cluster.dask import joined
    else:
        from hf_haul.cluster.ray import joined
    with ExitStack() as stack:
        try:
            client: Any = stack.enter_context(joined(arguments.scheduler or arguments.ray))
        except ModuleNotFoundError as error:
            extra = "dask" if arguments.ray is None else "ray"
            raise UsageError(
                f'{error.name} is not installed, which this needs: pip install "hf-haul[{extra}]"'
            ) from error
        yield client


def _shown(arguments: argparse.Namespace) -> Callable[[Mapping[str, Any]], None] | None:
    """Return what shows events: all of them to a program, and to people those about all nodes together."""
    show: Callable[[Mapping[str, Any]], None] | None = arguments.on_event
    if show is None or arguments.shown_as == "json":
        return show
    return partial(_show_sums, show)


def _show_sums(show: Callable[[Mapping[str, Any]], None], event: Mapping[str, Any]) -> None:
    if "node" not in event:
        show(event)


def _tell(arguments: argparse.Namespace, found: Distribution) -> int:
    """Print what became of each node; return the exit code, of several failures the first one's."""
    errors = found.errors
    code = next((int(exit_code_of(error)) for error in errors.values()), int(ExitCode.DONE))
    if arguments.json:
        nodes = {
            name: {**result.as_dict(), **({} if result.error is None else error_as_dict(result.error))}
            for name, result in found.nodes.items()
        }
        print_json({**found.as_dict(), "nodes": nodes, **({"exit_code": code} if code else {})})
    else:
        for name, result in found.nodes.items():
            if result.path is not None:
                print_result(f"{name}\t{result.path}")
    if arguments.shown_as != "json":
        for name, error in errors.items():
            say_error(error, about=name)
            if describe(error).kind is FailureKind.UNFORESEEN:
                say(f"{name}: that was not foreseen; its worker's log may have more of it")
        if errors and len(found.nodes) > 1:
            say(f"{len(errors)} of {len(found.nodes)} nodes failed: {', '.join(errors)}")
    return code


def _silent() -> Callable[..., Any]:
    from tqdm import tqdm

    return partial(tqdm, disable=True)
