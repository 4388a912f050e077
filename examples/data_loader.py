"""Read a data set's CSV files from the Hub in several processes, as a data loader does, without a download.

``haul://`` works wherever fsspec is understood (pandas, pyarrow, datasets, webdataset, ...). Here fsspec
itself is used: the files are listed once, each worker opens its share of them, and what they read is read
ahead over several connections.

    python examples/data_loader.py "haul://datasets/org/name/data/*.csv" --workers 4
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import sys
import time
from collections.abc import Iterator
from typing import Any

import fsspec


def rows(shards: list[Any]) -> Iterator[dict[str, str]]:
    """All rows of a worker's files, one file after the other."""
    for shard in shards:
        with shard as file:
            yield from csv.DictReader(file)


def work(shards: list[Any]) -> tuple[int, int]:
    """What a worker does with its share: rows and characters, counted."""
    count = characters = 0
    for row in rows(shards):
        count += 1
        characters += sum(map(len, row.values()))
    return count, characters


def main() -> int:
    """Run the program; the exit code."""
    parser = argparse.ArgumentParser(description="Read CSV files from the Hub in several processes.")
    parser.add_argument("url", help="of one file or, with a star, of many")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    start = time.monotonic()
    shards = list(fsspec.open_files(arguments.url, mode="rt", encoding="utf-8", newline=""))
    if not shards:
        print(f"no files at {arguments.url}")
        return 1
    shares = [shards[number :: arguments.workers] for number in range(arguments.workers)]
    # An opened filesystem travels to another process by pickle, with its endpoint and token, without its
    # connections.
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        counted = pool.map(work, shares)
    seconds = time.monotonic() - start
    count, characters = (sum(numbers) for numbers in zip(*counted, strict=True))
    print(
        f"{count} rows, {characters} characters, {len(shards)} files, {arguments.workers} workers, {seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
