"""Download files from any http(s) servers into one folder, the first ones first.

A checksum may stand behind a URL: ``https://example.org/a.bin#sha256=9f86d0...``. Run it again after a crash,
a kill or a lost network: what arrived is not fetched again.

    python examples/plain_urls.py ./downloads https://example.org/a.bin https://example.net/b.bin
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from hf_haul import DownloadPriority, ParallelDownloadManager


def main(folder: str, *urls: str) -> int:
    """Run the program; the exit code."""
    failed = 0
    with ParallelDownloadManager() as manager:
        tasks = {}
        for number, whole in enumerate(urls):
            url, fragment = urldefrag(whole)
            name = Path(unquote(urlsplit(url).path)).name
            tasks[name] = manager.add_download_task(
                "plain urls",
                name,
                url,
                Path(folder, name),
                priority=DownloadPriority.HIGH if number == 0 else DownloadPriority.NORMAL,
                digest=fragment.removeprefix("sha256=") or None,
            )
        for name, task in tasks.items():
            outcome = manager.wait_for_model_completion(task)
            if outcome["success"]:
                fetched, resumed = outcome["bytes_downloaded"], outcome["bytes_resumed"]
                print(f"{name}: {fetched} bytes fetched, {resumed} were there already")
            else:
                failed += 1
                print(f"{name}: {outcome['failed_files'][0]['error']}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: plain_urls.py FOLDER URL...")
    sys.exit(main(*sys.argv[1:]))
