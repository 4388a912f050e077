from __future__ import annotations

import logging
from typing import Any

import pytest

from hf_haul.hub.presets import select

KEPT_ALWAYS = ["config.json", "tokenizer.json", "tokenizer.model", "training_args.bin", "README.md"]


@pytest.mark.parametrize(
    ("files", "dropped"),
    [
        pytest.param(
            ["model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot"],
            {"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot"},
            id="one model in five formats",
        ),
        pytest.param(
            [
                "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
                "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json",
            ],
            {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"},
            id="shards with their indexes",
        ),
        pytest.param(
            ["model-00001-of-00001.safetensors", "consolidated.safetensors", "original/consolidated.00.pth", "original/params.json"],
            {"consolidated.safetensors", "original/consolidated.00.pth"},
            id="the same weights for another loader",
        ),
        pytest.param(["consolidated.safetensors"], set(), id="consolidated alone"),
        pytest.param(
            ["model.safetensors", "onnx/model.onnx", "onnx/model.onnx_data", "openvino/openvino_model.bin", "openvino/openvino_model.xml", "onnx/config.json"],
            {"onnx/model.onnx", "onnx/model.onnx_data", "openvino/openvino_model.bin", "openvino/openvino_model.xml"},
            id="side folders",
        ),
        pytest.param(
            ["v1-5-pruned.safetensors", "model_index.json", "unet/diffusion_pytorch_model.safetensors",
             "unet/diffusion_pytorch_model.bin", "safety_checker/pytorch_model.bin", "vae_encoder/model.onnx"],
            {"unet/diffusion_pytorch_model.bin"},
            id="a pipeline whose parts have other formats only",
        ),
        pytest.param(["pytorch_model.bin", "model.gguf"], set(), id="no safetensors"),
        pytest.param(["adapter_model.safetensors", "adapter_model.bin", "optimizer.pt"], {"adapter_model.bin", "optimizer.pt"}, id="adapter"),
        pytest.param(["model.safetensors", "model.fp16.safetensors"], set(), id="variants are no duplicates"),
        pytest.param(["model.safetensors", "tokenizer.bin", "vocab.bin", "spiece.model"], set(), id="bin files that are no weights"),
        pytest.param(["model.safetensors", "data/model.onnx"], set(), id="a folder of no known meaning"),
        pytest.param([], set(), id="nothing"),
    ],
)  # fmt: skip
def test_the_safetensors_preset_takes_the_weights_once(files: list[str], dropped: set[str]) -> None:
    everything = [*KEPT_ALWAYS, *files]
    assert select(everything, ["safetensors"]) == [f for f in everything if f not in dropped]


def test_the_no_weights_preset_leaves_what_describes_a_model() -> None:
    weights = ["model.safetensors", "model.safetensors.index.json", "a/pytorch_model.bin", "x.gguf"]
    assert select([*KEPT_ALWAYS, *weights, "a/code.py"], ["no-weights"]) == [
        *KEPT_ALWAYS,
        "a/code.py",
    ]


def test_without_presets_every_file_is_taken() -> None:
    assert select(iter(["model.safetensors", "model.bin"]), []) == ["model.safetensors", "model.bin"]


def test_an_unknown_preset_is_an_error_that_names_the_known_ones() -> None:
    unknown: Any = "gguf"
    with pytest.raises(ValueError, match=r"'gguf'.*'safetensors', 'no-weights'"):
        select(["a"], [unknown])


def test_every_file_left_out_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        select(["model.safetensors", "pytorch_model.bin"], ["safetensors"])
    assert [r.getMessage() for r in caplog.records] == ["preset 'safetensors' leaves out pytorch_model.bin"]
