"""``hf-haul download --peers``: one repository onto several machines that no scheduler knows."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.arguments import read_rate, read_seconds, read_token_file
from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.messages import say, warn
from hf_haul.config import peers_token
from hf_haul.failures import describe

if TYPE_CHECKING:
    from hf_haul.cluster.peer_list import PeerList
    from hf_haul.cluster.plan import JobPlan
    from hf_haul.config import Settings
    from hf_haul.engine.events import EventCallback
    from hf_haul.waits import Waits

__all__ = ["PeersDownload", "add_peers_options", "wants_peers"]

_LINGER: Final = 600.0  # seconds
_MOST_NAMED: Final = 5  # nodes that a line has room for
#: Options that mean nothing where several machines share the work.
_CONTRARY: Final = {
    "sources": "-r and -i",
    "dry_run": "--dry-run",
    "force_download": "--force-download",
    "source_urls": "--source",
}


def add_peers_options(parser: Any) -> None:
    """Add the options of a download that several machines share."""
    group = parser.add_argument_group("with other machines")
    group.add_argument(
        "--peers",
        metavar="URLS",
        action="append",
        help="all machines that download this, such as http://a:8001,http://b:8001: each part is fetched from the Hub by one of them, and exchanged",
    )
    group.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="address of this machine in --peers, at which it gives what it has",
    )
    group.add_argument(
        "--peers-token-file",
        metavar="FILE",
        help="the token that they all know; HF_HAUL_PEERS_TOKEN may hold it, too. Needed beyond this machine",
    )
    group.add_argument(
        "--linger",
        metavar="SECONDS",
        type=read_seconds,
        default=_LINGER,
        help="give to the others for as long at the most once all is here; default: %(default)g",
    )
    group.add_argument(
        "--peers-max-rate",
        metavar="RATE",
        type=read_rate,
        help="send no faster than this to all of them together, such as 500MB/s",
    )


def wants_peers(arguments: argparse.Namespace) -> bool:
    """Return whether other machines share the work.

    Raises:
        UsageError: It is unclear which, or other options contradict that.
    """
    if not arguments.peers and arguments.listen is None:
        for name in ("peers_token_file", "peers_max_rate"):
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} is about --peers, and there are none")
        return False
    if not arguments.peers or arguments.listen is None:
        raise UsageError(
            "--peers needs --listen, and the other way round: the list, and which of it this machine is"
        )
    for name, option in _CONTRARY.items():
        if getattr(arguments, name):
            raise UsageError(f"{option} cannot be used together with --peers")
    return True


@dataclass(frozen=True)
class PeersDownload:
    """A repository that several machines download together.

    Attributes:
        arguments: Those of the command.
        repo_id: The repository.
        common: What it shares with other downloads: type, revision, folders, token.
        choice: Which files are meant.
        settings: Of the download; ``None`` for those in force.
    """

    arguments: argparse.Namespace
    repo_id: str
    common: Mapping[str, Any]
    choice: Mapping[str, Any]
    settings: Settings | None

    def run(self, on_event: EventCallback) -> str:
        """Download, and give to the others until they are done; return where the files are.

        Raises:
            UsageError: The list of machines or the token is wrong.
            Exception: Why the files are not here.
        """
        from hf_haul.cluster.agent import NodeAgent  # needs the extra "serve"

        peers, token = self._peers(), self._token()
        try:
            agent = NodeAgent(
                self._plans(peers),
                peers.me,
                listen=(peers.host, peers.port),
                token=token,
                url=peers.url,
                hub_token=self.common["token"],
                endpoint=_endpoint(),
                cache_dir=self.common["cache_dir"],
                local_dir=self.common["local_dir"],
                max_bytes_per_s=self.arguments.peers_max_rate,
                settings=self.settings,
                on_event=on_event,
            )
        except ValueError as error:
            hint = "--peers-token-file, HF_HAUL_PEERS_TOKEN"
            raise UsageError(f"{error} ({hint})") from error
        with contextlib.closing(agent):
            try:
                agent.start()
            except OSError as error:
                raise UsageError(f"--listen {self.arguments.listen}: {describe(error).text}") from error
            if not self.arguments.quiet:
                late = ", which is not in the list and joins the others" if peers.joins_late else ""
                say(f"this is {peers.me} of {len(peers.urls)} machines{late}; it listens on {peers.url}")
            result = agent.run(
                peers.urls,
                linger=self.arguments.linger,
                absent_too=True,
                on_linger=self._say_who_is_waited_for,
            )
        if result.error is not None:
            raise result.error
        assert result.path is not None
        return result.path

    def _peers(self) -> PeerList:
        from hf_haul.cluster.peer_list import read_peers  # needs the extra "serve"

        try:
            peers = read_peers(self.arguments.peers, self.arguments.listen)
            local = peers.is_local
        except ValueError as error:
            raise UsageError(str(error)) from error
        except OSError as error:
            raise UsageError(describe(error).text) from error
        if local and not all(map(_is_local, peers.urls)):
            warn(
                f"{peers.host} is an address that only this machine can reach: others in --peers cannot ask it"
            )
        return peers

    def _token(self) -> str:
        """Return the token of the job; an empty one where none is given.

        Raises:
            UsageError: It is empty although there is to be one, or the file cannot be read.
        """
        if self.arguments.peers_token_file is not None:
            return read_token_file(self.arguments.peers_token_file, "--peers-token-file")
        token = peers_token()
        if token is not None and not token.strip():
            raise UsageError("the token in HF_HAUL_PEERS_TOKEN is empty")
        return (token or "").strip()

    def _plans(self, peers: PeerList) -> Any:
        from hf_haul.cluster.peer_plans import PeerPlans, job_name
        from hf_haul.cluster.plan import make_plan

        repo_type, revision = self.common["repo_type"] or "model", self.common["revision"] or "main"
        job_id = job_name(repo_type, self.repo_id, revision, self.choice)

        def make(waits: Waits) -> JobPlan:
            return make_plan(
                self.repo_id,
                nodes=list(peers.urls),
                repo_type=repo_type,
                revision=revision,
                token=self.common["token"],
                job_id=job_id,
                waits=waits,
                **self.choice,
            )

        return PeerPlans(peers, self.repo_id, job_id, make)

    def _say_who_is_waited_for(self, names: list[str]) -> None:
        if self.arguments.quiet:
            return
        more = len(names) - _MOST_NAMED
        shown = ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        say(f"all files are here; giving to others until they are done, too: {shown}")


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _is_local(name: str) -> bool:
    from hf_haul.localhub.hosts import is_loopback

    with contextlib.suppress(OSError):
        return is_loopback(name.rpartition(":")[0].strip("[]"))
    return False
