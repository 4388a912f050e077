"""What is fetched next, by whom, and what follows: queues, parts, the scheduler, digests, events.

The life of a part, one range of bytes of one file and one request: ``plan`` cuts a file into parts; ``download_queue``
holds the files of one model, ``queue_run`` the queue while it runs, ``transfer`` the file on its way. A worker of
``scheduler`` has ``job_choice`` give it a part, and ``part_fetcher`` brings it from a connection through the limiter to the
disk. ``watchdog`` finds connections that deliver nothing; ``file_steps`` is what happens to a file before its first
part and after its last: claim, verify, publish. ``events`` tells users, on a thread of its own.

May import the shared modules at the top, ``storage`` and ``transports``; not ``reading``, which stands beside it.

Invariants kept here:

5. Memory is bounded by connections x read size plus a constant, whatever the number of files and queues.
7. Nobody who holds a lock of ours waits for the network, the disk, a thread start or a user's callback.
8. A forked child works, whatever locks the parent's threads held at the fork.
9. Every wait ends within a second of Ctrl+C, cancel or shutdown.
"""

from __future__ import annotations

__all__: list[str] = []
