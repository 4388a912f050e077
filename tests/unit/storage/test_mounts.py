"""Which file systems can be trusted to keep what is written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hf_haul.storage import mounts
from hf_haul.storage.mounts import keeps_writes

MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
30 22 0:40 / /mnt rw - tmpfs tmpfs rw
31 30 0:41 / /mnt/bucket rw,nosuid master:2 shared:9 - fuse.gcsfuse bucket rw,user_id=0
32 30 0:42 / /mnt/with\040blank rw - nfs4 server:/x rw
33 22 0:43 / /over rw - overlay overlay rw
34 22 0:44 / /over rw - 9p host rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/srv/cache", "ext4"),
        ("/mntx", "ext4"),
        ("/mnt", "tmpfs"),
        ("/mnt/buckets", "tmpfs"),
        ("/mnt/bucket", "fuse.gcsfuse"),
        ("/mnt/bucket/blobs", "fuse.gcsfuse"),
        ("/mnt/with blank/blobs", "nfs4"),
        ("/over/a", "9p"),
    ],
)
def test_the_innermost_and_latest_mount_counts(path: str, kind: str) -> None:
    assert mounts._kind_of(path, MOUNTS) == kind


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody knows")
def test_the_kernels_own_are_trusted_and_what_stands_for_something_else_is_not(tmp_path: Path) -> None:
    keeps_writes.cache_clear()
    assert not keeps_writes(Path("/proc/self"))
    assert keeps_writes(Path("/dev/shm/hub"))


def test_where_no_mounts_are_listed_nothing_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeps_writes.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_more: (_ for _ in ()).throw(OSError("no /proc")))
    assert not keeps_writes(tmp_path)
    keeps_writes.cache_clear()
