"""Who reads which error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from hf_haul.failures.connections import (
    read_bad_answer,
    read_broken,
    read_certificate,
    read_exhausted,
    read_metadata,
    read_no_answer,
    read_no_connection,
    read_not_json,
    read_proxy,
)
from hf_haul.failures.failure import (
    LOG_IN,
    MORE_FILES,
    RUN_AGAIN,
    Failure,
    FailureKind,
    Reader,
    says_itself,
    sentences,
)
from hf_haul.failures.machine import read_connection, read_no_home, read_system
from hf_haul.failures.refusals import (
    read_disabled,
    read_gated,
    read_no_file,
    read_no_repository,
    read_no_revision,
    read_refusal,
    read_status,
)
from hf_haul.redaction import redact_text

__all__ = ["describe"]


def describe(error: BaseException) -> Failure:
    """Return what an error means to people.

    Args:
        error: Any error: of ours, of huggingface_hub, of the system.
    """
    for cls in type(error).__mro__:
        read = _READERS.get(cls.__name__)
        found = None if read is None else read(error)
        if found is not None:
            return _fit_to_show(found)
    text, _, details = sentences(error)
    name = type(error).__name__  # the one thing to say of an error that nobody foresaw
    return _fit_to_show(Failure(FailureKind.UNFORESEEN, f"{name}: {text}" if text else name, None, details))


def _fit_to_show(failure: Failure) -> Failure:
    """Return a failure without secrets, and without what a terminal would take for a command."""
    return Failure(
        failure.kind,
        _one_line(failure.text),
        None if failure.hint is None else _one_line(failure.hint),
        tuple(map(_one_line, failure.details)),
    )


def _one_line(text: str) -> str:
    shown = "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return " ".join(redact_text(shown).split())


# ---- what the cache lacks, without the Hub


def _offline(_error: Any) -> Failure:
    return Failure(
        FailureKind.NOT_FOUND,
        "Offline mode is on (HF_HUB_OFFLINE), so the Hub was not asked",
        "Unset HF_HUB_OFFLINE to go online",
    )


def _not_cached(error: Any) -> Failure | None:
    cause = error.__cause__
    if cause is not None:
        why = describe(cause)
        return replace(why, text=f"{why.text}; and the cache does not have it")
    if "outgoing traffic" not in str(error).lower():
        return says_itself(FailureKind.NOT_FOUND)(error)
    return Failure(
        FailureKind.NOT_FOUND,
        "It is not in the cache, and the Hub may not be asked: offline mode is on (HF_HUB_OFFLINE), or was asked for",
        "Go online once to fetch it",
    )


def _incomplete(error: Any) -> Failure:
    missing = re.search(r"(\d+) file\(s\) are missing", str(error))
    lacks = "the cache has only a part of it"
    if missing is not None:
        lacks += f" ({missing[1]} {'file is' if missing[1] == '1' else 'files are'} missing)"
    where = f"what the cache has: {error.snapshot_path}"
    if error.__cause__ is None:
        hint = "Unset HF_HUB_OFFLINE, and run it again to fetch the rest"
        return Failure(FailureKind.NOT_FOUND, f"Offline, and {lacks}", hint, (where,))
    why = describe(error.__cause__)
    return replace(why, text=f"{why.text}; and {lacks}", details=(*why.details, where))


def _failed_force(error: ValueError) -> Failure | None:
    """Return why a file could not be fetched anew: huggingface_hub says it in the cause only."""
    if error.__cause__ is None or not str(error).startswith("Force download failed"):
        return says_itself(FailureKind.OTHER)(error)
    return describe(error.__cause__)


def _failed_dry_run(error: Any) -> Failure | None:
    """Return why it cannot be told what would be downloaded: huggingface_hub says it in the cause only."""
    if error.__cause__ is None:
        return says_itself(FailureKind.OTHER)(error)
    return describe(error.__cause__)


def _on_a_node(error: Any) -> Failure | None:
    """Return what another machine said of its error, which did not leave it."""
    return says_itself(error.kind)(error)


def _on_nodes(error: Any) -> Failure | None:
    """Return what several machines said, with the kind of the first of them."""
    first = next(iter(error.errors.values()), None)
    return says_itself(FailureKind.OTHER if first is None else describe(first).kind)(error)


def _interrupted(_error: BaseException) -> Failure:
    return Failure(FailureKind.OTHER, "Interrupted", RUN_AGAIN)


def _no_stored_token(_error: Any) -> Failure:
    return Failure(FailureKind.DENIED, "A token is required, and none is stored", f"To have one, {LOG_IN}")


#: Who reads an error, by the name of its class or of the nearest base class that knows what to say.
_READERS: Final[Mapping[str, Reader]] = {
    # huggingface_hub's
    "GatedRepoError": read_gated,
    "RepositoryNotFoundError": read_no_repository,
    "DisabledRepoError": read_disabled,
    "RevisionNotFoundError": read_no_revision,
    "RemoteEntryNotFoundError": read_no_file,
    "HfHubHTTPError": read_refusal,
    "OfflineModeIsEnabled": _offline,
    "IncompleteSnapshotError": _incomplete,
    "DryRunError": _failed_dry_run,
    "LocalEntryNotFoundError": _not_cached,
    "EntryNotFoundError": says_itself(FailureKind.NOT_FOUND),
    "LocalTokenNotFoundError": _no_stored_token,
    "HFValidationError": says_itself(FailureKind.USAGE),
    "HfUriError": says_itself(FailureKind.USAGE),
    "BadAnswerError": read_bad_answer,
    "FileMetadataError": read_metadata,
    # httpx's and httpx2's
    "TimeoutException": read_no_answer,
    "ConnectError": read_no_connection,
    "ProxyError": read_proxy,
    "NetworkError": read_broken,
    "ProtocolError": read_broken,
    "JSONDecodeError": read_not_json,
    # ours
    "InvalidUrlError": says_itself(FailureKind.USAGE),
    "HttpStatusError": read_status,
    "SourceChangedError": says_itself(FailureKind.INTEGRITY, RUN_AGAIN),
    "CertificateError": read_certificate,
    "RetriesExhaustedError": read_exhausted,
    "TransferError": says_itself(FailureKind.NETWORK, RUN_AGAIN),
    "DiskFullError": says_itself(FailureKind.DISK),
    "TooManyOpenFilesError": says_itself(FailureKind.OTHER, MORE_FILES),
    "IntegrityError": says_itself(FailureKind.INTEGRITY),
    "ControlLostError": says_itself(FailureKind.NETWORK),
    "NodeError": _on_a_node,
    "DistributionError": _on_nodes,
    "HaulError": says_itself(FailureKind.OTHER),
    # Python's
    "ConnectionError": read_connection,
    "TimeoutError": read_connection,
    "gaierror": read_connection,
    "SSLError": read_connection,
    "OSError": read_system,
    "RuntimeError": read_no_home,
    "ValueError": _failed_force,
    "ImportError": says_itself(FailureKind.OTHER),
    "KeyboardInterrupt": _interrupted,
}
