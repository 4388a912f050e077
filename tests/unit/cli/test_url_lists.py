"""How lists of URLs are read."""

from __future__ import annotations

import pytest

from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.url_lists import WantedUrl, last_name, read_list
from hf_haul.digests import Digest

MD5 = "9a0364b9e99bb480dd25e1f0284c8555"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        pytest.param("https://h/a.bin", WantedUrl("https://h/a.bin"), id="a URL"),
        pytest.param(" https://h/a.bin#x \r\n", WantedUrl("https://h/a.bin#x"), id="blanks, and a fragment"),
        pytest.param(
            f"https://h/a checksum=md5:{MD5}",
            WantedUrl("https://h/a", digest=Digest("md5", MD5)),
            id="a digest",
        ),
        pytest.param(
            f"https://h/a\tchecksum=MD5:{MD5.upper()}\tout=b/c d.bin",
            WantedUrl("https://h/a", "b/c d.bin", Digest("md5", MD5)),
            id="tabs, a digest, and a name with a blank",
        ),
        pytest.param(
            "https://h/a out=x checksum=y", WantedUrl("https://h/a", "x checksum=y"), id="out= takes the rest"
        ),
    ],
)
def test_a_line_says_what_is_wanted(line: str, wanted: WantedUrl) -> None:
    assert read_list([line], "list") == [wanted]


def test_empty_lines_and_comments_are_passed_over_and_lines_are_numbered() -> None:
    (found,) = read_list(["# mine", "", "  ", "  # checksum=no", "https://h/a"], "urls.txt")
    assert found.said_in == "urls.txt:5"


@pytest.mark.parametrize(
    "line",
    [
        "a.bin",
        "ftp://h/a",
        "https://h/a b",
        "https://h/a sum=1",
        "https://h/a checksum=",
        "https://h/a checksum=md5:12",
        f"https://h/a checksum=sha256:{MD5}",
        "https://h/a out=",
        "https://h/a out=../b",
        "https://h/a out=/etc/passwd",
        r"https://h/a out=..\b",
        "https://h/a out=c:/b",
    ],
)
def test_a_wrong_line_is_named_with_its_number(line: str) -> None:
    with pytest.raises(UsageError, match=r"^urls\.txt:2: "):
        read_list(["https://h/fine", line], "urls.txt")


def test_all_wrong_lines_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        read_list(["https://h/fine", *["wrong"] * 25], "urls.txt")
    first, *lines = str(caught.value).splitlines()
    assert first == "25 lines of urls.txt cannot be used"
    assert [line.partition(":")[2].partition(":")[0] for line in lines[:-1]] == [str(n) for n in range(2, 22)]
    assert lines[-1] == "and 5 more"


def test_a_signature_is_not_shown() -> None:
    wanted = WantedUrl("https://user:secret@h/?sig=secret")
    assert "secret" not in repr(wanted) + wanted.label


@pytest.mark.parametrize(
    "path", ["", "/", "/a/", "/..", "/%2e%2e", "/..%2F..%2Fx", "/a%5Cb", "/%2Fx", "/a%00b"]
)
def test_what_is_no_name_is_none(path: str) -> None:
    assert last_name(f"https://h{path}") is None
