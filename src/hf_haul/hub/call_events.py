"""What one call of a public function tells ``on_event``, from its plan to its end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from huggingface_hub import DryRunFileInfo
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_haul.engine.event_stream import EventStream
from hf_haul.errors import hint_for
from hf_haul.storage.free_space import free_bytes

__all__ = ["CallEvents"]

#: What to do about errors of huggingface_hub; the first that fits.
_HINTS: Final[Sequence[tuple[type[BaseException], str]]] = (
    (GatedRepoError, "Accept its conditions on its page, and log in with `hf auth login` or set HF_TOKEN."),
    (
        RepositoryNotFoundError,
        "Check its name and type; for a private one, log in with `hf auth login` or set HF_TOKEN.",
    ),
    (RevisionNotFoundError, "Check the branch, tag or commit."),
    (OfflineModeIsEnabled, "Unset HF_HUB_OFFLINE to use the network."),
    (LocalEntryNotFoundError, "Check the network, the proxy settings and HF_ENDPOINT."),
    (EntryNotFoundError, "Check the name of the file, and the revision."),
)


def _hint_for(error: BaseException) -> str | None:
    for kind, hint in _HINTS:
        if isinstance(error, kind):
            return hint
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in {401, 403}:
            return "Check the token: log in with `hf auth login`, or set HF_TOKEN."
        if status == 429 or status >= 500:
            return "Try again later."
    return hint_for(error)


class CallEvents:
    """Tells of one call; does nothing where nobody listens.

    Args:
        stream: Where to tell.

    Attributes:
        stream: The same.
    """

    def __init__(self, stream: EventStream | None) -> None:
        self.stream = stream

    def plan(
        self,
        files: Iterable[tuple[int | None, bool, bool]],
        *,
        folder: str,
        revision: str | None = None,
        commit: str | None = None,
        path: str | None = None,
    ) -> None:
        """Tell what is to be done.

        Args:
            files: Of each file its bytes (``None`` if unknown), whether it is in place, and whether the
                engine need not look at it.
            folder: Where the bytes go.
            revision: What was asked for.
            commit: What that stands for.
            path: Where the caller finds it.
        """
        if self.stream is None:
            return
        found = list(files)
        sizes = [size for size, _, _ in found]
        self.stream.plan(
            files=len(found),
            nbytes=None if None in sizes else sum(size or 0 for size in sizes),
            files_reused=sum(reused for _, reused, _ in found),
            reused=sum(size or 0 for size, reused, _ in found if reused),
            files_here=sum(here for _, _, here in found),
            bytes_here=sum(size or 0 for size, _, here in found if here),
            free_disk=free_bytes(Path(folder)),
            revision=revision,
            commit=commit,
            path=path,
        )

    def plan_dry_run(
        self, infos: Sequence[DryRunFileInfo], *, folder: str, revision: str, path: str | None = None
    ) -> None:
        """Tell what would be done."""
        self.plan(
            ((info.file_size, not info.will_download, True) for info in infos),
            folder=folder,
            revision=revision,
            commit=infos[0].commit_hash if infos else None,
            path=path,
        )

    def found(self, files: Iterable[str], *, folder: str, revision: str, path: str) -> None:
        """Tell that everything is in place, without the Hub's help.

        Args:
            files: Their paths on disk.
            folder: Where bytes would go.
            revision: What was asked for.
            path: Where the caller finds it.
        """
        if self.stream is None:
            return
        sizes = [os.path.getsize(file) for file in files]
        self.plan(((size, True, True) for size in sizes), folder=folder, revision=revision, path=path)
        self.done(path)

    def failed(self, path: str, size: int | None, error: BaseException) -> None:
        """Tell of a file that never came to the engine."""
        if self.stream is not None:
            self.stream.file("failed", path, size, str(error))

    def done(self, path: str) -> None:
        """Tell that everything is in place."""
        if self.stream is not None:
            self.stream.done(path)

    def error(self, error: BaseException) -> None:
        """Tell that the call fails."""
        if self.stream is not None:
            self.stream.error(error, hint=_hint_for(error))

    def flush(self, timeout: float) -> None:
        """Wait, at most ``timeout`` seconds, until all was delivered."""
        if self.stream is not None:
            self.stream.flush(timeout)
