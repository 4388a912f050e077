"""Progress bars in a notebook that has no ipywidgets: as text, and without a warning."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Any

__all__ = ["choose_bars_quietly", "needs_text_bar"]

#: Loaded in every kernel of Jupyter, and nowhere else.
_KERNEL = "ipykernel.zmqshell"
_WIDGET_BARS = "tqdm.notebook"


def choose_bars_quietly() -> None:
    """Import tqdm before huggingface_hub does, without its warning about missing ipywidgets.

    tqdm warns where it is first imported. Nobody who calls a download asked for its bars in particular, and
    they get one all the same.
    """
    if _KERNEL in sys.modules and "tqdm.auto" not in sys.modules:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")
            import_module("tqdm.auto")


def needs_text_bar(cls: Any) -> bool:
    """Return whether this class of tqdm writes text, and its cell in a notebook is where it has to go.

    There, tqdm takes stderr for a file, and shows nothing of what is disabled for files.

    Args:
        cls: A class of tqdm.
    """
    if _KERNEL not in sys.modules:
        return False
    widget = getattr(sys.modules.get(_WIDGET_BARS), "tqdm_notebook", None)
    return widget is None or not issubclass(cls, widget)
