"""Download a repository in the background: limit its speed, pause it, go on, and watch it.

Shows the manager itself: files from any listing, a queue with a handle on it, and a limit that changes while
it runs.

    python examples/pause_and_limit.py openai-community/gpt2 ./gpt2 --max-bandwidth 20MB/s
"""

from __future__ import annotations

import argparse
import sys
import time

from huggingface_hub import HfApi, RepoFile

from hf_haul import DownloadPriority, DownloadProgress, ParallelDownloadManager


def show(progress: DownloadProgress) -> None:
    """Called by a thread of its own, at most ten times a second for each file."""
    if progress.status.final:
        print(f"  {progress.status.value:<9} {progress.file_path}")


def main() -> int:
    """Run the program; the exit code."""
    parser = argparse.ArgumentParser(
        description="Download a repository in the background, with a limit and a pause."
    )
    parser.add_argument("repo_id")
    parser.add_argument("folder")
    parser.add_argument("--max-bandwidth", default="20MB/s")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds; default: %(default)s")
    arguments = parser.parse_args()

    api = HfApi()
    # A RepoFile has a path, a size and a digest, which is all that the manager asks of a file.
    files = [
        entry
        for entry in api.list_repo_tree(arguments.repo_id, recursive=True)
        if isinstance(entry, RepoFile)
    ]
    source = f"{api.endpoint}/{arguments.repo_id}/resolve/main"

    with ParallelDownloadManager(max_bandwidth_bps=arguments.max_bandwidth) as manager:
        queue = manager.queue_model_download(
            arguments.repo_id, files, source, arguments.folder, DownloadPriority.LOW, progress_callback=show
        )
        print(f"{len(files)} files, at most {manager.max_bandwidth_bps} bytes per second")

        manager.pause_downloads(queue)
        print(
            f"paused for {arguments.pause:g} s; connections stop within a second, the place in the queue is kept"
        )
        time.sleep(arguments.pause)  # something more important happens here
        manager.resume_downloads(queue)
        print("going on")

        outcome = manager.wait_for_model_completion(queue, timeout=1.0)
        if outcome["timed_out"]:
            print(f"{outcome['completion_rate']:.0f} % after a second; now without the limit")
            manager.max_bandwidth_bps = None
            outcome = manager.wait_for_model_completion(queue)

    for failure in outcome["failed_files"]:
        print(f"  {failure['file_path']}: {failure['error']}")
    print(
        f"{outcome['completed_tasks']} of {outcome['total_tasks']} files, {outcome['bytes_downloaded']} bytes "
        f"at {outcome['average_speed_bps'] / 1e6:.1f} MB/s, {outcome['retry_count']} retries, "
        f"{outcome['bandwidth_limited_time']:.1f} s spent on the limit"
    )
    return 0 if outcome["success"] else 1


if __name__ == "__main__":
    sys.exit(main())
