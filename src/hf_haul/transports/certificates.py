"""Certificates that are trusted besides the usual ones; no library is needed to name them to a client."""

from __future__ import annotations

import os
import ssl

from hf_haul.errors import CertificateError

__all__ = ["load_certificates"]


def load_certificates(context: ssl.SSLContext, path: str, name: str) -> None:
    """Trust the certificates of a file or folder, too.

    Args:
        context: Who trusts them.
        path: The file or folder.
        name: The variable that names it.

    Raises:
        CertificateError: They cannot be read.
    """
    try:
        if os.path.isdir(path):
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"cannot read the certificates {path}, which {name} names: {error}") from error
