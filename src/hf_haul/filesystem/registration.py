"""Gives ``hf://`` URLs our filesystem, for code that one cannot change; and takes it away again.

Only on request: whoever writes ``hf://`` means huggingface_hub's own, unless somebody says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import fsspec
from huggingface_hub import HfFileSystem

from hf_haul.filesystem.core import HaulFileSystem

__all__ = ["HfUrlFileSystem", "register", "unregister"]

_PROTOCOL: Final = "hf"

#: What ``hf://`` led to before; ``None`` where nobody had used it yet. Replaced by single operations.
_former: type | None = None


class HfUrlFileSystem(HaulFileSystem):
    """:class:`HaulFileSystem` under the name of ``hf://``.

    Unpickled in another process, it is registered there, too: URLs beside it lead to the same place.
    """

    protocol = _PROTOCOL

    def __reduce__(self) -> tuple[Any, ...]:
        make, arguments = super().__reduce__()
        return _make_registered, (make, arguments)


# One cache of instances for all filesystems of the Hub, see HaulFileSystem.
HfUrlFileSystem._cache = HfFileSystem._cache  # noqa: SLF001  its keys hold the class, so they do not meet


def register(protocol: str = _PROTOCOL) -> None:
    """Lead ``hf://`` URLs to :class:`HaulFileSystem`, wherever fsspec understands them.

    For code that cannot be changed to ``haul://``: pandas, datasets. It holds for this process and those
    forked from it; others have to call it, or unpickle a filesystem or file that was made afterwards. What
    was opened before stays as it is.

    Args:
        protocol: ``hf``.

    Raises:
        ValueError: It is another protocol.
    """
    global _former
    _require_known(protocol)
    current = fsspec.registry.get(_PROTOCOL)
    if current is not HfUrlFileSystem:
        _former = current
        fsspec.register_implementation(_PROTOCOL, HfUrlFileSystem, clobber=True)


def unregister(protocol: str = _PROTOCOL) -> None:
    """Give ``hf://`` URLs back to the filesystem that they led to; do nothing if they do not lead to ours.

    Args:
        protocol: ``hf``.

    Raises:
        ValueError: It is another protocol.
    """
    _require_known(protocol)
    if fsspec.registry.get(_PROTOCOL) is HfUrlFileSystem:
        fsspec.register_implementation(_PROTOCOL, _former or HfFileSystem, clobber=True)


def _require_known(protocol: str) -> None:
    if protocol != _PROTOCOL:
        raise ValueError(
            f"only {_PROTOCOL!r} can be registered, not {protocol!r}; 'haul' is, wherever hf_haul is installed"
        )


def _make_registered(make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Make a filesystem that was pickled, and have URLs lead to it."""
    register()
    return make(*arguments)
