"""The local hub over https: no sendfile, and the Hub's exact 401."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from tests.support.hub import (
    ServedRepo,
    hub_environment,
    make_certificate,
    run_python,
    serve_repo,
)
from tests.support.repos import contents

from hf_haul.localhub.testing.faults import Cut, Reset


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def served(tmp_path: Path, cert: tuple[Path, Path]) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path / "src", certfile=cert[0], keyfile=cert[1]) as made:
        yield made


def test_huggingface_hub_downloads_over_tls_and_tells_a_missing_repository_by_its_url(
    served: ServedRepo, cert: tuple[Path, Path], tmp_path: Path
) -> None:
    code = """
from huggingface_hub import model_info, snapshot_download
print(snapshot_download("org/tiny"))
try:
    model_info("org/nope")
except Exception as error:
    print(type(error).__name__)
"""
    done = run_python(code, hub_environment(served.hub, tmp_path / "home", SSL_CERT_FILE=str(cert[0])))
    assert done.returncode == 0, done.stderr
    folder, error = done.stdout.split("\n")[:2]
    assert contents(Path(folder)) == served.contents
    assert error == "RepositoryNotFoundError"
    assert {request.status for request in served.hub.requests} >= {200, 302, 307, 401}


def test_a_bare_401_has_no_code_over_tls(served: ServedRepo, cert: tuple[Path, Path]) -> None:
    answer = requests.get(f"{served.hub.url}/api/models/org/nope", verify=str(cert[0]))
    assert answer.status_code == 401
    assert "X-Error-Code" not in answer.headers


@pytest.mark.parametrize("fault", [Cut(100_000), Reset(100_000)], ids=repr)
def test_bodies_break_over_tls_too(served: ServedRepo, cert: tuple[Path, Path], fault: Cut | Reset) -> None:
    url = f"{served.hub.url}/org/tiny/resolve/main/model-00001-of-00002.safetensors"
    served.hub.faults.add(fault, kind="cdn")
    with requests.Session() as session:
        session.trust_env = False  # a CA bundle from the environment would go first
        session.verify = str(cert[0])
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            session.get(url)
        assert served.hub.requests.settle()
        assert served.hub.requests[-1].body_bytes == 100_000
        whole = (served.folder / "model-00001-of-00002.safetensors").read_bytes()
        assert session.get(url).content == whole
