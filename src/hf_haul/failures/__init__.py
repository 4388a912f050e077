"""What an error means to people: its kind, what happened in one sentence, and what to do about it.

The command, the events and the log say the same of the same error, and nothing of it names a class. The
sentence comes first; statuses, URLs and request ids, which help those who look into it, come below.
``failure`` is the value, ``readers`` has the table of who reads which error; ``refusals``, ``connections``
and ``machine`` read those of the Hub, of the network, and of this machine.

huggingface_hub's errors and httpx's are known by the names of their classes: this package is far below those
that may import them, because the engine tells of failures, too.

May import ``errors``, ``urls``, ``redaction`` and ``retry_after``. Does no I/O.
"""

from __future__ import annotations

from hf_haul.failures.failure import Failure, FailureKind
from hf_haul.failures.readers import describe

__all__ = ["Failure", "FailureKind", "describe"]
