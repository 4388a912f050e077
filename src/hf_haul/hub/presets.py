"""Rules that pick files of a repository: the weights once and not in three formats, or no weights at all.

A preset only ever leaves files out, never the last copy of something a loader needs, and each file it leaves
out is named in the log (level info) and in what ``dry_run=True`` returns. Without a preset every file is
taken.

``safetensors``
    In a folder with weights in safetensors, leaves out the same folder's weights in other formats
    (``pytorch_model*.bin``, ``*.pt``, ``*.pth``, ``*.ckpt``, ``*.h5``, ``*.msgpack``, ``*.onnx``, ``*.gguf``,
    ...) with their index files. Next to ``model*.safetensors`` it also leaves out
    ``consolidated*.safetensors``, which is the same weights for another loader, and weights of other formats
    in the side folders ``original``, ``onnx``, ``openvino``, ``coreml``, ``tf``, ``flax`` and ``gguf``. A
    folder without safetensors is left alone.

``no-weights``
    Leaves out weights of every format, with their index files: configuration, tokenizer and code remain.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, Literal, get_args

__all__ = ["Preset", "select"]

logger = logging.getLogger(__name__)

Preset = Literal["safetensors", "no-weights"]

_SAFETENSORS: Final = re.compile(r".+\.safetensors")
#: ``.bin`` is also used for tokenizers and training arguments: only the names that libraries give to weights
#: count.
_BIN_WEIGHTS: Final = re.compile(
    r"(pytorch_model|model|diffusion_pytorch_model|adapter_model|pytorch_lora_weights|consolidated|open_clip_pytorch_model)"
    r"([._-].+)?\.bin",
)
_OTHER_WEIGHTS: Final = re.compile(
    r".+\.(pt|pth|ckpt|h5|msgpack|ot|onnx|onnx_data|tflite|gguf|ggml|pdparams|mlmodel|weights)"
)
_INDEX: Final = re.compile(r"(.+)\.index(\.[^.]+)?\.json")
_CONSOLIDATED: Final = re.compile(r"consolidated([._-].+)?\.safetensors")
_MODEL: Final = re.compile(r"model([._-].+)?\.safetensors")
_SIDE_FOLDERS: Final = frozenset({"original", "onnx", "openvino", "coreml", "tf", "flax", "gguf"})
#: Weights inside a side folder that only there are surely weights.
_SIDE_WEIGHTS: Final = re.compile(r".+\.(bin|xml|mlpackage)")


def select(paths: Iterable[str], presets: Sequence[Preset]) -> list[str]:
    """Return the files that pass every preset, in their order.

    Args:
        paths: Files of a repository.
        presets: Names of presets; see the module's text.

    Raises:
        ValueError: A preset has no such name.
    """
    chosen = list(paths)
    for preset in presets:
        if preset not in get_args(Preset):
            known = ", ".join(repr(name) for name in get_args(Preset))
            raise ValueError(f"no preset is called {preset!r}; there are {known}")
        dropped = _without_weights(chosen) if preset == "no-weights" else _not_safetensors(chosen)
        for path in chosen:
            if path in dropped:
                logger.info("preset %r leaves out %s", preset, path)
        chosen = [path for path in chosen if path not in dropped]
    return chosen


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name


def _is_other_weights(name: str) -> bool:
    """Return whether a file holds weights, and not as safetensors; index files count as what they index."""
    index = _INDEX.fullmatch(name)
    if index is not None:
        name = index[1]
    return bool(_BIN_WEIGHTS.fullmatch(name) or _OTHER_WEIGHTS.fullmatch(name))


def _is_safetensors(name: str) -> bool:
    index = _INDEX.fullmatch(name)
    return bool(_SAFETENSORS.fullmatch(name if index is None else index[1]))


def _without_weights(paths: Sequence[str]) -> set[str]:
    return {path for path in paths if _is_other_weights(_split(path)[1]) or _is_safetensors(_split(path)[1])}


def _not_safetensors(paths: Sequence[str]) -> set[str]:
    names: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, name = _split(path)
        names[folder].append(name)
    with_safetensors = {
        folder for folder, inside in names.items() if any(map(_SAFETENSORS.fullmatch, inside))
    }
    with_model = {folder for folder, inside in names.items() if any(map(_MODEL.fullmatch, inside))}
    return {path for path in paths if _is_duplicate(path, with_safetensors, with_model)}


def _is_duplicate(path: str, with_safetensors: set[str], with_model: set[str]) -> bool:
    folder, name = _split(path)
    if folder in with_safetensors and _is_other_weights(name):
        return True
    if folder in with_model and _CONSOLIDATED.fullmatch(name):
        return True
    parent, side = _split(folder)
    if side not in _SIDE_FOLDERS or parent not in with_model or folder in with_safetensors:
        return False
    return _is_other_weights(name) or _SIDE_WEIGHTS.fullmatch(name) is not None
