"""What happens when the Hub does not answer: what the cache offers, and which error is raised."""

from __future__ import annotations

from huggingface_hub.errors import (
    FileMetadataError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from hf_haul.hub.asking import is_not_served

__all__ = ["HubUnreachable", "detach_tracebacks", "file_error", "snapshot_error"]


def detach_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of an error and its causes, which keep the callers' frames alive."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        current.__traceback__ = None
        pending += [current.__cause__, current.__context__]


class HubUnreachable(Exception):  # noqa: N818  not an error of its own: it carries one
    """The Hub did not answer.

    Attributes:
        error: Why.
        commit: The commit, if it was known by then.
    """

    def __init__(self, error: Exception, commit: str | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.commit = commit


def snapshot_error(error: Exception) -> Exception:
    """Return what upstream raises when neither the Hub nor the cache has a snapshot.

    Args:
        error: Why the Hub cannot be asked; returned itself where the caller has to see it.
    """
    if isinstance(error, OfflineModeIsEnabled):
        return LocalEntryNotFoundError(
            "Cannot find an appropriate cached snapshot folder for the specified revision on the local disk and "
            "outgoing traffic has been disabled. To enable repo look-ups and downloads online, set "
            "'HF_HUB_OFFLINE=0' as environment variable."
        )
    if _is_refusal(error):
        return error
    return LocalEntryNotFoundError(
        f"Got: {type(error).__name__}: {error}"
        "\nAn error happened while trying to locate the files on the Hub, and we cannot find the appropriate"
        " snapshot folder for the specified revision on the local disk. Please check your internet connection"
        " and try again."
    )


def file_error(error: Exception) -> Exception:
    """Return what upstream raises when neither the Hub nor the cache has a file.

    Args:
        error: Why the Hub cannot be asked; returned itself where the caller has to see it.
    """
    if _is_refusal(error):
        return error
    if isinstance(error, FileMetadataError):
        return LocalEntryNotFoundError(f"{error} We also cannot find the requested files in the local cache.")
    if is_not_served(error):
        return LocalEntryNotFoundError(f"{error}\nWe also cannot find the file in the local cache.")
    return LocalEntryNotFoundError(
        "An error happened while trying to locate the file on the Hub and we cannot find the requested files"
        " in the local cache. Please check your connection and try again or make sure your Internet connection"
        " is on."
    )


def _is_refusal(error: Exception) -> bool:
    """Return whether the Hub answered with an error that the caller has to see."""
    return isinstance(error, RepositoryNotFoundError) or (
        isinstance(error, HfHubHTTPError) and error.response.status_code == 401
    )
