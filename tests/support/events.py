"""Remembers what ``on_event`` is told, and holds it against the schema and the promises of the vocabulary."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator

__all__ = ["SCHEMA", "EventLog", "validate_event"]

SCHEMA: dict[str, Any] = json.loads(
    resources.files("hf_haul").joinpath("events.schema.json").read_text(encoding="utf-8")
)
_VALIDATOR = Draft202012Validator(SCHEMA)


def validate_event(event: Mapping[str, Any]) -> None:
    """Raise unless an event is one of the schema, and of JSON's own types."""
    _VALIDATOR.validate(json.loads(json.dumps(event, allow_nan=False)))


class EventLog:
    """A callback for ``on_event``.

    Attributes:
        events: What it was called with.
        threads: Which threads called it.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.threads: set[int] = set()

    def __call__(self, event: dict[str, Any]) -> None:
        self.threads.add(threading.get_ident())
        self.events.append(event)

    @property
    def kinds(self) -> list[str]:
        """Names of the events, in order."""
        return [event["ev"] for event in self.events]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one name."""
        return [event for event in self.events if event["ev"] == kind]

    def one(self, kind: str) -> dict[str, Any]:
        """The only event of a name."""
        (event,) = self.of(kind)
        return event

    def files(self) -> list[tuple[str, str]]:
        """State and path of each event about a file, sorted."""
        return sorted((event["state"], event["path"]) for event in self.of("file"))

    def check(self, repo_id: str | None = None) -> None:
        """Raise where the events of one call break a promise.

        Args:
            repo_id: Look at this repository's only.
        """
        told = [event for event in self.events if repo_id in {None, event.get("repo_id")}]
        for event in told:
            validate_event(event)
        kinds = [event["ev"] for event in told]
        moments = [event["t"] for event in told]
        assert moments == sorted(moments)
        assert len(self.threads) <= 1
        assert kinds.count("plan") <= 1
        assert set(kinds[: kinds.index("plan")] if "plan" in kinds else kinds) <= {"wait", "error"}
        assert len([kind for kind in kinds if kind in {"done", "error"}]) == (
            "plan" not in kinds or len(kinds) > 1
        )
        assert kinds[-1] in {"done", "error"} or kinds == ["plan"]
        progress = [event for event in told if event["ev"] == "progress"]
        done = [event["done"] for event in progress]
        assert done == sorted(done)
        assert len({event["total"] for event in progress} - {None}) <= 1
        assert all(event["total"] is None or event["done"] <= event["total"] for event in progress)
        if kinds[-1] == "done":
            assert (progress[-1]["done"], progress[-1]["eta"]) == (progress[-1]["total"], 0.0)
            assert progress[-1]["files_done"] == progress[-1]["files_total"]
            sums = told[-1]
            assert sums["fetched"] - sums["wasted"] + sums["reused"] == progress[-1]["total"]
