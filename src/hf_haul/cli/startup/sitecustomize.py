# ruff: noqa: BLE001, SIM105
# (Nothing may raise into the program; contextlib would take time.)
"""What every Python below ``hf-haul run`` runs at its start, before the program.

Python imports the first ``sitecustomize`` on its path; ``hf-haul run`` has put this folder in front of it.
Somebody's own is run all the same, after this one. Nothing of hf_haul, huggingface_hub or fsspec is imported
here: a program that downloads nothing pays a look-up for each module it imports, and no more. What is to be
done is done when huggingface_hub's and fsspec's own modules have been imported:

- huggingface_hub's functions for downloads are replaced by ones that, when they are first called, install
  ``hf_haul.accelerate`` and call what is there then. To install it at once would import huggingface_hub in
  the middle of its own import.
- fsspec is told a class for ``hf://``, by name, which it imports when it is first used.

This file is read by whatever Python the program starts, also one of another version or without hf_haul: so it
is written for all versions of Python 3 that are about, and whatever goes wrong in it leaves the program as it
is.
"""

import sys

TYPE_CHECKING = False  # type checkers know the name; typing itself would take time
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

__all__ = ()

_SELF = __name__
#: Set to what has been told already, for children not to tell it again.
_TOLD = "_HF_HAUL_RUN_TOLD"
_DOWNLOAD = "huggingface_hub.file_download"
_HTTP = "huggingface_hub.utils._http"
_FSSPEC = "fsspec"
#: What ``accelerate`` replaces.
_REPLACED = {
    _DOWNLOAD: ("_download_to_tmp_and_move", "publish_blob_to_shared_store", "_is_same_or_hub_host"),
    _HTTP: ("_is_same_or_hub_host",),
}
_HF_FILESYSTEM = "hf_haul.filesystem.registration.HfUrlFileSystem"


def _tell(text: str) -> None:
    """Write one line to stderr, once for all processes."""
    import os

    if os.environ.get(_TOLD) != text and sys.stderr is not None:
        os.environ[_TOLD] = text
        try:
            sys.stderr.write("hf-haul: " + text + "\n")
        except (OSError, ValueError):  # nobody reads it
            pass


def _find(name: str, path: "Any" = None, target: "Any" = None, but: "Any" = None) -> "Any":
    """Return the spec of a module as the import system does; ``importlib.util`` would take time."""
    for finder in list(sys.meta_path):
        find = None if finder is but else getattr(finder, "find_spec", None)
        spec = None if find is None else find(name, path, target)
        if spec is not None:
            return spec
    return None


class _Watch:
    """Sees some modules being imported, and does something once each is."""

    def __init__(self, actions: "dict[str, Callable[[ModuleType], None]]") -> None:
        self.actions = actions

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        """Find what others find; see to it that the module is seen when it is complete."""
        action = self.actions.get(name)
        if action is None:
            return None
        spec = _find(name, path, target, but=self)
        if spec is not None:
            self._follow(spec.loader, action)
        return spec

    @staticmethod
    def _follow(loader: "Any", action: "Callable[[ModuleType], None]") -> None:
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return

        def exec_module(module: "ModuleType") -> None:
            execute(module)
            _try(action, module)

        try:
            loader.exec_module = exec_module  # of this loader alone: each module has one of its own
        except AttributeError:  # built in, or frozen
            pass


def _try(action: "Callable[[ModuleType], None]", module: "ModuleType") -> None:
    try:
        action(module)
    except Exception as error:
        _tell(f"{module.__name__} is left as it is: {error!r}")


class _Downloads:
    """Stands for huggingface_hub's functions until one of them is called."""

    def __init__(self) -> None:
        self.stubs: list[tuple[ModuleType, str, Any, Any]] = []
        self.renew()

    def renew(self) -> None:
        """Make the lock; in a forked child anew, as nobody is left there who would release it."""
        import os
        from _thread import RLock

        self.pid, self.lock = os.getpid(), RLock()

    def replace(self, module: "ModuleType") -> None:
        """Replace what a module has of the functions."""
        for name in _REPLACED[module.__name__]:
            original = getattr(module, name, None)
            if original is not None:
                stub = self.stub(module, name, original)
                self.stubs.append((module, name, original, stub))
                setattr(module, name, stub)

    def stub(self, module: "ModuleType", name: str, original: "Callable[..., Any]") -> "Callable[..., Any]":
        """Return a function that installs ours, and calls what is then in its place."""
        import functools

        @functools.wraps(original)
        def install_and_call(*args: "Any", **kwargs: "Any") -> "Any":
            self.install()
            now = getattr(module, name)
            return (original if now is install_and_call else now)(*args, **kwargs)

        return install_and_call

    def install(self) -> None:
        """Give huggingface_hub its functions back, and have ``accelerate`` replace them."""
        import os

        if self.pid != os.getpid():
            self.renew()
        with self.lock:
            if not self.stubs:
                return
            for module, name, original, stub in self.stubs:
                if getattr(module, name, None) is stub:
                    setattr(module, name, original)
            del self.stubs[:]
            try:
                from hf_haul.hub.acceleration import accelerate

                accelerate.install()
            except Exception as error:
                _tell(f"huggingface_hub downloads as it does without hf-haul: {error!r}")


def _lead_hf_urls(fsspec: "Any") -> None:
    # Only at the end of fsspec's import: it has registered what packages announce, huggingface_hub's class.
    fsspec.register_implementation("hf", _HF_FILESYSTEM, clobber=True)


def _begin() -> None:
    if _find("hf_haul") is None:
        _tell(
            f"{sys.executable} has no hf_haul, so the program runs without it;"
            f" to have it: {sys.executable} -m pip install hf-haul"
        )
        return
    downloads = _Downloads()
    actions = {_DOWNLOAD: downloads.replace, _HTTP: downloads.replace, _FSSPEC: _lead_hf_urls}
    for name, action in actions.items():
        if name in sys.modules:  # by a .pth file
            _try(action, sys.modules[name])
    sys.meta_path.insert(0, _Watch(actions))


def _run_next() -> None:
    """Run the ``sitecustomize`` that Python would have run without this one."""
    import os

    here = os.path.dirname(os.path.abspath(__file__))
    before = list(sys.path)
    sys.path[:] = [each for each in before if os.path.abspath(each or os.curdir) != here]
    mine = sys.modules.pop(_SELF)
    try:
        __import__(_SELF)
    except ImportError as error:
        if getattr(error, "name", None) != _SELF:
            raise
    finally:
        sys.modules.setdefault(_SELF, mine)


if _SELF == "sitecustomize":  # and not read by a tool
    try:
        _begin()
    except Exception as _error:
        _tell(f"the program runs without it: {_error!r}")
    _run_next()
