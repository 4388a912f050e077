"""Other clients of a lab's server: transformers, and huggingface.js."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.hub import hub_environment, run_python
from tests.support.labs import LabServer, lab_before
from tests.support.wants import want_modules

from hf_haul.localhub import LocalHub, Repo

WEIGHTS = bytes(range(256)) * 8192
CONFIG = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 4,
}
TOKENIZER = {
    "version": "1.0",
    **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder")),
    "added_tokens": [],
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"},
    "pre_tokenizer": {"type": "Whitespace"},
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabServer]:
    repo = Repo("org/m")
    repo.commit(
        {
            "config.json": json.dumps(CONFIG).encode(),
            "tokenizer.json": json.dumps(TOKENIZER).encode(),
            "tokenizer_config.json": b'{"tokenizer_class": "PreTrainedTokenizerFast"}',
            "model.safetensors": WEIGHTS,
        },
        xet_hashes={"model.safetensors": "ab" * 32},
    )
    with LocalHub(repo) as upstream, lab_before(upstream, tmp_path / "served") as served:
        yield served


_TRANSFORMERS = """
from transformers import AutoConfig, AutoTokenizer
print(AutoConfig.from_pretrained("org/m").hidden_size)
print(AutoTokenizer.from_pretrained("org/m")("a b a")["input_ids"])
"""


def test_transformers_loads_through_it(lab: LabServer, tmp_path: Path) -> None:
    want_modules("transformers", extra="loaders")
    done = run_python(_TRANSFORMERS, hub_environment(lab.hub, tmp_path / "home"), timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["8", "[0, 1, 0]"]


_HUGGINGFACE_JS = """
import { createHash } from "node:crypto";
import { downloadFile, listFiles } from "@huggingface/hub";
const hubUrl = process.argv[2], repo = { type: "model", name: "org/m" };
const names = [];
for await (const file of listFiles({ repo, hubUrl, recursive: true })) names.push(file.path);
const blob = await downloadFile({ repo, hubUrl, path: "model.safetensors" });
const part = await blob.slice(1000, 2000).arrayBuffer();
const whole = createHash("sha256").update(Buffer.from(await blob.arrayBuffer())).digest("hex");
console.log(JSON.stringify({ names: names.sort(), part: createHash("sha256").update(Buffer.from(part)).digest("hex"), whole }));
"""


def test_huggingface_js_downloads_through_it(lab: LabServer, tmp_path: Path) -> None:
    """Where npm has put ``@huggingface/hub`` into the folder that ``JS_HUB_FOLDER`` names, as the guide says."""
    node, folder = shutil.which("node"), os.environ.get("JS_HUB_FOLDER")
    if (
        node is None or folder is None
    ):  # nowhere else does CI do without: an installation for one test takes long
        pytest.skip("no node, or no JS_HUB_FOLDER: npm install --prefix DIR @huggingface/hub")
    program = Path(folder, "hf-haul-test.mjs")
    program.write_text(_HUGGINGFACE_JS)
    done = subprocess.run(
        [node, str(program), lab.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "names": ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
        "part": hashlib.sha256(WEIGHTS[1000:2000]).hexdigest(),
        "whole": hashlib.sha256(WEIGHTS).hexdigest(),
    }
