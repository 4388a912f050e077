"""Make pickles.json anew: what a process may have pickled, and a later version is to load.

``python -m tests.support.pickled.make`` pickles one of each kind with the code at hand. Run it to add a kind; what is
there already stays as it is, since it is what older code has written. Pickles are of protocol 0, which is text: the
Hub's URL in them is another one when they are loaded.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hf_haul
from hf_haul.localhub import LocalHub, Repo

PICKLES = Path(__file__).parent / "pickles.json"
#: Stands for the Hub's URL.
ENDPOINT = "http://hub.invalid"
REPO = "org/tiny"
NAME = f"{REPO}/data.bin"
DATA = bytes(range(256)) * 40
POSITION = 1000


def make_hub() -> LocalHub:
    """The Hub that pickled files are of."""
    repo = Repo(REPO)
    repo.commit({"data.bin": DATA})
    return LocalHub(repo)


def make_errors() -> dict[str, Exception]:
    """One of each public error that has a state, and the plain ones."""
    plain = {
        name: getattr(hf_haul, name)("what happened")
        for name in (
            "CertificateError", "ConnectionFailedError", "DiskFullError", "DownloadCancelledError", "HaulError",
            "LinkExpiredError", "RangeRefusedError", "SourceChangedError", "StalledError", "UnsafePathError",
        )
    }  # fmt: skip
    return {
        **plain,
        "IntegrityError": hf_haul.IntegrityError("a.bin", "0" * 64, "1" * 64, 5),
        "TransferError": hf_haul.TransferError("what happened", retry_after=2.5),
        "ServerBusyError": hf_haul.ServerBusyError("what happened", retry_after=7.0),
        "RetriesExhaustedError": hf_haul.RetriesExhaustedError("what happened", retry_after=1.0),
        "HttpStatusError": hf_haul.HttpStatusError(
            "what happened", status=404, url="https://hub/a", headers={"X": "y"}, body=b"gone"
        ),
    }


def make_values() -> dict[str, Any]:
    """Values of the public API that programs keep or send."""
    digest = hf_haul.Digest("sha256", "0" * 64)
    return {
        "Digest": digest,
        "DownloadPriority": hf_haul.DownloadPriority.HIGH,
        "DownloadState": hf_haul.DownloadState.DONE,
        "DownloadProgress": hf_haul.DownloadProgress(
            "id", "org/tiny", "a.bin", 10, 20, 5.0, 2.0, hf_haul.DownloadState.RUNNING
        ),
        # The defaults of the time when it was pickled.
        "Settings": hf_haul.Settings(max_concurrent_downloads=32, max_concurrent_files_per_model=32),
    }


def _file() -> Any:
    file = _filesystem().open(NAME)
    file.seek(POSITION)
    return file


def _stream() -> Any:
    stream = _filesystem().open(NAME, block_size=0)
    stream.read(POSITION)
    return stream


def _filesystem() -> hf_haul.HaulFileSystem:
    return hf_haul.HaulFileSystem(endpoint=_url, token=False, skip_instance_cache=True)


def _used_filesystem() -> hf_haul.HaulFileSystem:
    fs = _filesystem()
    fs.ls(REPO)
    return fs


#: What is of a Hub; its URL is set by :func:`main`.
OF_A_HUB: dict[str, Callable[[], Any]] = {
    "HaulFileSystem": _filesystem,
    "HaulFileSystem, used": _used_filesystem,
    "HaulFile": _file,
    "HaulStreamFile": _stream,
}
_url = ENDPOINT


def main() -> None:
    """Add to the file what is not in it yet."""
    global _url
    made: dict[str, str] = json.loads(PICKLES.read_text(encoding="utf-8")) if PICKLES.exists() else {}
    with make_hub() as hub:
        _url = hub.url
        things = {**make_errors(), **make_values(), **{name: make() for name, make in OF_A_HUB.items()}}
        for name, thing in things.items():
            text = pickle.dumps(thing, protocol=0).decode("ascii").replace(hub.url, ENDPOINT)
            made.setdefault(name, text)
    PICKLES.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
