"""llama.cpp cuts text into the tokens that the `tokenizers` library cuts it into."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import pytest

import llamacore as lc

SAMPLE = """
the Once don't I'VE we'll café naïve ÉCOLE Straße Привет мир 你好 世界 日本語 こんにちは 한국어
ไทย हिन्दी עברית العربية e\u0301 a\u0308\u0323 \u0301 x\u200dy 🙂 👩‍👩‍👧 🇫🇷 ☃️ ½ ² Ⅻ ٣ 1 23 4567 0x1F 3.14 -7 1e9
__init__ snake_case CamelCase fox a->b x=={y}; // /* */ # $ % & ' " \\ ` ~ ^ | <b> </b> << >> ... !!! ?! … — – € £ µ º ª
"""
WORDS = SAMPLE.split()
SPACES = (" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "")
MARKS = ("<think>", "</think>", "<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>")
CONTROLS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|fim_prefix|>")


def draw_text(rng: random.Random) -> str:
    """Draws words of many scripts, code, white space, control characters and plain characters of the lower planes."""
    parts: list[str] = []
    for _ in range(rng.randrange(1, 30)):
        roll = rng.random()
        if roll < 0.6:
            parts.append(rng.choice(WORDS))
        elif roll < 0.7:
            first, last = rng.choice(((0, 0x80), (0xA1, 0x250), (0x4E00, 0x9FA0)))
            parts.append(chr(rng.randrange(first, last)))
        elif roll < 0.75:
            parts.append(rng.choice(MARKS))
        else:
            parts.append("".join(rng.choices("abcXYZ019 .,'\n", k=rng.randrange(1, 9))))
        parts.append(rng.choice(SPACES))
    return "".join(parts)


@pytest.mark.parametrize("with_control_tokens", [False, True])
def test_tokens_equal(with_control_tokens: bool, demo: lc.Model, demo_path: Path) -> None:
    """Both give the same ids for 1,000 strings, and the ids give the strings back."""
    from tools.tokenizer import read_tokenizer

    tokenizer = read_tokenizer(demo_path)
    rng = random.Random(int(with_control_tokens))
    for _ in range(1000):
        text = draw_text(rng)
        if with_control_tokens:
            text = "".join(rng.choice((*CONTROLS, "")) + text[i : i + 20] for i in range(0, len(text), 20))
        ids = demo.vocab.tokenize(text, add_special=True, parse_special=with_control_tokens)
        assert ids == tokenizer.encode(text).ids, text
        assert demo.vocab.detokenize_bytes(ids).decode() == text


def test_control_tokens_in_text_are_text(demo: lc.Model) -> None:
    """Without `parse_special`, what a user writes never becomes a control token."""
    control = {demo.vocab.tokenize(token, parse_special=True)[0] for token in CONTROLS}
    for token in CONTROLS:
        assert not control & set(demo.vocab.tokenize(f"a{token}b"))


def test_special_tokens(demo: lc.Model) -> None:
    """The vocabulary ends turns with `<|im_end|>`, adds nothing of its own and knows the tokens for filling in."""
    vocab = demo.vocab
    assert vocab.tokenize("<|im_end|>", parse_special=True) == [vocab.eos] == [vocab.eot]
    assert vocab.tokenize("", add_special=True) == []
    assert vocab.is_eog(vocab.tokenize("<|endoftext|>", parse_special=True)[0])
    assert [vocab.text(token) for token in (vocab.fim_pre, vocab.fim_mid, vocab.fim_suf) if token is not None] == [
        "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    ]  # fmt: skip


def test_corpus_is_well_covered(demo: lc.Model) -> None:
    """On text of the training's kind, a token covers at least three characters and a half."""
    from tools.corpus import stream

    texts = list(islice(stream("held-out-tokenizer"), 200))
    assert sum(map(len, texts)) > 3.5 * sum(len(demo.vocab.tokenize(text, parse_special=True)) for text in texts)
