"""A local hub for tests, and programs that talk to it in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.repos import contents, make_repo
from tests.support.wants import want_program

from hf_haul.localhub import LocalHub, Repo

__all__ = [
    "ServedRepo",
    "fill_xet_store",
    "hub_environment",
    "make_certificate",
    "run_python",
    "sent_of_files",
    "serve_repo",
]

SRC = Path(__file__).parents[2] / "src"


@dataclass
class ServedRepo:
    """A running hub with one repository made by `make_repo`.

    Attributes:
        hub: The hub.
        repo: The repository.
        folder: Where its files are.
    """

    hub: LocalHub
    repo: Repo
    folder: Path

    @property
    def contents(self) -> dict[str, str]:
        """The sha256 of each file by path: what a download has to give."""
        return contents(self.folder)


@contextmanager
def serve_repo(
    folder: Path,
    repo_id: str = "org/tiny",
    repo_type: str = "model",
    *,
    seed: int = 0,
    shards: int = 2,
    shard_bytes: int = 256 * 1024,
    **hub_options: Any,
) -> Iterator[ServedRepo]:
    """Make a repository in ``folder`` (unless it has files already), and serve it.

    Args:
        folder: Its files.
        repo_id: Its id.
        repo_type: Its type.
        seed: See `make_repo`.
        shards: See `make_repo`.
        shard_bytes: See `make_repo`.
        **hub_options: For `LocalHub`.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        make_repo(folder, repo_type, seed=seed, shards=shards, shard_bytes=shard_bytes)
    repo = Repo.from_folder(folder, repo_id, repo_type)
    with LocalHub(repo, **hub_options) as hub:
        yield ServedRepo(hub, repo, folder)


def hub_environment(hub: LocalHub, home: Path, **more: str) -> dict[str, str]:
    """The environment of a program that knows no Hub but this one.

    Args:
        hub: The hub.
        home: Its ``HF_HOME``.
        **more: More variables.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HAUL_CONFIG": "",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "*",
        "PYTHONPATH": str(SRC),
        **more,
    }


def run_python(
    code: str, env: Mapping[str, str], *args: str, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a program in a Python of its own; what it printed is in ``.stdout`` and ``.stderr``.

    Args:
        code: The program.
        env: Its whole environment.
        *args: Its ``sys.argv[1:]``.
        timeout: Seconds it may take.
    """
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and localhost that signs itself, and its key.

    The calling test is skipped where there is no ``openssl`` to make one.
    """
    openssl = want_program("openssl")
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhub"
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    files = ["-out", str(cert), "-keyout", str(key)]
    subprocess.run([openssl, *words.split(), *names, *files], check=True, capture_output=True)
    return cert, key


_UPLOAD = """
import json, sys
import hf_xet

with hf_xet.XetSession().new_upload_commit(endpoint=sys.argv[1]) as commit:
    uploads = {path: commit.start_upload_file(path) for path in sys.argv[2:]}
print(json.dumps({path: upload.result().xet_info.hash for path, upload in uploads.items()}))
"""


def fill_xet_store(store: Path, *files: Path) -> tuple[str, dict[Path, str]]:
    """Put files into a Xet store on disk: the hub's option ``cas_url``, and each file's Xet hash.

    It is done in a process that ends, because the store is locked as long as it is open; for the
    same reason no two programs can download from it at the same time.

    Args:
        store: A folder for the store.
        *files: What to put in.
    """
    url = f"local://{store}"
    store.mkdir(parents=True, exist_ok=True)
    done = run_python(_UPLOAD, dict(os.environ), url, *map(str, files), timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr)
    hashes = json.loads(done.stdout.splitlines()[-1])
    return url, {Path(path): str(value) for path, value in hashes.items()}


def sent_of_files(hub: LocalHub) -> int:
    """Return the bytes of files that a hub has sent."""
    assert hub.requests.settle()
    kinds = {"cdn", "resolve", "resolve-cache"}
    return sum(record.body_bytes for record in hub.requests if record.kind in kinds)
