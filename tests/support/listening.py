"""Hears all that is told: log records of every logger and level, warnings, errors with all they were made from."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Heard", "listening"]


class Heard(logging.Handler):
    """What was told, as texts with where each comes from."""

    def __init__(self) -> None:
        super().__init__(level=0)
        self.told: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        # All that any handler could show of it, now: records may be changed later.
        parts = [record.getMessage(), repr(record.msg), repr(record.args), record.exc_text, record.stack_info]
        if record.exc_info and record.exc_info[1] is not None:
            self.hear_error(record.exc_info[1], f"error in {record.name}")
        self.told.append((record.name, "\n".join(str(part) for part in parts)))

    def hear(self, where: str, *values: object) -> None:
        """Take note of values as they show themselves."""
        self.told += [(where, f"{value!s}\n{value!r}") for value in values]

    def hear_error(self, error: BaseException, where: str = "error") -> None:
        """Take note of an error, of all that it was made from, and of its traceback."""
        self.told.append((where, "".join(traceback.format_exception(error))))
        seen: list[BaseException] = []
        pending: list[BaseException | None] = [error]
        while pending:
            one = pending.pop()
            if one is None or one in seen:
                continue
            seen.append(one)
            self.hear(f"{where}: {type(one).__name__}", one, getattr(one, "__notes__", None))
            pending += [one.__cause__, one.__context__]

    def holds(self, *secrets: str) -> list[str]:
        """Who told one of the secrets, and how."""
        return [
            f"{where}: ...{text[max(0, text.find(secret) - 60) : text.find(secret) + 40]!r}"
            for where, text in self.told
            for secret in secrets
            if secret in text
        ]


@contextmanager
def listening() -> Iterator[Heard]:
    """Hear everything while the block runs."""
    heard = Heard()
    # huggingface_hub's hands nothing on, and has a level of its own.
    loggers = [logging.getLogger(), logging.getLogger("huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(heard)
        logger.setLevel(1)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield heard
        heard.hear("warning", *(each.message for each in warned))
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(heard)
            logger.setLevel(level)
