"""What is fetched next, by whom, and what follows: queues, parts, the scheduler, digests, events.

What callers say of files becomes values in ``file_specs``, ``url_requests`` and ``other_sources``;
``priority`` says which file goes first.

The life of a part, one range of bytes of one file and one request:

1. ``plan`` orders the files of a queue and says how long parts are. What it makes of them are
   ``planned_files``; very many come as a ``file_batch``. ``download_queue`` holds the files that wait, in
   ``lanes``, ``queue_run`` the queue while it runs, ``queues`` all of them. A ``handle`` is what a caller has
   of one.
2. A thread of ``workers`` asks the ``scheduler`` for a job. ``job_choice`` opens the next file, or cuts the
   next part off one that is open; the file is a ``transfer``, in one of five phases: opening, fetching,
   restarting, finishing, ended. Its ``file_sources`` are where it can be had; ``source_choice`` says which of
   them is asked for the part, and which is left alone for a while. Where others share the work, an
   ``assignment`` says both.
3. ``file_steps`` opens a file: look whether it is in place, learn its size, claim its staged file.
   ``part_fetcher`` brings a part from a connection through the limiter to its offset on the disk, and records
   it in the journal. Meanwhile the ``ticker`` has the ``watchdog`` find connections that deliver nothing, and
   ``verifier`` follows the front of the file with its digest, on a thread of the ``hasher``.
4. ``outcome`` decides what follows, ``settlement`` does it: another part, the same bytes again, another look
   later, or the end. After the last part ``file_steps`` checks the digest and puts the file into its place.
5. ``queues`` ends the file, and after its last file the queue; ``errands`` closes files where a disk may
   hang, ``events`` tells users on a thread of their own, ``results`` keeps what came of it.

What is told to ``on_event``: ``event_stream`` is the events of one call, ``queue_events`` what a queue adds
to them, ``wait_reports`` and ``quiet`` what it waits for. ``jobs`` is what a thread is at and what follows;
``resilience`` gets done what must be done although memory is short.

May import the shared modules at the top, ``storage`` and ``transports``; not ``reading``, which stands beside
it.

Invariants kept here:

5. Memory is bounded by connections x read size plus a constant, whatever the number of files and queues: a
   part has no buffer, its worker has; of a queue that is over, plain values stay.
7. Nobody who holds a lock of ours waits for the network, the disk, a thread start or a user's callback: what
   is decided under the scheduler's lock is a ``jobs.FollowUp``, and is carried out once it is free.
8. A forked child works, whatever locks the parent's threads held at the fork: its manager makes a new
   scheduler.
9. Every wait ends within a second of Ctrl+C, cancel or shutdown: each part has a cancel token that wakes it.

And two of its own: what a worker writes of a part nobody else writes (``part_progress``); and what
each thread is at is noted, so that whatever ends a thread, its file goes on or fails, and who waits for it is
woken.
"""

from __future__ import annotations

__all__: list[str] = []
