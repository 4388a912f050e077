"""The folder that ``hf-haul run`` puts in front of a program's path; it holds ``sitecustomize`` alone.

May import nothing.
"""

from __future__ import annotations

__all__: list[str] = []
