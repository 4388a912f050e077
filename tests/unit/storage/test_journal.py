from __future__ import annotations

import json
import logging
import os
import random
import struct
from pathlib import Path

import pytest
from tests.support.storage import SIZE, abandon, left_behind, owner, put

from hf_haul.ranges import ByteRange
from hf_haul.storage import (
    journal,
    ownership,
)
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.claiming import claim


@pytest.mark.usefixtures("dead")
def test_a_journal_cut_at_any_byte_never_claims_too_much(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    for start in range(0, 800, 100):
        put(staged, start, start + 100)
    path = staged.path
    abandon(staged)
    whole = path.read_bytes()
    for cut in range(len(whole), SIZE - 1, -1):
        path.write_bytes(whole[:cut])
        again = claim(tmp_path, "etag", SIZE)
        records = max(0, cut - SIZE - 512) // 20
        expected = records * 100 if cut >= SIZE + 512 else 0
        assert again.done == again.resumed == expected
        again.delete()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("dead")
def test_a_damaged_record_claims_nothing(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    for start in range(0, 500, 100):
        put(staged, start, start + 100)
    path = staged.path
    abandon(staged)
    whole = path.read_bytes()
    rng = random.Random(1)
    for _ in range(200):
        at = rng.randrange(SIZE + 512, len(whole))
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        again = claim(tmp_path, "etag", SIZE)
        lost = (at - SIZE - 512) // 20 * 100
        assert again.missing() == [
            ByteRange(lost, lost + 100),
            *([] if lost == 500 else [ByteRange(500, SIZE)]),
        ] or (lost == 400 and again.missing() == [ByteRange(400, SIZE)])
        again.delete()


def test_a_header_names_owner_and_content_and_fits_its_place(tmp_path: Path) -> None:
    key = "f" * 150
    staged = claim(tmp_path, key, SIZE)
    raw = staged.path.read_bytes()[SIZE:]
    assert len(raw) == 512
    magic, status, length, _crc = struct.unpack_from("<8scxxxII", raw)
    assert (magic, status) == (b"hf-haul1", b"O")
    about = json.loads(raw[20 : 20 + length])
    assert about["owner"]["pid"] == os.getpid()
    staged.delete()


@pytest.mark.parametrize(
    "version",
    ["e" * 500, "\u00e9" * 500, '"' * 500, "\x7f" * 64, "\udcff" * 64],
    ids=["long", "not ASCII", "quotes", "control characters", "bytes"],
)
def test_a_version_in_any_script_is_kept_and_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    widest = ("\\xff" * 16)[:64]
    monkeypatch.setattr(
        ownership,
        "_me",
        owner(host=widest, boot=f"host:{widest}", started="9" * 20, namespace="pid:[9999999999]"),
    )
    staged = claim(tmp_path, "url", SIZE)
    assert staged.is_of_version(version)
    put(staged, 0, 400)
    staged.close()
    again = claim(tmp_path, "url", SIZE)
    assert again.resumed == 400
    assert again.is_of_version(version)
    assert not again.is_of_version("another")
    again.delete()


@pytest.mark.parametrize(
    "odd",
    [
        {"owner": {"pid": "../../etc/passwd"}},
        {"owner": {"pid": ["x"]}},
        {"owner": {"pid": "a\0b"}},
        {"owner": {"pid": True}},
        {"owner": {"pid": 0}},
        {"owner": {"pid": -1}},
        {"owner": {"pid": 1 << 70}},
        {"owner": {"pid": 1e300}},
        {"owner": {"host": 7}},
        {"owner": {"started": None}},
        {"owner": {"boot": "b" * 300}},
        {"nonce": "evil"},
        {"nonce": -5},
        {"nonce": 1 << 32},
        {"nonce": 1e308},
        {"nonce": True},
        {"version": 7},
        {"version": ["x"]},
    ],
    ids=repr,
)
def test_a_record_that_makes_no_sense_is_ignored_with_a_debug_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, odd: dict[str, object]
) -> None:
    caplog.set_level(logging.DEBUG)
    left_behind(tmp_path, **odd)
    staged = claim(tmp_path, "etag", SIZE)
    assert staged.resumed == 0
    assert "invalid header" in caplog.text
    assert all(record.levelno <= logging.INFO for record in caplog.records)
    staged.delete()
    assert list(tmp_path.iterdir()) == []


def test_a_record_may_say_more_than_we_know(tmp_path: Path) -> None:
    left_behind(tmp_path, later="versions", owner={"later": "versions"})
    staged = claim(tmp_path, "etag", SIZE)
    assert staged.resumed == 400
    staged.delete()


def test_the_name_of_another_host_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    left_behind(tmp_path, owner={"host": "\x1b[2Jhost\n", "boot": "another", "namespace": "another"})
    os.utime(tmp_path / "etag.haul.incomplete")
    with pytest.raises(StagedElsewhereError, match=r"on \?\[2Jhost\?") as caught:
        claim(tmp_path, "etag", SIZE)
    assert str(caught.value).isprintable()


def test_a_hole_of_a_terabyte_is_no_journal(tmp_path: Path) -> None:
    path = left_behind(tmp_path)
    os.truncate(path, 1 << 40)
    for resumed in (400, 500, 600):
        staged = claim(tmp_path, "etag", SIZE)
        assert staged.resumed == resumed
        put(staged, resumed, resumed + 100)
        staged.close()


@pytest.mark.parametrize("before", [0, 1, 255 * 1024, 300_000])
def test_a_header_is_found_before_a_journal_of_any_length_without_knowing_the_files_size(
    tmp_path: Path, before: int
) -> None:
    path = tmp_path / "etag.haul.incomplete"
    header = journal.pack_header("etag", before, 7, None, "hf://org/name@c/a.bin", released=True)
    for records in (0, 1, 13_000, 100_000):
        with path.open("wb") as file:
            file.write(b"hf-haul1" * (before // 8))  # bytes that look like one
            file.truncate(before)
            file.seek(before)
            file.write(header + journal.pack_record(0, before, 7) * records)
        with path.open("rb") as file:
            found = journal.header_of_other_size(file.fileno(), ["etag"])
            assert found is not None
            assert (found.size, found.nonce, found.released, found.uri) == (
                before,
                7,
                True,
                "hf://org/name@c/a.bin",
            )
            assert journal.header_of_other_size(file.fileno(), ["other"]) is None


@pytest.mark.parametrize(("length", "fits"), [(20, True), (100, True), (600, False)])
def test_what_people_call_a_file_is_noted_where_it_fits_and_costs_the_rest_of_the_header_nothing(
    tmp_path: Path, length: int, fits: bool
) -> None:
    uri = "hf://org/name@c/" + "ü" * (length // 6)
    path = tmp_path / "file"
    path.write_bytes(journal.pack_header("etag", 0, 1, "v" * 64, uri, released=False))
    with path.open("rb") as file:
        header = journal.read_header(file.fileno(), 0, ["etag"])
    assert header is not None
    assert (header.owner, header.version, header.uri) == (
        ownership.current_owner(),
        "v" * 64,
        uri if fits else "",
    )
    assert path.stat().st_size == journal.HEADER_SIZE


@pytest.mark.parametrize("uri", [7, None, ["a"], {"b": 1}])
def test_what_people_call_a_file_is_passed_over_where_it_is_no_text(tmp_path: Path, uri: object) -> None:
    left_behind(tmp_path, uri=uri)
    staged = claim(tmp_path, "etag", SIZE)
    assert (staged.resumed, staged.uri) == (400, "")
    staged.delete()
