"""Whether llama.cpp can be trusted with a model: what it would crash on is found here first.

A failed assertion on the calling thread becomes an error by itself, so this looks for what does not: divisions by zero,
reads out of range, endless loops, memory that no machine has, and assertions that fail in the threads of a computation.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping

from .facts import (
    COMPANIONS,
    DIVISORS,
    ELEMENTWISE,
    EXPERTS_SHARE_FFN,
    ID_TABLES,
    NEEDED,
    NEEDED_KEYS,
    NO_ROPE,
    NOT_FOR_WEIGHTS,
    SECTIONED_ROPE,
)
from .model_file import ModelFile
from .reader import GgufFile, Tensor, read
from .vocabulary import check_vocabulary

_MAX_ROW = 1 << 18  # elements of the keys, or the values, of one token in one layer
_MAX_STATE = 1 << 28  # elements of the recurrent state of one layer and sequence
_MAX_ENCODER_CONTEXT = 1 << 20
_KIND = re.compile(
    r"^(?:(?:enc|dec)\.)?(?:(?:blk|posnet|convnext)\.\d+\.)?(.+?)(?:\.(weight|bias|scale|input_scale))?$"
)


def _check_storage(model: ModelFile, tensor: Tensor) -> None:
    match = _KIND.match(tensor.name)
    kind, suffix = match.groups() if match else (tensor.name, None)
    storage = tensor.storage.name
    if storage in NOT_FOR_WEIGHTS and not (storage == "i32" and kind in ID_TABLES):
        model.fail(f"tensor {tensor.name!r} is stored as {storage}, which llama.cpp cannot compute with")
    if storage != "f32" and (suffix in ("bias", "scale", "input_scale") or kind in ELEMENTWISE):
        model.fail(f"tensor {tensor.name!r} is stored as {storage}, and it must be f32")
    if 0 in tensor.shape:
        model.fail(f"tensor {tensor.name!r} of shape {list(tensor.shape)} is empty")


def _check_companions(model: ModelFile) -> None:
    names = model.file.tensors
    n_parts = model.file.metadata.get("split.count", 0)
    if not names or (isinstance(n_parts, int) and n_parts > 1):
        return  # the parts of a split model may share a block between them
    for name in NEEDED.get(model.arch, ()):
        if name not in names:
            model.fail(f"{model.arch} needs tensor {name!r}, which is missing")
    for present, groups in COMPANIONS.get(model.arch, ()):
        first = f".{present[0]}.weight"
        for block in (name.removesuffix(first) for name in names if name.endswith(first)):
            if not all(f"{block}.{name}.weight" in names for name in present):
                continue
            for group in groups:
                wanted = [f"{block}.{name}" + ("" if name.endswith(".bias") else ".weight") for name in group]
                if not any(name in names for name in wanted):
                    model.fail(f"{model.arch} needs tensor {wanted[0]!r} beside {block + first!r}")


def _check_rope(model: ModelFile) -> None:
    n_head = model.number("attention.head_count")
    if model.arch in NO_ROPE or n_head <= 0:
        return
    head = model.number("attention.key_length", model.number("embedding_length") // n_head)
    n_rot = model.number("rope.dimension_count", head)
    sizes = [("rope.dimension_count", "attention.key_length", n_rot, head)]
    if model.numbers("attention.key_length_swa") or model.numbers("rope.dimension_count_swa"):
        head_swa = model.number("attention.key_length_swa", head)
        n_rot_swa = model.number("rope.dimension_count_swa", n_rot)
        sizes.append(("rope.dimension_count_swa", "attention.key_length_swa", n_rot_swa, head_swa))
    for n_rot_key, head_key, turned, size in sizes:
        # zero makes ggml_compute_forward_rope loop forever, the others fail an assertion in a worker thread
        if turned <= 0 or turned % 2 or turned > size:
            model.fail(
                f"{model.arch}.{n_rot_key} is {turned:g}, which must be even, above 0 and at most "
                f"{model.arch}.{head_key}, {size:g}"
            )
    sections = model.numbers("rope.dimension_sections")
    if (any(sections) or model.arch in SECTIONED_ROPE) and (
        any(section < 0 for section in sections) or not any(sections[:3]) or sum(sections) > head
    ):  # ggml_mrope_cache_init divides by their sum
        model.fail(f"{model.describe('rope.dimension_sections')}, which do not fit heads of {head:g}")


def _check_numbers(model: ModelFile) -> None:
    for key in ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon"):
        for value in model.numbers(f"attention.{key}"):
            if math.isnan(value) or value < 0:  # asserted in ggml_compute_forward_norm
                model.fail(f"{model.describe(f'attention.{key}')}, which must not be negative")
    heads = max([*model.numbers("attention.head_count"), *model.numbers("attention.head_count_kv"), 1])
    usual = model.number("embedding_length") // max(1, model.number("attention.head_count"))
    for key in ("key_length", "value_length"):
        for suffix in ("", "_swa", "_mla", "_mla_swa"):
            size = model.number(f"attention.{key}{suffix}", usual)
            if heads * size > _MAX_ROW:
                model.fail(f"{heads:g} heads of {model.arch}.attention.{key}{suffix} {size:g} fit no memory")
    inner, state, taps = (model.number(f"ssm.{key}") for key in ("inner_size", "state_size", "conv_kernel"))
    groups = model.number("ssm.group_count")
    if max(inner * state, taps * (inner + 2 * groups * state)) > _MAX_STATE:
        model.fail(
            f"a recurrent state of ssm.inner_size {inner:g}, ssm.state_size {state:g}, ssm.group_count {groups:g} and "
            f"ssm.conv_kernel {taps:g} fits no memory"
        )
    if model.arch == "t5" and model.number("context_length") > _MAX_ENCODER_CONTEXT:
        # the decoder's graph is measured for an encoder output of that length
        model.fail(f"{model.describe('context_length')}, and the most that makes sense is {_MAX_ENCODER_CONTEXT}")
    for key in NEEDED_KEYS.get(model.arch, ()):
        if not model.number(key) > 0:
            model.fail(f"{model.arch} needs {model.arch}.{key}, which is missing or 0")
    for key in DIVISORS.get(model.arch, ()):
        if 0 in model.numbers(key):
            model.fail(f"{model.describe(key)}, which must not be 0")
    used = model.numbers("expert_used_count")
    if model.arch in EXPERTS_SHARE_FFN and not model.number("expert_feed_forward_length") and not all(used or [0]):
        model.fail(f"{model.arch} needs {model.arch}.expert_used_count or expert_feed_forward_length")


def check(path: str | os.PathLike[str], overrides: Mapping[str, object] | None = None) -> GgufFile:
    """Read a model file and refuse what llama.cpp would crash on instead of reporting it.

    It reads the header only: a few milliseconds for a small vocabulary, some 30 for 150,000 tokens.

    Args:
        path: A GGUF file; of a split model one part.
        overrides: Metadata that will be loaded in place of the file's.

    Returns:
        GgufFile: What the header says.

    Raises:
        InvalidModelError: The file is damaged or describes a model that cannot be run; the message says what and where.
        ModelNotFoundError: There is no such file.
        ModelLoadError: The file cannot be read.
    """
    file = read(path)
    model = ModelFile(file, overrides or {})
    for tensor in file.tensors.values():
        _check_storage(model, tensor)
    if model.arch:
        _check_companions(model)
        _check_rope(model)
        _check_numbers(model)
        check_vocabulary(model)
    return file
