"""The test kit: every kind of tiny model loads, tokenises and computes in llama.cpp."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamacore as lc
from llamacore import gguf
from llamacore.errors import InvalidArgumentError, UnsupportedError
from llamacore.testing import bench_model, tiny_lora, tiny_model

TEXT = "the day that you were there 12 times"
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-spm": {"vocab": "spm"},
    "llama-moe": {"n_expert": 4},
    "llama-f16": {"dtype": "f16"},
    "llama-q8_0": {"dtype": "q8_0"},
    "llama-q4_0": {"dtype": "q4_0", "tied": True},
    "gemma3": {"arch": "gemma3"},
    "qwen35": {"arch": "qwen35"},
    "qwen35-mtp": {"arch": "qwen35", "n_nextn": 1, "n_layer": 4, "full_attention_interval": 4},
    "mamba": {"arch": "mamba"},
}


def batch_of(tokens: list[int], start: int = 0) -> lc.Batch:
    batch = lc.Batch(n_tokens=max(1, len(tokens)))
    for i, token in enumerate(tokens):
        batch.add(token, pos=start + i, output=True)
    return batch


def greedy(model: lc.Model, n_tokens: int, context: lc.Context) -> list[int]:
    tokens = model.vocab.tokenize(TEXT)
    made: list[int] = []
    todo = tokens
    while len(made) < n_tokens:
        context.decode(batch_of(todo, len(tokens) + len(made) - len(todo)))
        made.append(int(context.logits(-1).argmax()))
        todo = made[-1:]
    return made


@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_generate(tmp_path: Path, kind: str) -> None:
    with lc.Model.load(tiny_model(tmp_path / "m.gguf", **DECODERS[kind])) as model:
        with model.context(n_ctx=64, n_threads=1, n_threads_batch=1) as context:
            tokens = greedy(model, 16, context)
            logits = np.asarray(context.logits(-1))
        assert logits.shape == (model.n_vocab,)
        assert np.isfinite(logits).all() and logits.std() > 0.05
        assert len(set(tokens)) > 2, tokens  # not one token over and over
        assert not any(model.vocab.is_eog(token) for token in tokens)
        assert model.vocab.detokenize(model.vocab.tokenize(TEXT, add_special=False)).strip() == TEXT


def test_memories_are_of_the_kind_promised(tmp_path: Path) -> None:
    def load(arch: str, **options: Any) -> lc.Model:
        return lc.Model.load(tiny_model(tmp_path / f"{arch}.gguf", arch=arch, **options))

    with load("mamba") as mamba, load("qwen35", n_nextn=1) as qwen:
        assert mamba.is_recurrent and not mamba.is_hybrid
        assert qwen.is_hybrid and qwen.n_layer == 2 and qwen.n_layer_nextn == 1
    with load("gemma3", n_swa=16) as gemma, load("llama") as llama:
        assert gemma.n_swa == 16
        assert not (llama.is_recurrent or llama.is_hybrid) and llama.n_swa == 0
        assert (llama.n_layer, llama.n_embd, llama.n_head, llama.n_head_kv) == (2, 64, 4, 2)


@pytest.mark.parametrize("pooling", ["none", "mean", "cls", "last"])
def test_bert_embeds(tmp_path: Path, pooling: str) -> None:
    with lc.Model.load(tiny_model(tmp_path / "m.gguf", arch="bert", pooling=pooling)) as model:
        tokens = model.vocab.tokenize("The day, that you!")
        assert model.vocab.detokenize(tokens[1:-1]).replace(" ", "") == "theday,thatyou!"
        with model.context(n_ctx=64, embeddings=True) as context:
            assert context.pooling_type == pooling
            context.encode(batch_of(tokens))
            vector = context.embeddings(-1) if pooling == "none" else context.embeddings_seq(0)
            assert vector.shape == (64,) and np.isfinite(vector).all() and vector.std() > 0.1


@pytest.mark.parametrize("labels", [(), ("bad", "fair", "good")])
def test_bert_classifies(tmp_path: Path, labels: tuple[str, ...]) -> None:
    path = tiny_model(tmp_path / "m.gguf", arch="bert", pooling="rank", labels=labels)
    with lc.Model.load(path) as model, model.context(n_ctx=64, embeddings=True) as context:
        assert [label for label in model.cls_labels if label] == list(labels)
        context.encode(batch_of(model.vocab.tokenize("the day")))
        first = context.embeddings_seq(0).copy()
        context.encode(batch_of(model.vocab.tokenize("the word")))
        assert first.shape == (max(1, len(labels)),)
        assert not np.allclose(first, context.embeddings_seq(0))


def test_t5_encodes_and_decodes(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "m.gguf", arch="t5")
    with lc.Model.load(path) as model, model.context(n_ctx=64, n_threads=1, n_threads_batch=1) as context:
        assert model.has_encoder and model.has_decoder and model.decoder_start_token == 0
        seen = []
        for text in ("the day", "your time"):
            context.encode(batch_of(model.vocab.tokenize(text)))
            context.decode(batch_of([0]))
            seen.append(context.logits(-1).copy())
            context.memory.clear()
        assert not np.allclose(*seen)


@pytest.mark.parametrize("vocab", ["bpe", "spm"])
def test_special_tokens(tmp_path: Path, vocab: str) -> None:
    with lc.Model.load(tiny_model(tmp_path / "m.gguf", vocab=vocab), vocab_only=True) as model:
        v = model.vocab
        names = {
            "fim_pre": "<|fim_prefix|>", "fim_mid": "<|fim_middle|>", "fim_suf": "<|fim_suffix|>",
            "fim_pad": "<|fim_pad|>", "fim_rep": "<|repo_name|>", "fim_sep": "<|file_sep|>", "eot": "<|im_end|>",
        }  # fmt: skip
        for role, text in names.items():
            assert v.text(getattr(v, role)) == text
        assert len(v.tokenize("<|im_start|><think>", add_special=False, parse_special=True)) == 2
        assert len(v.tokenize("<|im_start|>", add_special=False)) > 1
        text = "".join(map(chr, range(0x21, 0x250))) + "\N{GRINNING FACE}"
        assert v.detokenize(v.tokenize(text, add_special=False)).strip() == text
        assert "im_start" in (model.chat_template() or "")


@pytest.mark.parametrize("vocab", ["bpe", "spm", "wpm", "ugm"])
@pytest.mark.parametrize("n_vocab", [500, 5000])
def test_vocabularies_of_any_size(tmp_path: Path, vocab: str, n_vocab: int) -> None:
    path = tiny_model(tmp_path / "m.gguf", vocab=vocab, n_vocab=n_vocab, n_layer=1)
    tokens = gguf.read(path).metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list) and len(tokens) == len(set(tokens)) == n_vocab
    with lc.Model.load(path) as model:
        assert model.n_vocab == n_vocab
        # a larger vocabulary is used: its tokens are reachable
        assert max(model.vocab.tokenize("the day of the word abc xyz", add_special=False)) > n_vocab // 10


def test_files_are_reproducible(tmp_path: Path) -> None:
    first, again, other = (
        tiny_model(tmp_path / f"{i}.gguf", arch="qwen35", seed=seed).read_bytes() for i, seed in enumerate((1, 1, 2))
    )
    assert first == again != other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.gguf", "1.gguf", "2.gguf"]


def test_metadata_can_be_put_over(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "m.gguf", metadata={"general.name": "mine", "my.key": [1, 2]}, chat_template=None)
    metadata = gguf.read(path).metadata
    assert metadata["general.name"] == "mine" and metadata["my.key"] == [1, 2]
    assert "tokenizer.chat_template" not in metadata


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"arch": "gpt9"}, "no tiny model of architecture"),
    "vocabulary": ({"vocab": "words"}, "vocab 'words' is not known"),
    "too few tokens": ({"n_vocab": 100}, "269 are always in it"),
    "storage": ({"dtype": "q3_K"}, "dtype 'q3_K'"),
    "heads": ({"n_embd": 64, "n_head": 5}, "no even multiple"),
    "groups": ({"n_head": 4, "n_head_kv": 3}, "no multiple of n_head_kv"),
    "layers": ({"n_layer": 0}, "n_layer is 0"),
    "interval": ({"arch": "qwen35", "full_attention_interval": 0}, "full_attention_interval is 0"),
    "someone else's option": ({"arch": "mamba", "n_expert": 4}, "mamba model has no n_expert"),
    "pooling": ({"arch": "bert", "pooling": "max"}, "pooling 'max'"),
    "labels": ({"arch": "bert", "labels": ["a"]}, "labels belong to a classifier"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(tmp_path: Path, name: str) -> None:
    options, message = WRONG[name]
    with pytest.raises(InvalidArgumentError, match=message):
        tiny_model(tmp_path / "m.gguf", **options)
    assert not list(tmp_path.iterdir())


def test_without_the_gguf_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "gguf":
            raise ImportError("No module named 'gguf'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UnsupportedError, match=r"llamacore\[test\]"):
        tiny_model(tmp_path / "m.gguf")


@pytest.mark.parametrize("kind", ["llama", "qwen35"])
def test_lora_changes_the_output(tmp_path: Path, kind: str) -> None:
    path = tiny_model(tmp_path / "m.gguf", arch=kind)
    lora_path = tiny_lora(tmp_path / "lora.gguf", path)
    with lc.Model.load(path) as model, model.context(n_ctx=64, n_threads=1, n_threads_batch=1) as context:
        tokens = model.vocab.tokenize(TEXT)
        context.decode(batch_of(tokens))
        plain = context.logits(-1).copy()
        with lc.LoraAdapter.load(model, lora_path) as adapter:
            context.set_lora({adapter: 1.0})
            context.memory.clear()
            context.decode(batch_of(tokens))
            changed = context.logits(-1).copy()
            context.set_lora({})
            context.memory.clear()
            context.decode(batch_of(tokens))
            assert np.allclose(context.logits(-1), plain, atol=1e-4)
    assert np.abs(changed - plain).max() > 0.1


def test_lora_needs_a_tensor_to_change(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "m.gguf")
    with pytest.raises(InvalidArgumentError, match="no tensor named nothing"):
        tiny_lora(tmp_path / "lora.gguf", path, targets=["nothing"])
    with pytest.raises(InvalidArgumentError, match="rank is 0"):
        tiny_lora(tmp_path / "lora.gguf", path, rank=0)


@pytest.mark.parametrize(
    ("size", "n_parameters"),
    [("0.02b", 19.6e6), ("0.04b", 39.5e6), ("0.1b", 100.9e6), ("0.1b-mtp", 106.9e6), ("0.16b-mtp", 159.5e6)],
)
def test_bench_models_have_the_size_they_are_named_for(tmp_path: Path, size: str, n_parameters: float) -> None:
    file = gguf.check(bench_model(tmp_path / "m.gguf", size=size, dtype="q4_0"))
    counted = sum(tensor.n_elements for tensor in file.tensors.values())
    assert counted == pytest.approx(n_parameters, rel=0.002)
    assert counted == pytest.approx(float(size.partition("b")[0]) * 1e9, rel=0.07)
    assert file.metadata.count("tokenizer.ggml.tokens") == 150_000
