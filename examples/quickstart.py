"""Download a real model repository from a Hub on this machine, prove that it is right, and say what it took.

Needs nothing but this machine: it makes the repository (a config, a tokenizer, an index, four safetensors
shards with valid headers, a README, nested folders), serves it with hf_haul.localhub at a stated pace per
connection, downloads it with hf_haul.snapshot_download into a cache of its own, and then checks the result
file by file. The exit code is 0 only if everything is as it should be.

    python examples/quickstart.py
    python examples/quickstart.py --size 1GB --pace 50MB/s
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# The Hub of this program is on this machine: no proxy, no offline mode, no Xet; huggingface_hub reads these
# once.
os.environ.update(NO_PROXY="*", HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")

import huggingface_hub
from safetensors import safe_open

import hf_haul
from hf_haul.config import parse_rate, parse_size
from hf_haul.localhub import LocalHub, Repo

REPO_ID = "acme/tiny-llama"
SHARDS = 4
TENSORS_PER_SHARD = 8
ROW = 1024  # numbers in a row of a tensor, 2 bytes each
BLOCK = 1 << 20
#: What a loader reads before it touches the weights.
FIRST = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json")


def make_model(folder: Path, nbytes: int) -> None:
    """Fill ``folder`` with a model repository of about ``nbytes`` bytes, the same ones each time."""
    vocab = {f"token-{number:05d}": number for number in range(32_000)}
    rows = max(1, nbytes // (SHARDS * TENSORS_PER_SHARD * ROW * 2))
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        tensors = [f"model.layers.{shard * TENSORS_PER_SHARD + n}.weight" for n in range(TENSORS_PER_SHARD)]
        write_shard(folder / name, tensors, rows, seed=shard)
        weight_map.update(dict.fromkeys(tensors, name))
    total_size = SHARDS * TENSORS_PER_SHARD * rows * ROW * 2
    texts = {
        "config.json": json.dumps({"model_type": "llama", "hidden_size": ROW, "torch_dtype": "float16"}),
        "generation_config.json": json.dumps({"max_length": 2048}),
        "tokenizer.json": json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": vocab}}),
        "tokenizer_config.json": json.dumps({"model_max_length": 2048}),
        "model.safetensors.index.json": json.dumps(
            {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        ),
        "README.md": "---\nlicense: apache-2.0\n---\n# A small model made of random numbers\n",
        ".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
        "docs/usage.md": "Load it as any other model.\n",
        **{f"evaluation/run-{n}/results.json": json.dumps({"run": n, "score": n / 7}) for n in range(12)},
    }
    for path, text in texts.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def write_shard(path: Path, tensors: list[str], rows: int, *, seed: int) -> None:
    """One file in the safetensors format: length of the header, header, numbers."""
    each = rows * ROW * 2
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for number, tensor in enumerate(tensors):
        offsets = [number * each, (number + 1) * each]
        header[tensor] = {"dtype": "F16", "shape": [rows, ROW], "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    numbers = random.Random(seed)
    left = each * len(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        while left:
            block = numbers.randbytes(min(BLOCK, left))
            left -= file.write(block)


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file below ``folder``, by path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
            found[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return found


@dataclass
class Watch:
    """Notes when each file was in place, in seconds since the start."""

    start: float = field(default_factory=time.monotonic)
    done: dict[str, float] = field(default_factory=dict)

    def __call__(self, progress: hf_haul.DownloadProgress) -> None:
        """Called by hf_haul with each file's progress."""
        if progress.status is hf_haul.DownloadState.DONE:
            self.done[progress.file_path] = time.monotonic() - self.start


def prove(source: Path, snapshot: Path, cache: Path, hub: LocalHub) -> Iterator[tuple[str, bool]]:
    """What has to be true of the download, and whether it is."""
    yield "every file is there, with the sha256 of its source", digests(snapshot) == digests(source)
    index = json.loads((snapshot / "model.safetensors.index.json").read_text(encoding="utf-8"))
    held = {}
    for shard in sorted(snapshot.glob("*.safetensors")):
        with safe_open(shard, framework="numpy") as tensors:
            held.update({name: shard.name for name in tensors.keys() if tensors.get_tensor(name).size})  # noqa: SIM118  no mapping
    yield (
        "every shard opens with safetensors, and holds the tensors of the index",
        held == index["weight_map"],
    )
    asked = len(hub.requests)
    offline = huggingface_hub.snapshot_download(REPO_ID, cache_dir=cache, local_files_only=True)
    yield "huggingface_hub finds the snapshot offline", Path(offline) == snapshot
    scanned = huggingface_hub.scan_cache_dir(cache)
    yield (
        "huggingface_hub scans the cache without a warning",
        len(scanned.repos) == 1 and not scanned.warnings,
    )
    again = hf_haul.snapshot_download(
        REPO_ID, revision=snapshot.name, cache_dir=cache, endpoint=hub.url, token=False
    )
    yield (
        "a second call for that commit asks the Hub nothing",
        again == offline and len(hub.requests) == asked,
    )
    left = list(cache.rglob("*.incomplete"))
    yield "no partial file is left behind", not left


def run(folder: Path, nbytes: int, pace: int | None) -> bool:
    """Do it all below ``folder``; whether everything was as it should be."""
    source, cache = folder / "source", folder / "cache"
    print(f"making a repository of about {nbytes / 1e6:.0f} MB ...", flush=True)
    make_model(source, nbytes)
    with LocalHub(Repo.from_folder(source, REPO_ID)) as hub, hf_haul.ParallelDownloadManager() as manager:
        hub.set_pace(pace)
        told = f"{pace / 1e6:g} MB/s per connection" if pace else "full speed"
        print(f"serving it at {hub.url} with {told}, downloading ...", flush=True)
        watch = Watch()
        snapshot = Path(
            hf_haul.snapshot_download(
                REPO_ID,
                cache_dir=cache,
                endpoint=hub.url,
                token=False,
                manager=manager,
                progress_callback=watch,
            )
        )
        seconds = time.monotonic() - watch.start
        kinds = Counter(request.kind for request in hub.requests)
        stats = manager.get_download_stats()
        files = [path for path in snapshot.rglob("*") if path.is_file()]
        total = sum(path.stat().st_size for path in files)
        small = max(watch.done[name] for name in FIRST)
        shard = min(seconds for name, seconds in watch.done.items() if name.endswith(".safetensors"))
        listing = kinds["info"] + kinds["tree"]
        print()
        print(f"  files                      {len(files)}")
        print(f"  bytes                      {total:,}")
        print(f"  seconds                    {seconds:.2f}")
        print(f"  MB/s                       {total / seconds / 1e6:.1f}")
        print(f"  config, tokenizer, index   there after {small:.2f} s")
        print(
            f"  requests to the Hub        {listing + kinds['resolve']} ({listing} to list, {kinds['resolve']} for files)"
        )
        print(
            f"  requests elsewhere         {kinds['resolve-cache'] + kinds['cdn']} (where the Hub redirects to)"
        )
        print(f"  failed requests, retried   {stats['pool']['total_errors']}")
        print()
        proofs = [
            ("what a loader reads first was there before the first shard", small < shard),
            (
                "at most one request per file, and one page of listing",
                listing + kinds["resolve"] <= len(files) + 3,
            ),
            *prove(source, snapshot, cache, hub),
        ]
    for text, true in proofs:
        print(f"  {'ok    ' if true else 'FAILED'} {text}")
    return all(true for _, true in proofs)


def main() -> int:
    """Read the arguments, run in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(
        description="Download a model from a Hub on this machine, and prove it right."
    )
    parser.add_argument(
        "--size", type=parse_size, default="300MB", help="of the repository; default: %(default)s"
    )
    parser.add_argument(
        "--pace", type=parse_rate, default="20MB/s", help="per connection, or 'none'; default: %(default)s"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hf-haul-quickstart-") as folder:
        fine = run(Path(folder), arguments.size, arguments.pace)
    print("\neverything is as it should be" if fine else "\nsomething is off, see above")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
