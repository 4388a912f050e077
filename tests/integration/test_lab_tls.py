"""A lab's server over https, with a certificate of its own, and how its clients trust it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.certs import Certificates, make_certificates
from tests.support.hub import hub_environment, run_python

from hf_haul.localhub import LocalHub, Repo

WEIGHTS = bytes(range(256)) * 4096
CLIENT = """
import sys
import {module} as module
print(module.snapshot_download("org/m"))
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def upstream() -> Iterator[LocalHub]:
    repo = Repo("org/m")
    repo.commit({"config.json": b"{}", "model.safetensors": WEIGHTS})
    with LocalHub(repo) as hub:
        yield hub


@pytest.fixture(scope="module")
def served(
    certificates: Certificates, upstream: LocalHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The command, as a lab runs it."""
    home = tmp_path_factory.mktemp("served")
    (home / "token").write_text("t0ken")
    argv = [
        "serve",
        str(home / "hub"),
        "--port",
        "0",
        "--upstream",
        upstream.url,
        "--token-file",
        str(home / "token"),
    ]
    argv += ["--certfile", str(certificates.cert), "--keyfile", str(certificates.key)]
    with subprocess.Popen(
        [sys.executable, "-m", "hf_haul.cli", *argv],
        env={**hub_environment(upstream, home), "XDG_CACHE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)


def environment(served: str, upstream: LocalHub, home: Path, **more: str) -> dict[str, str]:
    env = hub_environment(upstream, home, HF_ENDPOINT=served, HF_TOKEN="t0ken", **more)
    names = {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"} - more.keys()
    return {name: value for name, value in env.items() if name not in names}


@pytest.mark.parametrize(
    ("variable", "module"),
    [
        ("HF_HAUL_CA_BUNDLE", "hf_haul"),
        ("REQUESTS_CA_BUNDLE", "hf_haul"),
        ("SSL_CERT_FILE", "hf_haul"),
        ("SSL_CERT_FILE", "huggingface_hub"),
    ],
)
def test_a_client_trusts_the_certificate_that_a_variable_names(
    variable: str, module: str, served: str, upstream: LocalHub, certificates: Certificates, tmp_path: Path
) -> None:
    env = environment(served, upstream, tmp_path, **{variable: str(certificates.ca)})
    done = run_python(CLIENT.format(module=module), env)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip(), "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("variable", ["", "HF_HAUL_CA_BUNDLE"], ids=["nothing named", "no certificates"])
def test_a_client_that_does_not_trust_it_says_so(
    variable: str, served: str, upstream: LocalHub, tmp_path: Path
) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    more = {variable: str(tmp_path / "none.pem")} if variable else {}
    env = environment(served, upstream, tmp_path, **more)
    argv = [sys.executable, "-m", "hf_haul.cli", "download", "org/m"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 5
    assert (variable or "certificate") in done.stderr
    assert os.fspath(tmp_path / "none.pem") in done.stderr or not variable
    assert "t0ken" not in done.stderr
