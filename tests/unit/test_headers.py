from __future__ import annotations

from hf_haul.headers import Headers


def test_headers_are_a_mapping() -> None:
    headers = Headers({"etag": '"a"'})
    assert (dict(headers), headers.get("ETag"), headers.get("X", "none")) == ({"etag": '"a"'}, '"a"', "none")
