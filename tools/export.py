"""Between the PyTorch models and GGUF files: names, metadata, F32 and Q8_0, and back again."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer

from tools.corpus import CHAT_TEMPLATE, END_OF_TEXT
from tools.draft_model import DraftConfig, DraftModel
from tools.model import Model, ModelConfig
from tools.tokenizer import CONTROL_TOKENS, MARK_TOKENS, PRE, merges_of, read_tokenizer

Config: TypeAlias = ModelConfig | DraftConfig
Network: TypeAlias = Model | DraftModel


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
    """The GGUF tensor name of a parameter of `tools.model.Model` or `tools.draft_model.DraftModel`."""
    name = parameter.replace("mtp.block.", f"layers.{n_layer}.").replace("mtp.", f"layers.{n_layer}.nextn.")
    name = re.sub(r"^layers\.", "blk.", name).replace(".mixer.", ".").replace(".ffn.", ".")
    if name.endswith(".ssm_conv1d"):
        return name + ".weight"
    if name.endswith(".ssm_dt"):
        return name + ".bias"
    return name.removesuffix("_log")


def architecture_of(config: Config) -> str:
    """`general.architecture` of a file with this shape."""
    return "qwen35" if isinstance(config, ModelConfig) else "qwen3"


def tensors_of(model: Network) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """All tensors of a model under their GGUF names, float32, outermost dimension first."""
    tensors = {}
    for parameter, value in model.state_dict().items():
        value = value.detach().float()
        if parameter.endswith("ssm_a_log"):
            value = -value.exp()
        tensors[gguf_name(parameter, model.config.n_layer)] = np.ascontiguousarray(value.numpy())
    return tensors


def add_metadata(writer: gguf.GGUFWriter, config: Config, card: Card) -> None:
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
    n_nextn = 1 if isinstance(config, ModelConfig) else 0
    writer.add_block_count(config.n_layer + n_nextn)
    if n_nextn:
        writer.add_nextn_predict_layers(n_nextn)
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
    if isinstance(config, ModelConfig):
        add_hybrid_metadata(writer, config)


def add_hybrid_metadata(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """Writes the shape of the delta nets of a `qwen35` model and where they are."""
    writer.add_rope_dimension_sections(config.rope_sections)
    writer.add_ssm_conv_kernel(config.ssm_d_conv)
    writer.add_ssm_state_size(config.ssm_d_state)
    writer.add_ssm_group_count(config.ssm_n_group)
    writer.add_ssm_time_step_rank(config.ssm_dt_rank)
    writer.add_ssm_inner_size(config.value_dim)
    writer.add_full_attention_interval(config.full_attention_interval)
    recurrent = [config.is_recurrent(i) for i in range(config.n_layer)] + [False]
    writer.add_array(f"{architecture_of(config)}.attention.recurrent_layers", recurrent)


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


def write_gguf(path: Path, model: Network, tokenizer: Tokenizer, quantized: bool, card: Card | None = None) -> None:
    """Writes a GGUF file, aside first and then in place.

    Args:
        path: Where to.
        model: The network.
        tokenizer: From `tools.tokenizer`.
        quantized: Store the matrices as Q8_0 (norms, gates and convolutions stay F32); otherwise all is F32.
        card: Names and advice for the metadata; the default is the demo model's.
    """
    aside = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(aside, architecture_of(model.config))
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


def read_config(reader: gguf.GGUFReader) -> Config:
    """The shape that a GGUF file of one of the architectures states."""

    def value_of(key: str) -> Any:
        field = reader.get_field(key)
        if field is None:
            raise ValueError(f"the file has no {key}; give a file that tools.export wrote")
        return field.contents()

    arch = value_of("general.architecture")
    if arch not in ("qwen35", "qwen3"):
        raise ValueError(f"the file is of architecture {arch}; give a file that tools.export wrote")
    shared = {
        "n_embd": "embedding_length",
        "n_ff": "feed_forward_length",
        "n_head": "attention.head_count",
        "n_head_kv": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "rope_base": "rope.freq_base",
        "rms_eps": "attention.layer_norm_rms_epsilon",
        "n_ctx": "context_length",
    }
    found = {field: value_of(f"{arch}.{key}") for field, key in shared.items()}
    found |= {"n_vocab": len(value_of("tokenizer.ggml.tokens")), "n_layer": value_of(f"{arch}.block_count")}
    if arch == "qwen3":
        return DraftConfig(**found)
    hybrid = {
        "full_attention_interval": "full_attention_interval",
        "n_rot": "rope.dimension_count",
        "ssm_d_state": "ssm.state_size",
        "ssm_n_group": "ssm.group_count",
        "ssm_dt_rank": "ssm.time_step_rank",
        "ssm_d_conv": "ssm.conv_kernel",
    }
    found |= {field: value_of(f"{arch}.{key}") for field, key in hybrid.items()}
    found["n_layer"] -= value_of(f"{arch}.nextn_predict_layers")
    return ModelConfig(**found)


def read_gguf(path: Path) -> tuple[Any, Tokenizer]:
    """Reads a file that `write_gguf` wrote, dequantised to float32.

    Args:
        path: The GGUF file.

    Returns:
        tuple[Model | DraftModel, Tokenizer]: The network in evaluation mode, and the tokenizer of its vocabulary.

    Raises:
        ValueError: The file is of another architecture or its tensors are not those of the model.
    """
    reader = gguf.GGUFReader(path)
    config = read_config(reader)
    model = Model(config) if isinstance(config, ModelConfig) else DraftModel(config)
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
