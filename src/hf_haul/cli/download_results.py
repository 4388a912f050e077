"""What ``hf-haul download`` prints on stdout: paths, plans, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from hf_haul.cli.exit_codes import ExitCode, exit_code_of
from hf_haul.cli.folders import format_size
from hf_haul.cli.streams import print_result
from hf_haul.failures import FailureKind, describe

__all__ = ["CallNotes", "error_as_dict", "print_dry_run", "print_json", "result_as_dict"]

#: What a result tells, and what the last event calls it.
_SUMS: Final = {
    "files_fetched": "files_fetched",
    "files_reused": "files_reused",
    "bytes_fetched": "fetched",
    "bytes_reused": "reused",
    "bytes_wasted": "wasted",
    "seconds": "seconds",
}


class CallNotes:
    """Notes what the events of one call tell, for its result, and passes them on.

    Args:
        forward: Gets them, too.

    Attributes:
        commit: What was downloaded, where that was told.
        sums: What the last event told.
    """

    def __init__(self, forward: Callable[[Mapping[str, Any]], object] | None) -> None:
        self._forward = forward
        self.commit: str | None = None
        self.sums: Mapping[str, Any] = {}

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Note an event, and pass it on."""
        if event["ev"] == "plan":
            self.commit = event.get("commit")
        elif event["ev"] in {"done", "error"}:
            self.sums = event
        if self._forward is not None:
            self._forward(event)


def result_as_dict(
    path: str | None, commit: str | None, sums: Mapping[str, Any], error: BaseException | None = None
) -> dict[str, Any]:
    """Return the result of one repository, as ``--json`` prints it.

    Args:
        path: Where its files are; ``None`` if it failed.
        commit: What was downloaded, where that is known.
        sums: Of its last event.
        error: Why it failed.
    """
    found = {"path": path, "commit": commit}
    found |= {name: sums.get(theirs, 0) for name, theirs in _SUMS.items()}
    found["bytes_by_source"] = sums.get("bytes_by_source", {})
    return found if error is None else {**found, **error_as_dict(error)}


def error_as_dict(error: BaseException) -> dict[str, Any]:
    """Return what went wrong, and the exit code that goes with it."""
    failure, code = describe(error), exit_code_of(error)
    about = {
        "type": type(error).__name__,
        "kind": FailureKind.USAGE.value if code is ExitCode.USAGE else failure.kind.value,
        "message": failure.text,
        "file": getattr(error, "named_file", None),
        "hint": failure.hint,
        "details": [*failure.details, *map(str, getattr(error, "__notes__", ()))],
    }
    if isinstance(error, KeyboardInterrupt):
        about["kind"] = "interrupted"
    return {"error": about, "exit_code": int(code)}


def print_json(value: Mapping[str, Any]) -> None:
    """Print one object, on one line."""
    print_result(json.dumps(value))


def print_dry_run(files: Iterable[Any], how: str) -> None:
    """Print what would be downloaded.

    Args:
        files: huggingface_hub's ``DryRunFileInfo`` of each file.
        how: ``human``, ``agent`` (columns parted by tabs) or ``quiet`` (names alone).
    """
    ordered = sorted(files, key=lambda info: str(info.filename))
    to_fetch = [info for info in ordered if info.will_download]
    if how == "quiet":
        for info in ordered:
            print_result(str(info.filename))
        return
    total = sum(info.file_size or 0 for info in to_fetch)
    print_result(
        f"[dry-run] Will download {len(to_fetch)} files (out of {len(ordered)}) totalling {format_size(total)}."
    )
    if how == "agent":
        print_result("file\tsize")
    for info in ordered:
        size = format_size(info.file_size or 0) if info.will_download else "-"
        print_result(f"{info.filename}\t{size}" if how == "agent" else f"{size:>10}  {info.filename}")
