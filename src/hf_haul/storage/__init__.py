"""What is on disk: staged files and who owns them, destinations, the Hub cache's layout, free space.

A file that is being fetched is a *staged file* (``staged_file``, names in ``staged_names``): bytes at their
offsets, and a ``journal`` of what is done. ``claiming`` opens it for this process: a new one, or by
``adoption`` one that a dead process left (a ``left_file``); ``ownership`` tells whether the process that
writes to it is alive. ``sweeping`` removes what dead processes left of files that are in place.

``partial_files`` lists, for whoever asks, what there is of all this in a folder's ``staging_places``;
``removal`` removes one of them; ``resumable`` tells what a download of one file would go on from.

Where a file ends up is a *destination* (``destinations``: a blob of a ``hub_cache``, a file of a
``local_folder``, any path; ``nodes``: devices and pipes), which publishes it by rename (``placing``).
``file_checks`` tells whether a file in place is what it has to be; ``repairing`` replaces one that is not.
``download_notes`` notes with a file where it came from, so that it is not fetched twice.
``safe_paths`` refuses names that would lead elsewhere, ``file_names`` makes those that fit into a folder,
``regular_files`` opens files where others may write, ``mounts`` knows which file systems are this machine's
own; ``free_space`` tells beforehand whether a download will fit; ``flushing`` has the disk keep what is in
place.

What survives a kill: every byte that the journal records, for whoever asks for the file next, and no
half-made file under its final name. The names on disk and in extended attributes are a contract with other
versions, which may share the folder.

May import the shared modules at the top, and no other package: nothing here knows where bytes come from.

Invariants kept here:

1. Bytes are written only at their own offset; writing them twice is harmless.
2. The journal never records a byte that a killed process did not write.
3. A blob, or a file in ``local_dir``, appears only by rename of a verified staged file; nothing writes
   through a link.
4. Locks save bandwidth, never correctness.
"""

from __future__ import annotations

__all__: list[str] = []
