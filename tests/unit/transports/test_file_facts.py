"""What is taken from a server's answer about a file."""

from __future__ import annotations

import pytest

from hf_haul.transports.file_facts import suggested_name


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        pytest.param("attachment; filename=a.bin", "a.bin", id="plain"),
        pytest.param('Attachment; FILENAME="a b;c.bin"', "a b;c.bin", id="quoted, in any case"),
        pytest.param(
            "attachment; filename=\"x\"; filename*=UTF-8''na%C3%AFve.txt", "na\xefve.txt", id="encoded first"
        ),
        pytest.param('inline; filename="\xc3\xa9.txt"', "\xe9.txt", id="UTF-8 against the rules"),
        pytest.param('attachment; filename*0="ab"; filename*1="cd.txt"', "abcd.txt", id="in parts"),
        pytest.param('attachment; filename="../../etc/passwd"', "passwd", id="folders above"),
        pytest.param("attachment; filename*=UTF-8''..%2F..%2Fx", "x", id="folders above, encoded"),
        pytest.param(r'attachment; filename="..\\..\\x.exe"', "x.exe", id="folders of Windows"),
        pytest.param('attachment; filename="C:x"', "C_x", id="a drive"),
        pytest.param('attachment; filename="a\x1b[2J\x7f.txt"', "a_[2J_.txt", id="controls of a terminal"),
        pytest.param('attachment; filename=".bashrc"', "bashrc", id="hidden"),
        pytest.param('attachment; filename="...."', None, id="dots alone"),
        pytest.param('attachment; filename=""', None, id="empty"),
        pytest.param("attachment; filename*=utf-99''x", None, id="an unknown charset"),
        pytest.param('attachment; filename="NUL.txt"', None, id="a device of Windows"),
        pytest.param("attachment", None, id="none"),
        pytest.param("", None, id="nothing"),
        pytest.param(None, None, id="no header"),
    ],
)
def test_a_server_can_name_a_file_and_no_place(disposition: str | None, name: str | None) -> None:
    assert suggested_name(disposition) == name


def test_a_name_that_is_too_long_keeps_its_end() -> None:
    name = suggested_name('attachment; filename="' + "\xe4" * 300 + '.tar"')
    assert name is not None
    assert name.endswith("\xe4.tar")
    assert len(name.encode()) <= 200
