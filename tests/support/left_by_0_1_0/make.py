"""Make files.json anew: what version 0.1.0 leaves staged, written by its own code.

``python tests/support/left_by_0_1_0/make.py`` takes the sources of that version out of the history of this repository (no
tag says which commit it is) and has a process of theirs do to each destination below each thing that may happen to a file.
What it leaves is kept by name, compressed. The record of its owner is replaced by one that no machine has.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

#: The last commit of version 0.1.0.
COMMIT = "12c4a5a"
HERE = Path(__file__).parent
_ROOT = HERE.parents[2]

#: What runs with the sources of that version. Keep the names of cases and ways: the tests know them.
_PROGRAM = """
import json, os, sys
from pathlib import Path
from hf_haul import ownership
from hf_haul.cache import BlobDestination, FileDestination, LocalDirDestination, LocalFolder, RepoFolder
from hf_haul.staging import claim

case, way, folder = sys.argv[1], sys.argv[2], sys.argv[3]
data = b"".join(b"%06d\\n" % i for i in range(430))[:3000]
commit, etag = "c" * 40, "e" * 64
url = "https://storage.example/bucket/model.bin?versionId=7"
signed = url + "&X-Amz-Date=20260101T000000Z&X-Amz-Expires=600&X-Amz-Signature=5eed"
destination = {
    "a URL": lambda: FileDestination(Path(folder, "model.bin"), url),
    "a signed URL": lambda: FileDestination(Path(folder, "model.bin"), signed),
    "a digest": lambda: FileDestination(Path(folder, "model.bin"), etag),
    "a long name": lambda: FileDestination(Path(folder, "\\u0436" * 110), url),
    "a blob": lambda: BlobDestination(RepoFolder(folder, "models--org--m"), commit, "model.bin", etag, 3000),
    "a local_dir": lambda: LocalDirDestination(LocalFolder(folder), "sub/model.bin", commit, etag),
}[case]()
ownership._me = ownership.Owner("host-of-0.1.0", "boot-of-0.1.0", os.getpid(), "1", "pid:[1]")
staged = claim(destination.staging_dir, destination.staging_key, len(data), sequential=way.endswith("in order"))
done = {"sealed": [(0, 3000)]}.get(way, [(0, 1000)] if staged.sequential else [(0, 1000), (2000, 2500)])
for start, stop in done:
    staged.write(start, memoryview(data)[start:stop])
    staged.record(start, stop)
if way.startswith("let go"):
    staged.close()
elif way == "sealed":
    staged.seal(durable=False)
os._exit(0)
"""
CASES = ("a URL", "a signed URL", "a digest", "a long name", "a blob", "a local_dir")
WAYS = ("killed", "let go of", "sealed", "killed in order", "let go of in order")


def main() -> None:
    """Write files.json."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as work:
        archive = subprocess.run(
            ["git", "archive", COMMIT, "src"], check=True, stdout=subprocess.PIPE, cwd=_ROOT
        )
        subprocess.run(["tar", "-x", "-C", work], check=True, input=archive.stdout)
        environment = {**os.environ, "PYTHONPATH": f"{work}/src"}
        for case in CASES:
            for way in WAYS:
                folder = Path(work, case, way)
                folder.mkdir(parents=True)
                done = subprocess.run(
                    [sys.executable, "-c", _PROGRAM, case, way, str(folder)],
                    env=environment,
                    capture_output=True,
                )
                if case == "a long name" and way == "sealed":
                    assert done.returncode, "its name was too long for that"
                    continue
                assert done.returncode == 0, done.stderr.decode()
                found.setdefault(case, {})[way] = {
                    path.relative_to(folder).as_posix(): base64.b64encode(
                        zlib.compress(path.read_bytes(), 9)
                    ).decode()
                    for path in sorted(folder.rglob("*.incomplete"))
                }
    text = json.dumps(found, indent=1, ensure_ascii=True, sort_keys=True)
    (HERE / "files.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
