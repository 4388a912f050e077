"""The configuration file: where it is, whether it may be trusted, and what it says.

It is looked at whenever settings are made, so that a long-lived process follows it, and parsed only if it
has changed since. A process without one never imports the parser.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import platformdirs

from hf_haul.config.reminders import remind

__all__ = ["FILE_NAME", "ConfigFile", "find_config", "read_config"]

FILE_NAME: Final = "hf-haul.toml"
_VARIABLE: Final = "HF_HAUL_CONFIG"
#: Nobody writes more than this; whatever is larger is another file, and not read into memory.
_MOST_BYTES: Final = 1 << 20
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

State = Literal["read", "absent", "refused", "off"]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a configuration file says.

    Attributes:
        path: Where it was looked for; ``None`` where nobody looks for one.
        state: ``read``; ``absent``: there is none; ``refused``: not to be trusted, or unreadable; ``off``:
            none is wanted.
        values: What it says outside of its tables, by key.
        tables: Its tables, by name.
        reason: Why it was refused.
    """

    path: Path | None = None
    state: State = "off"
    values: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reason: str = ""


#: The file parsed last, and what it looked like. Replaced as a whole, so that no lock is needed.
_latest: tuple[tuple[Any, ...], ConfigFile] | None = None


def find_config(environ: Mapping[str, str]) -> tuple[Path | None, bool]:
    """Return where the configuration file is, and whether somebody said so.

    Args:
        environ: The variables: ``HF_HAUL_CONFIG`` names the file, and none if it is empty.

    Returns:
        ``None`` for no file; and whether ``HF_HAUL_CONFIG`` is set.
    """
    named = environ.get(_VARIABLE)
    if named is not None:
        return (None if named.strip() in {"", os.devnull} else Path(named).expanduser()), True
    folder = platformdirs.user_config_path("hf-haul", appauthor=False)
    # Without a home it would be a folder called "~" wherever the process happens to be.
    return (folder / FILE_NAME if folder.is_absolute() else None), False


def read_config(environ: Mapping[str, str] | None = None) -> ConfigFile:
    """Read the configuration file.

    One that others may write is not read, and said to be once: it could send requests elsewhere, or have
    bytes taken unchecked.

    Args:
        environ: The variables; the process's own if ``None``.

    Raises:
        ValueError: It is no TOML, or the one that ``HF_HAUL_CONFIG`` names cannot be read.
    """
    path, is_named = find_config(os.environ if environ is None else environ)
    if path is None:
        return ConfigFile()
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if is_named:
            raise ValueError(f"{_VARIABLE} names {path}, which does not exist") from error
        return ConfigFile(path, "absent")
    except OSError as error:
        reason = error.strerror or str(error)
        if is_named:
            raise ValueError(f"{_VARIABLE} names {path}, which cannot be read: {reason}") from error
        return _refused(path, f"it cannot be read: {reason}")


def _read(path: Path) -> ConfigFile:
    # Not blocking: it may be a pipe that nobody writes to.
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    descriptor = os.open(path, flags)
    try:
        return _read_opened(path, descriptor)
    finally:
        os.close(descriptor)


def _read_opened(path: Path, descriptor: int) -> ConfigFile:
    global _latest
    status = os.fstat(descriptor)  # of what was opened, whatever its name leads to by now
    if not stat.S_ISREG(status.st_mode):
        return _refused(path, "it is not a file")
    if status.st_size > _MOST_BYTES:
        return _refused(path, f"it has {status.st_size} bytes, and {_MOST_BYTES} at the most are read")
    distrust = _distrust(status)
    if distrust is not None:
        return _refused(path, *distrust)
    looks = (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    latest = _latest
    if latest is None or latest[0] != looks:
        with open(descriptor, "rb", closefd=False) as file:
            latest = _latest = looks, _parse(path, file.read(_MOST_BYTES))
    return latest[1]


def _distrust(status: os.stat_result) -> tuple[str, str] | None:
    """Return why a file may hold what its user never wrote, and what to do; ``None`` if it may not."""
    if not hasattr(os, "geteuid"):  # Windows says it by other means
        return None
    if status.st_uid not in {0, os.geteuid()}:
        return f"it belongs to another user (uid {status.st_uid})", "make it yours with: chown"
    if status.st_mode & _OTHERS_MAY_WRITE:
        return f"others may write it (mode {stat.S_IMODE(status.st_mode):o})", "forbid it with: chmod go-w"
    return None


def _refused(path: Path, reason: str, advice: str = "") -> ConfigFile:
    advice = f"; {advice} {path}" if advice else ""
    remind(("file", path, reason), "configuration file %s is not read: %s%s", path, reason, advice)
    return ConfigFile(path, "refused", reason=reason)


def _parse(path: Path, content: bytes) -> ConfigFile:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        parsed = tomllib.loads(content.decode("utf-8-sig"))
    except ValueError as error:  # no UTF-8 is one, too
        raise ValueError(f"configuration file {path} is no TOML: {error}") from error
    tables = {name: value for name, value in parsed.items() if isinstance(value, dict)}
    values = {name: value for name, value in parsed.items() if name not in tables}
    return ConfigFile(path, "read", values, tables)
