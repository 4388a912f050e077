"""Runs the same calls through huggingface_hub or through hf_haul, and writes down everything they did.

``python -m tests.peers.trial upstream|ours HOME`` serves a local Hub from its own process, runs every scenario
of ``tests.peers.scenarios`` against it and prints one JSON object: what each scenario returned, raised, left on
disk and asked of the Hub. ``test_parity`` runs both doors, each in a process and a home of its own, and compares.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import stat
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from hf_haul.localhub import Account, LocalHub, Repo, RequestRecord

__all__ = ["SCENARIOS", "Scenario", "Trial", "scenario"]

ACCOUNT = Account("me", "hf_me", repos=("org/*",), gated=())
#: Kinds of requests that go to the Hub itself and count against its quotas.
HUB_KINDS = frozenset({"info", "tree", "paths-info", "resolve", "refs"})


@dataclass(frozen=True)
class Scenario:
    """A function of a trial, and what is known of it.

    Attributes:
        run: The calls.
        behaviours: Numbers of the behaviours it covers, see BEHAVIOURS.md.
        differs: Steps whose outcome differs on purpose, with the reason.
        newer: Whether it needs huggingface_hub 2.x, because 1.x behaves in another way.
        requests: How the numbers of requests to the Hub compare: ours are ``equal``, ``fewer`` (or equal), ``any``.
    """

    run: Callable[[Trial], None]
    behaviours: tuple[int, ...]
    differs: dict[str, str]
    newer: bool
    requests: str


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    *behaviours: int,
    differs: dict[str, str] | None = None,
    newer: bool = False,
    requests: str = "fewer",
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Register a scenario."""

    def register(run: Callable[[Trial], None]) -> Callable[[Trial], None]:
        SCENARIOS[run.__name__] = Scenario(run, behaviours, differs or {}, newer, requests)
        return run

    return register


@dataclass
class Trial:
    """One scenario through one door.

    Attributes:
        door: ``upstream`` or ``ours``.
        api: The module whose functions are called.
        hub: The local Hub.
        name: The scenario.
        home: Folder for everything it writes.
        repo: Its repository.
        steps: What happened, by label.
        asked: Requests to the Hub, by label.
    """

    door: str
    api: ModuleType
    hub: LocalHub
    name: str
    home: Path
    repo: Repo
    steps: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        return self.door == "ours"

    @property
    def id(self) -> str:
        return self.repo.repo_id

    @property
    def cache(self) -> Path:
        return self.home / "hub"

    @property
    def folder(self) -> Path:
        """The repository's folder in the cache."""
        return self.cache / f"models--{self.id.replace('/', '--')}"

    def commit(self, files: dict[str, Any], **options: Any) -> str:
        return self.repo.commit(files, "a commit", **options).id

    # -- calls

    def snapshot(self, label: str, **arguments: Any) -> Any:
        return self.call(label, self.api.snapshot_download, self.id, **arguments)

    def file(self, label: str, filename: str, **arguments: Any) -> Any:
        return self.call(label, self.api.hf_hub_download, self.id, filename, **arguments)

    def call(self, label: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call, and write down the outcome and the requests it took."""
        self.hub.requests.settle()
        self.hub.requests.clear()
        result: Any = None
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                result = function(*args, **kwargs)
                outcome: Any = {"returned": self.plain(result)}
            except Exception as error:
                outcome = {"raised": self.describe(error)}
        told = [f"{w.category.__name__}: {self.plain(str(w.message))}" for w in warned]
        if told:
            outcome["warned"] = told
        self.note(label, outcome)
        self.hub.requests.settle()
        self.asked[label] = sum(record.kind in HUB_KINDS for record in self.hub.requests)
        return result

    def note(self, label: str, value: Any) -> None:
        assert label not in self.steps, f"two steps are called {label!r}"
        self.steps[label] = value

    def records(self, kind: str = "*") -> list[RequestRecord]:
        return [r for r in self.hub.requests if r.kind != "agent-harnesses" and kind in ("*", r.kind)]

    def describe(self, error: BaseException) -> dict[str, Any]:
        own = [kind for kind in type(error).__mro__ if kind.__module__ != "hf_haul.errors"]
        return {
            "kinds": [f"{kind.__module__}.{kind.__qualname__}" for kind in own],
            "text": self.plain(str(error)),
            "cause": None if error.__cause__ is None else type(error.__cause__).__name__,
            "has response": hasattr(error, "response"),
        }

    def plain(self, value: Any) -> Any:
        """A value without what differs between any two runs: ports, folders, ids of requests."""
        if isinstance(value, (list, tuple)):
            return [self.plain(each) for each in value]
        if isinstance(value, dict):
            return {self.plain(k): self.plain(v) for k, v in value.items()}
        if hasattr(value, "__dataclass_fields__"):
            return self.plain(vars(value))
        if isinstance(value, str):
            text = value.replace(self.hub.url, "<hub>").replace(str(self.home), "<home>")
            text = re.sub(r"127\.0\.0\.1:\d+|localhost:\d+", "<address>", text)
            text = re.sub(r"\(Request ID: [^)]*\)", "(Request ID)", text)
            return re.sub(r"&?(Expires|Signature|Key-Pair-Id|Policy)=[^&\s']+", "", text)
        return value if isinstance(value, (int, float, bool, type(None))) else repr(type(value))

    # -- disk

    def tree(self, label: str, root: Path | None = None) -> None:
        """Write down every file, link, mode and content below a folder.

        Left out are lock files, which only upstream makes, and times.
        """
        root = self.home if root is None else root
        self.note(label, sorted(self._entries(root)) if root.exists() else None)

    def _entries(self, root: Path) -> Iterator[str]:
        for path in root.rglob("*"):
            name = path.relative_to(root).as_posix()
            if path.name.endswith(".lock") or ".locks" in name.split("/"):
                continue
            if path.is_symlink():
                yield f"{name} -> {self.plain(os.readlink(path))}"
            elif path.is_dir():
                yield f"{name}/"
            else:
                mode = stat.S_IMODE(path.stat().st_mode)
                yield f"{name} {mode:o} {_content(path)}"


def _content(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".metadata":
        return repr(data.decode().splitlines()[:2])  # without the time
    return data.decode() if len(data) < 100 and data.isascii() else hashlib.sha256(data).hexdigest()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(door: str, home: Path, wanted: list[str]) -> None:
    cdn_port = _free_port()
    # Another host name for the storage: huggingface_hub 1.x takes a port for no difference.
    with LocalHub(accounts=[ACCOUNT], cdn_port=cdn_port, cdn_url=f"http://localhost:{cdn_port}") as hub:
        os.environ.update(HF_ENDPOINT=hub.url, HF_HOME=str(home / "hf"))
        import huggingface_hub
        from huggingface_hub import constants
        from tests.peers import scenarios

        api: ModuleType = huggingface_hub
        if door == "ours":
            import hf_haul

            api = hf_haul
        version = int(huggingface_hub.__version__.partition(".")[0])
        report: dict[str, Any] = {}
        for name, each in SCENARIOS.items():
            if (wanted and name not in wanted) or (each.newer and version < 2):
                continue
            trial = Trial(door, api, hub, name, home / name, Repo(f"org/{name.replace('_', '-')}"))
            trial.home.mkdir(parents=True)
            hub.add(trial.repo)
            constants.HF_HUB_CACHE = str(trial.cache)
            failure = None
            begin = time.monotonic()
            before = dict(vars(hub.options))
            try:
                with scenarios.as_it_was():
                    each.run(trial)
            except Exception:
                failure = traceback.format_exc()
            finally:
                vars(hub.options).update(before)
                hub.faults.clear()
            report[name] = {
                "steps": trial.steps,
                "asked": trial.asked,
                "failure": failure,
                "seconds": time.monotonic() - begin,
            }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    # As `python -m` this module has another name than the one scenarios import.
    from tests.peers import trial

    with contextlib.suppress(BrokenPipeError):
        trial.main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
