"""A buffer that several threads fill, and whose bytes are then handed out, large ones without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

from hf_haul.config import MiB

__all__ = ["Buffer"]

#: Bytes from which on a copy is worth the trouble to avoid it.
_LARGE: Final = 4 * MiB


class _Unfilled:
    """Makes ``bytes`` objects of any content, to be filled before anybody sees them; with CPython only.

    It is what C code does with ``PyBytes_FromStringAndSize(NULL, n)``.
    """

    def __init__(self) -> None:
        api: Any = getattr(ctypes, "pythonapi", None)
        self.is_possible = hasattr(api, "PyBytes_FromStringAndSize") and hasattr(api, "PyBytes_AsString")
        if self.is_possible:
            make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)
            where = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)
            self._make: Callable[[None, int], bytes] = make(("PyBytes_FromStringAndSize", api))
            self._address: Callable[[bytes], int] = where(("PyBytes_AsString", api))

    def make(self, nbytes: int) -> tuple[bytes, memoryview]:
        """Return the object, and a view to fill it by, which keeps it alive."""
        made = self._make(None, nbytes)
        array: Any = (ctypes.c_ubyte * nbytes).from_address(self._address(made))
        array.filled = made
        return made, memoryview(array).cast("B")


_unfilled: Final = _Unfilled()


class Buffer:
    """A buffer that several threads fill and that is then handed out, once.

    A large one is filled in place. Where the bytes were copied out of an array at the end, ``read()`` of
    200 MB took 383 MiB (bench_reads, whole).

    BytesIO would save that copy, too. But when the collector finds a view of one in a cycle, as a failed read
    leaves it, Python 3.12.1 crashes (python/cpython#111049) and 3.13 complains aloud (python/cpython#111331).

    Attributes:
        view: Where to write; until :meth:`take`.
    """

    def __init__(self, nbytes: int) -> None:
        self._bytes: bytes | bytearray
        if nbytes >= _LARGE and _unfilled.is_possible:
            self._bytes, self.view = _unfilled.make(nbytes)
        else:
            self._bytes = bytearray(nbytes)
            self.view = memoryview(self._bytes)

    def take(self) -> bytes:
        """Return the bytes, all of which have been written."""
        return bytes(self.take_array())  # no copy of what is bytes already

    def take_array(self) -> bytes | bytearray:
        """Return the bytes without a copy, for those who do not hand them on."""
        self.view.release()
        taken, self._bytes = self._bytes, b""
        return taken
