"""How a download goes, for people and for programs: a live view, lines for a log, or JSON.

Everything shown comes from the events that ``on_event`` gets (``examples/events.md``). ``overview`` adds them
up, ``texts`` puts numbers into words, ``screen`` draws a view of a terminal and ``plain`` writes lines, all
without looking at a clock or a terminal; ``display`` has the thread that writes, so that no terminal and no
pipe holds up a download, and ``modes`` chooses.
"""

from __future__ import annotations

from hf_haul.cli.progress.modes import MODES, Mode, Showing, chosen_mode, showing

__all__ = ["MODES", "Mode", "Showing", "chosen_mode", "showing"]
