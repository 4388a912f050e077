"""``hf_haul.cluster.distribute``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from huggingface_hub import get_token
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    validate_hf_hub_args,
)

from hf_haul.cluster.census import Per, Question
from hf_haul.cluster.control import Control
from hf_haul.cluster.coordinator import Coordinator
from hf_haul.cluster.distribution import Distribution, DistributionError
from hf_haul.cluster.node_work import NodeOrder, pack_plan
from hf_haul.cluster.plan import make_plan
from hf_haul.cluster.progress import JobProgress
from hf_haul.cluster.results import NodeResult
from hf_haul.config import parse_rate, require_number
from hf_haul.engine.events import EventCallback
from hf_haul.hub.call_options import checked_repo_type
from hf_haul.hub.presets import Preset
from hf_haul.task import new_id

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["distribute"]

_TOKEN_BYTES: Final = 32
_WORKER_TIMEOUT: Final = 30.0


@validate_hf_hub_args
def distribute(
    client: Client | Literal["ray"],
    repo_id: str,
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    per: Per = "host",
    max_bandwidth: float | str | None = None,
    max_send_rate: float | str | None = None,
    on_event: EventCallback | None = None,
    token: bool | str | None = None,
    endpoint: str | None = None,
    presets: Preset | Sequence[Preset] | None = None,
    named: Sequence[str] = (),
    tqdm_class: Any = None,
    worker_timeout: float = _WORKER_TIMEOUT,
) -> Distribution:
    """Download a repository onto all machines of a Dask or Ray cluster, each part from the Hub only once.

    The repository is listed once. Each node fetches its share of the bytes from the Hub and the rest from the
    other nodes, checks every file's digest, and ends with an ordinary Hub cache. Nodes listen on the address
    that their worker uses, for as long as this takes, and answer only who has the token of this job.

    A worker that vanishes may come back, and new ones may join: they get from the others what those have. A
    second call fetches what is missing. An interrupt ends the nodes; what they have fetched stays. Should
    this process be killed, the nodes go on to their end.

    A task of Dask may call this, too, with ``get_client()``. It leaves its worker's thread to other tasks
    then (``distributed.secede``), as that worker needs one to become a node.

    Args:
        client: A ``dask.distributed.Client``, or ``"ray"`` for the cluster that ``ray.init`` joined.
        repo_id: ``org/name`` or ``name``.
        repo_type: ``model`` (the default), ``dataset``, ``space`` or ``kernel``.
        revision: Branch, tag, ``refs/pr/N`` or commit; ``main`` by default.
        allow_patterns: Only files that match one of these.
        ignore_patterns: No file that matches one of these.
        cache_dir: The cache on each node; by default that node's own (``HF_HUB_CACHE``). ``{node}`` in it
            stands for the node's name: its host's, with the worker's behind it for ``per="worker"``.
        local_dir: A folder on each node for plain files in place of the cache; it may hold ``{node}``, too.
        per: What is a node: ``host`` takes one worker of each host and folder, ``worker`` takes every worker,
            each of which needs a folder of its own. Of Ray, a worker is what Ray calls a node.
        max_bandwidth: Limit for all nodes together of what comes from the Hub, in bytes per second, or a text
            such as ``500MB/s``; each node has an equal share. What nodes send each other does not count.
        max_send_rate: Limit for each node of what it sends to the others, in the same way.
        on_event: Called with events, as of :func:`hf_haul.snapshot_download`: those of one node have
            its name as ``node``, the others are about all of them.
        token: The Hub's token. ``None``: this process lists the repository with its own, and each worker
            fetches with its own. A text, or ``True`` for the own token of this process, is sent to the
            workers, over the scheduler's connections. ``False``: none.
        endpoint: The Hub's URL; by default this process's own (``HF_ENDPOINT``).
        presets: Rules that pick among formats of the same weights.
        named: Files, folders (with a slash at the end) and patterns that have to stand for a file each.
        tqdm_class: Makes the bar; huggingface_hub's by default, which follows its rules.
        worker_timeout: Seconds for a worker that vanished to come back, and for a scheduler to answer again;
            then the node fails.

    Returns:
        What became of each node; it says so of those that failed, too
        (:meth:`~hf_haul.cluster.distribution.Distribution.raise_for_errors`).

    Raises:
        DistributionError: There is no worker, or none that could be a node; it says why of each.
        ControlLostError: The scheduler does not answer.
        ValueError: Arguments contradict each other.
        huggingface_hub.errors.HfHubHTTPError: The Hub does not list the repository; its subclasses say why.
    """
    began = time.monotonic()
    if cache_dir is not None and local_dir is not None:
        raise ValueError("cache_dir and local_dir cannot be used together")
    if per not in get_args(Per):
        raise ValueError(f"per must be 'host' or 'worker', not {per!r}")
    checked_repo_type(repo_type)
    require_number("worker_timeout", worker_timeout)
    if not worker_timeout >= 0:
        raise ValueError(f"worker_timeout must be 0 or more seconds, not {worker_timeout!r}")
    rate, send_rate = _rate("max_bandwidth", max_bandwidth), _rate("max_send_rate", max_send_rate)
    question = Question(per, _text(cache_dir), _text(local_dir))
    job_id = new_id("job")
    progress = JobProgress(repo_id, on_event, tqdm_class)
    control = _control(client, job_id, repo_id)
    try:
        with progress.telling():
            coordinator = Coordinator(control, question, progress, worker_timeout=worker_timeout)
            nodes = coordinator.muster()
            _require_nodes(control, nodes, coordinator.refused)
            plan = make_plan(
                repo_id,
                nodes=nodes,
                repo_type=repo_type,
                revision=revision,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
                presets=presets,
                named=named,
                token=token,
                endpoint=endpoint,
                job_id=job_id,
                waits=progress.waits,
            )
            progress.begin(plan)
            order = NodeOrder(
                job_id=job_id,
                node="",
                token=secrets.token_urlsafe(_TOKEN_BYTES),
                hub_token=get_token() if token is True else token,
                cache_dir=question.cache_dir,
                local_dir=question.local_dir,
                max_bandwidth=None if rate is None else max(1, int(rate / len(nodes))),
                max_send_rate=send_rate,
            )
            results = coordinator.run(order, pack_plan(plan))
            refused = {name: NodeResult(error=error) for name, error in coordinator.refused.items()}
            found = Distribution(repo_id, plan.commit, {**results, **refused}, time.monotonic() - began)
            progress.end(
                found.nodes, DistributionError.of(found.errors, len(found.nodes)) if found.errors else None
            )
            return found
    finally:
        control.close()


def _rate(name: str, value: float | str | None) -> float | None:
    """Return the bytes per second that an argument means.

    Raises:
        ValueError: It means none.
    """
    rate = parse_rate(value, name)
    if rate is not None and rate <= 0:
        raise ValueError(f"{name} must be greater than 0, or None, not {value!r}")
    return rate


def _text(folder: str | Path | None) -> str | None:
    return None if folder is None else str(folder)


def _control(client: Any, job_id: str, repo_id: str) -> Control:
    """Return what stands for a caller's cluster.

    Raises:
        TypeError: It is none.
    """
    if client == "ray":
        from hf_haul.cluster.ray import RayControl  # needs the extra "ray"

        return RayControl(job_id, repo_id)
    if isinstance(client, str) or not hasattr(client, "scheduler_info"):
        raise TypeError(f"client must be a dask.distributed.Client or 'ray', not {client!r}")
    from hf_haul.cluster.dask import DaskControl  # needs the extra "dask"

    return cast("Callable[..., Control]", DaskControl)(client, job_id, repo_id)


def _require_nodes(control: Control, nodes: Sequence[str], refused: dict[str, Exception]) -> None:
    """Raise unless there is a node.

    Raises:
        DistributionError: There is none.
    """
    if nodes:
        return
    if refused:
        raise DistributionError.of(refused, len(refused))
    raise DistributionError(
        f"{control.where} has no workers. Start some, or wait for them (client.wait_for_workers(n))"
    )
