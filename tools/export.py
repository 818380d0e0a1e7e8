"""Between the PyTorch model and GGUF files: names, metadata, F32 and Q8_0, and back again."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer

from tools.corpus import CHAT_TEMPLATE, END_OF_TEXT
from tools.model import Model, ModelConfig
from tools.tokenizer import CONTROL_TOKENS, MARK_TOKENS, PRE, merges_of, read_tokenizer

ARCH = "qwen35"


@dataclass(frozen=True)
class Card:
    """What the file says of itself.

    Attributes:
        name: `general.name`.
        author: `general.author`.
        description: `general.description`.
        temp: `general.sampling.temp`, the temperature that suits the model.
        top_k: `general.sampling.top_k`.
        top_p: `general.sampling.top_p`.
    """

    name: str = "llamacore demo"
    author: str = "The llamacore authors"
    description: str = (
        "A tiny model trained from scratch on text that a script writes: short stories in five moods, easy questions, "
        "tool calls and JSON. For examples and tests, not for knowledge."
    )
    temp: float = 0.7
    top_k: int = 40
    top_p: float = 0.95


def gguf_name(parameter: str, n_layer: int) -> str:
    """The GGUF tensor name of a parameter of `tools.model.Model`."""
    name = parameter.replace("mtp.block.", f"layers.{n_layer}.").replace("mtp.", f"layers.{n_layer}.nextn.")
    name = re.sub(r"^layers\.", "blk.", name).replace(".mixer.", ".").replace(".ffn.", ".")
    if name.endswith(".ssm_conv1d"):
        return name + ".weight"
    if name.endswith(".ssm_dt"):
        return name + ".bias"
    return name.removesuffix("_log")


def tensors_of(model: Model) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """All tensors of a model under their GGUF names, float32, outermost dimension first."""
    tensors = {}
    for parameter, value in model.state_dict().items():
        value = value.detach().float()
        if parameter.endswith("ssm_a_log"):
            value = -value.exp()
        tensors[gguf_name(parameter, model.config.n_layer)] = np.ascontiguousarray(value.numpy())
    return tensors


def add_metadata(writer: gguf.GGUFWriter, config: ModelConfig, card: Card) -> None:
    """Writes what the model is and its shape."""
    writer.add_type("model")
    writer.add_name(card.name)
    writer.add_author(card.author)
    writer.add_description(card.description)
    writer.add_license("mit")
    writer.add_languages(["en"])
    writer.add_sampling_temp(card.temp)
    writer.add_sampling_top_k(card.top_k)
    writer.add_sampling_top_p(card.top_p)
    writer.add_block_count(config.n_layer + 1)
    writer.add_nextn_predict_layers(1)
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_ff)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_head_kv)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_rope_dimension_count(config.n_rot)
    writer.add_rope_dimension_sections(config.rope_sections)
    writer.add_ssm_conv_kernel(config.ssm_d_conv)
    writer.add_ssm_state_size(config.ssm_d_state)
    writer.add_ssm_group_count(config.ssm_n_group)
    writer.add_ssm_time_step_rank(config.ssm_dt_rank)
    writer.add_ssm_inner_size(config.value_dim)
    writer.add_full_attention_interval(config.full_attention_interval)
    recurrent = [config.is_recurrent(i) for i in range(config.n_layer)] + [False]
    writer.add_array(f"{ARCH}.attention.recurrent_layers", recurrent)


def add_vocab(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Writes tokens, merges, special tokens and the chat template."""
    vocab = tokenizer.get_vocab()
    kinds = dict.fromkeys(vocab, gguf.TokenType.NORMAL)
    kinds.update(dict.fromkeys(CONTROL_TOKENS, gguf.TokenType.CONTROL))
    kinds.update(dict.fromkeys(MARK_TOKENS, gguf.TokenType.USER_DEFINED))
    tokens = sorted(vocab, key=lambda token: vocab[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[token] for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in merges_of(tokenizer)])
    writer.add_eos_token_id(vocab["<|im_end|>"])
    writer.add_eot_token_id(vocab["<|im_end|>"])
    writer.add_pad_token_id(vocab[END_OF_TEXT])
    writer.add_bos_token_id(vocab[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_gguf(path: Path, model: Model, tokenizer: Tokenizer, quantized: bool, card: Card | None = None) -> None:
    """Writes a GGUF file, aside first and then in place.

    Args:
        path: Where to.
        model: The network.
        tokenizer: From `tools.tokenizer`.
        quantized: Store the matrices as Q8_0 (norms, gates and convolutions stay F32); otherwise all is F32.
        card: Names and advice for the metadata; the default is the bundled model's.
    """
    aside = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(aside, ARCH)
    add_metadata(writer, model.config, card or Card())
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantized else gguf.LlamaFileType.ALL_F32)
    add_vocab(writer, tokenizer)
    for name, data in tensors_of(model).items():
        if quantized and data.ndim == 2 and data.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(aside, path)


def read_config(reader: gguf.GGUFReader) -> ModelConfig:
    """The shape that a GGUF file of this architecture states."""

    def value_of(key: str) -> Any:
        key = key if key.startswith("tokenizer.") else f"{ARCH}.{key}"
        field = reader.get_field(key)
        if field is None:
            raise ValueError(f"the file has no {key}; give a file that tools.export wrote")
        return field.contents()

    return ModelConfig(
        n_vocab=len(value_of("tokenizer.ggml.tokens")),
        n_embd=value_of("embedding_length"),
        n_layer=value_of("block_count") - value_of("nextn_predict_layers"),
        full_attention_interval=value_of("full_attention_interval"),
        n_ff=value_of("feed_forward_length"),
        n_head=value_of("attention.head_count"),
        n_head_kv=value_of("attention.head_count_kv"),
        head_dim=value_of("attention.key_length"),
        n_rot=value_of("rope.dimension_count"),
        rope_base=value_of("rope.freq_base"),
        ssm_d_state=value_of("ssm.state_size"),
        ssm_n_group=value_of("ssm.group_count"),
        ssm_dt_rank=value_of("ssm.time_step_rank"),
        ssm_d_conv=value_of("ssm.conv_kernel"),
        rms_eps=value_of("attention.layer_norm_rms_epsilon"),
        n_ctx=value_of("context_length"),
    )


def read_gguf(path: Path) -> tuple[Model, Tokenizer]:
    """Reads a file that `write_gguf` wrote, dequantised to float32.

    Args:
        path: The GGUF file.

    Returns:
        tuple[Model, Tokenizer]: The network in evaluation mode, and the tokenizer of its tokens and merges.

    Raises:
        ValueError: The file is not of this architecture or its tensors are not those of the model.
    """
    reader = gguf.GGUFReader(path)
    config = read_config(reader)
    model = Model(config)
    stored = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    weights = {}
    for parameter, value in model.state_dict().items():
        name = gguf_name(parameter, config.n_layer)
        if name not in stored:
            raise ValueError(f"{path} has no tensor {name}; give a file that tools.export wrote")
        weight = torch.from_numpy(stored.pop(name).copy()).float().reshape(value.shape)
        weights[parameter] = torch.log(-weight) if parameter.endswith("ssm_a_log") else weight
    if stored:
        raise ValueError(f"{path} has tensors that the model does not: {', '.join(sorted(stored))}")
    model.load_state_dict(weights)
    return model.eval(), read_tokenizer(path)
