"""What every transport offers: bodies of byte ranges, opened from a source."""

from __future__ import annotations

from typing import Protocol

from hf_haul.cancellation import CancelToken
from hf_haul.ranges import ByteRange

__all__ = ["Body", "Transport"]


class Body(Protocol):
    """The bytes of one answer, read in order.

    Attributes:
        range: Which bytes of the file follow; its stop is the file's end for a whole file of known size.
            ``None`` if the source does not say how long the file is.
        total: Bytes of the whole file, ``None`` if the source does not say.
        whole: Whether it was sent as the whole file, and not as a range.
    """

    range: ByteRange | None
    total: int | None
    whole: bool

    def readinto(self, buffer: memoryview) -> int:
        """Fill the start of ``buffer``; 0 at the end of the body.

        Raises:
            TransferError: The connection broke, or the body is shorter than announced.
            StopRequestedError: The worker was asked to stop.
        """

    def close(self) -> None:
        """Release the connection, for reuse if the body was read to its end."""


class Transport(Protocol):
    """Opens ranges of one file; safe for many threads.

    Attributes:
        version: What the source calls the present version of the file, once it has answered.
    """

    version: str | None

    def open(self, want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool = False) -> Body:
        """Request a range, or the whole file.

        Args:
            want: The bytes; ``None`` for the whole file.
            cancel_token: Ends every wait, and wakes every blocking call.
            fresh: Use a new connection, outside any pool.

        Returns:
            Exactly the range asked for, or the whole file from its first byte if the source does not do
            ranges and the range began there.

        Raises:
            TransferError: By kind, see ``hf_haul.errors``.
            StopRequestedError: The worker was asked to stop.
        """
