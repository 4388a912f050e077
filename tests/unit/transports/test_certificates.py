"""Certificates that a variable names."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from hf_haul.errors import CertificateError
from hf_haul.transports.certificates import load_certificates


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_what_cannot_be_read_is_told_with_the_variable_that_names_it(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "lab.pem"
    if content is not None:
        path.write_text(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(CertificateError, match=r"lab\.pem, which LAB_BUNDLE names"):
        load_certificates(context, str(path), "LAB_BUNDLE")


def test_reading_them_brings_no_client_along() -> None:
    program = "import sys, hf_haul.transports.certificates; sys.exit('requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
