"""A certificate authority and a server certificate for this machine, made with the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.wants import want_program

__all__ = ["Certificates", "make_certificates"]

_CA = """\
[req]
distinguished_name = name
x509_extensions = ca
prompt = no
[name]
CN = hf-haul test authority
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
_LEAF = """\
[leaf]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost, IP:127.0.0.1
"""


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files.

    Attributes:
        ca: The authority's certificate, to be trusted.
        cert: The server's certificate, for ``localhost`` and ``127.0.0.1``.
        key: The server's key.
    """

    ca: Path
    cert: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make an authority and a server certificate in ``folder``; skips the test where openssl is missing."""
    openssl = want_program("openssl")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.cnf").write_text(_CA)
    (folder / "leaf.cnf").write_text(_LEAF)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-config", "ca.cnf"],
        ["req", *key, "-keyout", "key.pem", "-out", "leaf.csr", "-subj", "/CN=localhost"],
        [
            "x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "cert.pem",
            "-days", "30", "-extfile", "leaf.cnf", "-extensions", "leaf",
        ],
    ):  # fmt: skip
        subprocess.run([openssl, *command], cwd=folder, check=True, capture_output=True, timeout=60)
    return Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
