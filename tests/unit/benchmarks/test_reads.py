"""The rows of reads: what there are, and how their requests are counted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the benchmarks read /proc", allow_module_level=True)

from tests.benchmarks import report
from tests.benchmarks.bench_reads import NEEDS, ROWS
from tests.benchmarks.harness import Goal, Result, Sample
from tests.benchmarks.read_client import READERS, Place, digest
from tests.benchmarks.read_data import MAKERS
from tests.benchmarks.rig import Options
from tests.benchmarks.servers import LinkLog


def test_every_row_has_a_reader_and_files_to_read_and_every_reader_and_file_a_row() -> None:
    assert sorted(row.what for row in ROWS) == sorted(READERS)
    assert set(NEEDS) == set(MAKERS)
    assert all(row.title and row.reach > 0 for row in ROWS)


def test_rows_can_be_chosen_by_a_part_of_their_names() -> None:
    assert [row.what for row in ROWS if Options(rows=["parquet-"]).wants(row.name, [])] == [
        "parquet_columns",
        "parquet_all",
    ]


def test_requests_and_bytes_are_counted_since_a_mark(tmp_path: Path) -> None:
    notes = tmp_path / "log"
    log = LinkLog(notes)
    assert log.mark() == 0
    assert log.since(0, still=0.0)["requests"] == 0
    notes.write_text("200 700 /api/models/a/b\n")
    mark = log.mark()
    with notes.open("a") as more:
        more.write("200 500 /api/models/a/b/tree/main?recursive=True\n")
        more.write("302 40 /a/b/resolve/main/x.bin\n")
        more.write("206 1000 /lfs/a/0123?signed=1\n")
        more.write("499 20 /lfs/a/0123?signed=1\n")
        more.write("307 5 /a/b/resolve/main/x.txt\n")
        more.write("200 30 /api/resolve-cache/models/a/b/0123/x.txt\n")
    assert log.since(mark, still=0.0) == {"requests": 6, "redirects": 2, "api": 1, "moved": 1050}


@pytest.mark.parametrize("what", ["whole", "loop", "stream"])
def test_what_reads_from_a_folder_tells_the_truth(what: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "blob.bin").write_bytes(data)
    first = digest(READERS[what](Place("file", str(tmp_path)))())
    assert first == digest(READERS[what](Place("file", str(tmp_path)))())
    (tmp_path / "blob.bin").write_bytes(data[:-1] + b"x")
    assert first != digest(READERS[what](Place("file", str(tmp_path)))())


def test_the_table_shows_both_filesystems_beside_the_goal() -> None:
    def sample(seconds: float, requests: int, **more: object) -> Sample:
        return Sample(
            seconds, 0, peak_mib=90.0, base_mib=50.0, extra={"requests": requests, "moved": 2_000_000}, **more
        )

    result = Result("reads-x", "some reads", unit="s", limit=0.5)
    result.samples = {"hf-haul": [sample(1.0, 4), sample(3.0, 6)], "huggingface_hub": [sample(20.0, 80)]}
    result.goals = [Goal("some reads", 2.0, 1.5, at_least=False)]
    line = report.reads_table([result]).splitlines()[-1].split()
    assert line == ["x", "20.00", "80", "2.0", "2.00", "1.00-3.00", "0.00", "5", "2.0", "40", "0.5", "1.50", "s", "NO"]  # fmt: skip
    result.samples["huggingface_hub"] = [sample(260.0, 80, error="too slow")]
    assert report.reads_table([result]).splitlines()[-1].split()[1:3] == [">", "260.0"]
    assert report.reads_table([]) == ""
