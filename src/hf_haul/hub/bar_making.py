"""Makes progress bars: the caller's, or huggingface_hub's with its rules."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    are_progress_bars_disabled,
)
from huggingface_hub.utils import tqdm as hf_tqdm  # type: ignore[attr-defined]  # the same

from hf_haul.hub.notebooks import needs_text_bar

__all__ = ["are_bars_disabled", "is_hubs_own", "make_bar"]

#: Seconds between two changes of a bar in a notebook.
_NOTEBOOK_INTERVAL: Final = 0.5


def are_bars_disabled(cls: Any, name: str) -> bool:
    """Return whether huggingface_hub's bars of this name are disabled, and the caller has none."""
    # Without stderr, as under pythonw, tqdm would fail.
    return is_hubs_own(cls) and (sys.stderr is None or bool(are_progress_bars_disabled(name)))


def is_hubs_own(cls: Any) -> bool:
    """Return whether bars are huggingface_hub's, and so follow its rules."""
    return cls is None or (isinstance(cls, type) and issubclass(cls, hf_tqdm))


def make_bar(cls: Any, name: str, **options: Any) -> Any:
    """Return a progress bar of the caller's class, or huggingface_hub's with its rules about terminals.

    In a notebook without ipywidgets, huggingface_hub's is text; huggingface_hub itself shows none there.

    Args:
        cls: A class, or any callable, that imitates tqdm; ``None`` for huggingface_hub's.
        name: The name by which huggingface_hub's own bars are disabled.
        options: What tqdm takes.
    """
    own = is_hubs_own(cls)
    cls = cls or hf_tqdm
    if own:
        options["disable"] = False if os.getenv("TQDM_POSITION") == "-1" else None
        options["name"] = name
        if needs_text_bar(cls):
            # Not stderr, which notebooks show as an error; and each change is a message to the browser.
            options |= {"disable": False, "file": sys.stdout, "mininterval": _NOTEBOOK_INTERVAL}
    return cls(**options)
