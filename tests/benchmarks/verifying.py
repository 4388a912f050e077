"""What ``bench_verify`` runs in a process of its own: ways to check files that are on disk already."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

Work = Callable[[], dict[str, Any] | None]

_BLOCK: Final = 1 << 20
_COMMIT: Final = "1" * 40


def haul_verify(cache_dir: str, files: dict[str, list[str]]) -> Work:
    """hf-haul's ``verify`` of a snapshot, made of hard links before the clock starts.

    Args:
        cache_dir: An empty folder.
        files: Each file's path on disk and its sha256, by path in the repository.
    """
    import hf_haul

    root = Path(cache_dir) / "models--bench--verify"
    snapshot = root / "snapshots" / _COMMIT
    for path, (file, sha256) in files.items():
        blob, link = root / "blobs" / sha256, snapshot / path
        for folder in (blob.parent, link.parent):
            folder.mkdir(parents=True, exist_ok=True)
        os.link(file, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    verify = hf_haul.verify

    def work() -> dict[str, Any]:
        report = verify(snapshot)
        assert report.counts["ok"] == len(files), report.counts
        return {"bytes_read": report.bytes_read}

    return work


def hub_verify(repo_id: str, local_dir: str) -> Work:
    """huggingface_hub's ``verify_repo_checksums``, with digests from the Hub's listing."""
    from huggingface_hub import HfApi

    check = HfApi().verify_repo_checksums

    def work() -> None:
        assert not check(repo_id, local_dir=local_dir).mismatches

    return work


def hash_memory(nbytes: int, threads: int) -> Work:
    """sha256 of bytes in memory on several threads: what no check of files can be faster than."""
    block = os.urandom(_BLOCK)

    def hash_share() -> None:
        digest = hashlib.sha256()
        for _ in range(nbytes // threads // _BLOCK):
            digest.update(block)

    def work() -> None:
        workers = [threading.Thread(target=hash_share) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return work
