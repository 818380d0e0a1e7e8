"""The byte-level BPE vocabulary of the demo model, laid out as the Qwen 3.5 models lay theirs out."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.corpus import END_OF_TEXT, stream

#: Value of `tokenizer.ggml.pre`; llama.cpp maps it to `SPLIT`.
PRE = "qwen35"
#: How text is cut before merging: the expression that belongs to `PRE`.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
#: Tokens that stand for structure and never for text.
CONTROL_TOKENS = (
    END_OF_TEXT,
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
)
#: Tokens that are text of their own and are found in any text.
MARK_TOKENS = (
    "<think>",
    "</think>",
    "<tools>",
    "</tools>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)


def assemble(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Makes a tokenizer of plain tokens and merges, and of the added tokens in the order of their ids.

    Args:
        vocab: Ids of the plain tokens, which come first.
        merges: Merges in the order of their rank.

    Returns:
        Tokenizer: Encodes as llama.cpp does for the same tokens and merges with `parse_special` set.
    """
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in MARK_TOKENS])
    return tokenizer


def train(n_vocab: int, seed: str = "tokenizer-0", documents: int = 20000) -> Tokenizer:
    """Trains the vocabulary on fresh text of the generator.

    Args:
        n_vocab: Tokens in all, the added ones included.
        seed: Seed of the text.
        documents: Length of the text.

    Returns:
        Tokenizer: With exactly `n_vocab` tokens.

    Raises:
        ValueError: The text has too few different words for `n_vocab`.
    """
    added = CONTROL_TOKENS + MARK_TOKENS
    tokenizer = assemble({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab - len(added),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )

    def plain_text() -> list[str]:
        texts = []
        for text in islice(stream(seed), documents):
            for token in added:
                text = text.replace(token, "\n")
            texts.append(text)
        return texts

    blank = Tokenizer(models.BPE())
    blank.pre_tokenizer = tokenizer.pre_tokenizer
    blank.train_from_iterator(plain_text(), trainer)
    plain = blank.get_vocab()
    if len(plain) != n_vocab - len(added):
        raise ValueError(f"the text gives {len(plain)} plain tokens; asked for {n_vocab - len(added)}: lower n_vocab")
    return assemble(plain, merges_of(blank))


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The merges of a BPE tokenizer in the order of their rank."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of the tokens and merges in a GGUF file that `tools.export` wrote."""
    reader = gguf.GGUFReader(path)
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    merges = [tuple(merge.split(" ")) for merge in reader.get_field("tokenizer.ggml.merges").contents()]
    added = set(CONTROL_TOKENS + MARK_TOKENS)
    return assemble({token: i for i, token in enumerate(tokens) if token not in added}, merges)
